"""Advantages → loss. Shapes: B responses of up to T tokens; a batch [G, N, T] of whole groups serves as well.

The gradient is the unbiased estimator ĝ = (1/B) Σ_i A_i Σ_t ∇log π of docs/equations.md, E30, because the divisor is a
constant. Dividing by lengths (a mean over tokens, of a response or of the batch) makes it another estimator.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.compiler import is_compiling

from rl2ml_core.checks import finite_number
from rl2ml_core.errors import InvalidInput

__all__ = ["RL2MLLoss"]

_LARGEST_DRIFT = 80.0  # e^80 = 5e34, within float32


@dataclass(frozen=True)
class RL2MLLoss:
    """−(1/B) Σ_i A_i Σ_t log π(token t of response i), and its importance-ratio forms.

    Args:
        clip: PPO's clipping of the ratio π/π_old to [1 − low, 1 + high]: one number for both, or (low, high). It needs
            `old_log_probs`. Where it clips, tokens lose their gradient, other ones for A > 0 than for A < 0: the
            estimator is then biased. None: the ratio as it is.
        dual_clip: bound, above 1, on the ratio of negative advantages. It caps what failures weigh once the policy
            has moved, and nothing that successes weigh: biased likewise.
        length_budget: a number of tokens to divide by as well, the same for all responses at all steps (Dr. GRPO's
            maximum length): a change of learning rate, not of estimator. None: 1.
        check: refuse values that are not finite, one transfer to the host per call. Compiled code never checks: its
            loss is NaN then.

    Raises:
        InvalidInput: a bound outside its range.
    """

    clip: float | tuple[float, float] | None = None
    dual_clip: float | None = None
    length_budget: float | None = None
    check: bool = True

    def __post_init__(self) -> None:
        if self.clip is not None:
            pair = self.clip if isinstance(self.clip, tuple) else (self.clip, self.clip)
            if len(pair) != 2:
                raise InvalidInput(f"clip must be a number or (low, high); got {self.clip!r:.60}", field="clip")
            low = finite_number(pair[0], "clip (low)", above=0, maximum=1)
            object.__setattr__(self, "clip", (low, finite_number(pair[1], "clip (high)", above=0)))
        if self.dual_clip is not None:
            object.__setattr__(self, "dual_clip", finite_number(self.dual_clip, "dual_clip", above=1))
        if self.length_budget is not None:
            object.__setattr__(self, "length_budget", finite_number(self.length_budget, "length_budget", above=0))

    def __call__(
        self,
        log_probs: Tensor,
        mask: Tensor,
        advantages: Tensor,
        old_log_probs: Tensor | None = None,
        *,
        num_responses: float | None = None,
    ) -> Tensor:
        """The loss, a scalar of at least float32.

        Args:
            log_probs: log π of each token of the responses, [..., T], any floating point dtype. What the mask leaves
                out may be anything, NaN and −∞ included.
            mask: [..., T]: which tokens belong to a response; bool, or 0 and 1 (other numbers weigh tokens, which is
                outside the theory).
            advantages: one per response, [...]; constants to the gradient.
            old_log_probs: log π_old of the policy that drew the responses, [..., T]: the loss becomes
                −(1/B) Σ_i A_i Σ_t π/π_old. At π = π_old its gradient is the one above; elsewhere a ratio of single
                tokens corrects to first order alone.
            num_responses: B of the whole step, where one call sees a part of it: with gradient accumulation the
                responses of all micro-batches; where ranks average their gradients (DDP) all ranks' responses divided
                by the number of ranks. None: the rows of this call, which is right for one call per step, and for
                ranks with equally many rows.

        Raises:
            InvalidInput: shapes that differ, clipping without `old_log_probs`, or values that are not finite.
        """
        if not (
            mask.shape == log_probs.shape
            and advantages.shape == log_probs.shape[:-1]
            and log_probs.is_floating_point()
            and (not self._clips if old_log_probs is None else old_log_probs.shape == log_probs.shape)
        ):
            self._refuse(log_probs, mask, advantages, old_log_probs)
        compiling = is_compiling()
        if num_responses is None:
            num_responses = advantages.numel() or 1
        elif not compiling:
            num_responses = finite_number(num_responses, "num_responses", above=0)
        # The sign and the divisor go with the advantages: what is left is a sum. Never in half precision.
        accurate = torch.float64 if log_probs.dtype == torch.float64 else torch.float32
        weights = advantages.detach().to(log_probs.device, accurate) * (
            -1 / (num_responses * (self.length_budget or 1))
        )
        checked = self.check and not compiling
        if old_log_probs is not None:
            drift = torch.where(mask.bool(), log_probs.to(accurate) - old_log_probs.detach().to(accurate), 0)
            loss = _select(self._surrogate(drift, weights[..., None]), mask).sum()
            # Clipping hides infinities of the drift from the loss, but not from its gradient.
            finite = not checked or math.isfinite((loss.detach() + 0 * drift.detach().sum()).item())
        else:
            # Multiplying is faster than selecting, but NaN · 0 is NaN: where that happens, select after all.
            fast = checked and mask.dtype == log_probs.dtype
            # No product of matrices: autocast would round it to its own dtype.
            sums = (log_probs * mask if fast else _select(log_probs, mask)).sum(-1, dtype=accurate)
            loss = (sums * weights).sum()
            finite = not checked or math.isfinite(loss.item())
            if fast and not finite:
                loss = (_select(log_probs, mask).sum(-1, dtype=accurate) * weights).sum()
                finite = math.isfinite(loss.item())
        if not finite:
            _explain(log_probs, mask, advantages, old_log_probs)
        return loss

    def _surrogate(self, drift: Tensor, weights: Tensor) -> Tensor:
        """Loss of each token, [..., T], from the log of its ratio and minus its advantage, [..., 1]."""
        # Below overflow: the gradient of a clipped token is 0, but 0 · ∞ would be NaN.
        ratio = drift.clamp(max=_LARGEST_DRIFT).exp()
        value = weights * ratio
        if isinstance(self.clip, tuple):
            low, high = self.clip
            value = torch.maximum(value, weights * ratio.clamp(1 - low, 1 + high))
        if self.dual_clip is not None:
            value = torch.where(weights > 0, torch.minimum(value, weights * self.dual_clip), value)
        return value

    @property
    def _clips(self) -> bool:
        return self.clip is not None or self.dual_clip is not None

    def _refuse(self, log_probs: Tensor, mask: Tensor, advantages: Tensor, old_log_probs: Tensor | None) -> None:
        """Say which arguments do not fit together."""
        if not log_probs.is_floating_point():
            raise InvalidInput(f"log_probs must be floating point; got {log_probs.dtype}", field="log_probs")
        if old_log_probs is None and self._clips:
            raise InvalidInput("old_log_probs must be given where ratios are clipped; got None", field="old_log_probs")
        shape = list(log_probs.shape)
        for name, value in (("mask", mask), ("old_log_probs", old_log_probs)):
            if value is not None and list(value.shape) != shape:
                raise InvalidInput(
                    f"{name} must have the shape {shape} of log_probs; got {list(value.shape)}", field=name
                )
        raise InvalidInput(
            f"advantages must be one per response, of shape {shape[:-1]}; got {list(advantages.shape)}",
            field="advantages",
        )


def _select(tokens: Tensor, mask: Tensor) -> Tensor:
    kept = torch.where(mask.bool(), tokens, 0)
    return kept if mask.dtype == torch.bool else kept * mask


def _explain(log_probs: Tensor, mask: Tensor, advantages: Tensor, old_log_probs: Tensor | None) -> None:
    """Raise with the first value to blame, by its index."""
    values = {"mask": mask, "log_probs": log_probs, "old_log_probs": old_log_probs, "advantages": advantages}
    for name, value in values.items():
        if value is None:
            continue
        wrong = (~value.isfinite() if name in ("mask", "advantages") else mask.bool() & ~value.isfinite()).nonzero()
        if len(wrong):
            index = wrong[0].tolist()
            raise InvalidInput(
                f"{name} must be finite; got {value[tuple(index)].item():g} at index {', '.join(map(str, index))}",
                field=name,
                index=index[0],
            )
    raise InvalidInput("the loss must be finite; got finite values that overflow in it", field="log_probs")
