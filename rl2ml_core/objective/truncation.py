"""Which truncation orders M keep the weight of hard prompts and bound that of lone successes. App. C.

The untruncated weight p^−γ is what γ promises; order M delivers w_{γ,M}(p) of it, and the share that is missing is
largest on the hardest prompts. A larger M misses less, and makes a lone success heavier: α_1 grows with M. γ is the
family parameter, not a discount factor. Source of the exact forms: `docs/equations.md`, E27.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any, SupportsIndex

import numpy as np
import numpy.typing as npt
from scipy.special import betaincc, gammainccinv

from rl2ml_core.checks import Array, finite_array, finite_number, integer
from rl2ml_core.objective.family import MAX_GAMMA, MAX_ROLLOUTS, log_gamma_ratios, update_scales

__all__ = [
    "OrderScales",
    "TruncationWindow",
    "affordable_order",
    "needed_order",
    "truncation_tail",
    "truncation_window",
]

#: Integers up to here are exact in float64.
MAX_ORDER = 1 << 53
#: Least pass rate and least tail: with them the needed order, below 1e14, stays well within `MAX_ORDER`.
_LEAST = 1e-12
#: Bounds are met up to rounding: at γ = 1, p = 1/2 a tail of 1/4 needs M = 2, whatever the last bit says.
_ROUNDING = 1e-12


def truncation_tail(pass_rate: npt.ArrayLike, gamma: npt.ArrayLike, order: SupportsIndex) -> Array:
    """Relative tail 1 − p^γ w_{γ,M}(p) = I_{1−p}(M, γ): the share of the weight p^−γ that truncation removes. E27.

    0 at γ = 0 and at p = 1; 1 at p = 0 for γ > 0. Falls with p and M, grows with γ. Relative error ≤ 1e-12.

    Args:
        pass_rate: success probabilities p ∈ [0, 1], any shape.
        gamma: γ ∈ [0, 20], any shape that broadcasts with `pass_rate`.
        order: M, from 1 to 2^53.

    Returns:
        The tails, of the broadcast shape; within [0, 1].

    Raises:
        InvalidInput: a value outside these ranges.
    """
    p = finite_array(pass_rate, "pass_rate", minimum=0, maximum=1)
    g = finite_array(gamma, "gamma", minimum=0, maximum=MAX_GAMMA)
    terms = float(integer(order, "order", minimum=1, maximum=MAX_ORDER))
    return np.where(g > 0, betaincc(np.where(g > 0, g, 1), terms, p), 0.0)


def needed_order(gamma: float, least_pass_rate: float, tail: float, approximate: bool = False) -> int:
    """M_need: the least order M with a relative tail of at most `tail` at the least pass rate. App. C, E27.

    Exact by default, by bisection (the tail falls with M): the answer's tail is at most δ and its predecessor's is not,
    to 1e-12 of δ, which at p_min below 1e-10 or so no longer tells neighboring orders apart. It may exceed any group
    size, up to 1e14. The paper's approximation ⌈x/p_min⌉, x = Q⁻¹(γ, δ), errs by about (x+γ−1)/2: over p_min ≤ 0.1
    and δ from 0.001 to 0.95, by −1 to +5 for γ ≤ 2 (79 for 74) and by up to +29 for γ ≤ 20 (368 for 339).

    Args:
        gamma: γ ∈ [0, 20]; γ = 0 needs M = 1.
        least_pass_rate: p_min ∈ [1e-12, 1], the hardest prompts that must count.
        tail: δ ∈ [1e-12, 1], the share of their weight that may be missing.
        approximate: the paper's approximation instead.

    Raises:
        InvalidInput: a value outside these ranges.
    """
    g = _gamma(gamma)
    p = finite_number(least_pass_rate, "least_pass_rate", minimum=_LEAST, maximum=1)
    allowed = finite_number(tail, "tail", minimum=_LEAST, maximum=1) * (1 + _ROUNDING)
    if g == 0:
        return 1
    if approximate:
        return max(1, math.ceil(float(gammainccinv(g, min(allowed, 1.0))) / p * (1 - _ROUNDING)))
    enough = 1
    while betaincc(g, enough, p) > allowed:
        enough *= 2
    too_few = enough // 2  # 0 where one order suffices
    while enough - too_few > 1:
        middle = (too_few + enough) // 2
        if betaincc(g, middle, p) > allowed:
            too_few = middle
        else:
            enough = middle
    return enough


def affordable_order(gamma: float, num_rollouts: SupportsIndex, largest_scale: float) -> int | None:
    """M_cap: the largest order M ≤ N with α_1 = (1/N) Σ_{m<M} c_m at most `largest_scale`, or None. App. C, E27.

    α_1 is the update scale of a lone success. No order has α_1 below 1/N; at γ = 0 every order has just that.

    Args:
        gamma: γ ∈ [0, 20].
        num_rollouts: N, 1 to 65,536.
        largest_scale: A_max > 0, the bound on α_1.

    Raises:
        InvalidInput: a value outside these ranges.
    """
    g = _gamma(gamma)
    n = integer(num_rollouts, "num_rollouts", minimum=1, maximum=MAX_ROLLOUTS)
    allowed = finite_number(largest_scale, "largest_scale", above=0) * (1 + _ROUNDING)
    logs = log_gamma_ratios(np.array(g), n)
    lone = np.exp(logs - logs[0]) / n  # Σ_{m<M} c_m = Γ(M+γ)/(Γ(M)Γ(1+γ)), which grows with M
    return int(np.searchsorted(lone, allowed, side="right")) or None


@dataclass(frozen=True)
class OrderScales:
    """What one truncation order does: the update scales of a group and the tail at the least pass rate."""

    order: int  # M
    first_scale: float  # α_1, of a lone success
    largest_scale_reached: float  # max over K of α_K; α_1 does not bound it once M < N
    largest_at: int  # the least K that reaches it
    tail: float  # 1 − p^γ w_{γ,M}(p) at the least pass rate

    @classmethod
    def of(cls, gamma: float, num_rollouts: int, order: int, least_pass_rate: float) -> "OrderScales":
        scales = update_scales(gamma, num_rollouts, order)
        largest = float(scales.max())
        at = int(np.argmax(scales >= largest * (1 - _ROUNDING))) + 1  # at γ = 1 all are 1 up to rounding
        tail = float(truncation_tail(least_pass_rate, gamma, order))
        return cls(order, float(scales[0]), largest, at, tail)


@dataclass(frozen=True)
class TruncationWindow:
    """The truncation orders that meet both bounds, M_need ≤ M ≤ M_cap, and what happens at both ends. E27.

    The upper end is the one to train with: no other feasible order loses less. `lower`, `upper` and their scales are
    None where no order is feasible.
    """

    gamma: float
    num_rollouts: int
    least_pass_rate: float
    tail: float
    largest_scale: float  # the bound on α_1
    needed: int  # M_need, exact; may exceed num_rollouts
    needed_approximate: int  # the paper's ⌈Q⁻¹(γ, δ)/p_min⌉
    affordable: int | None  # M_cap; None where α_1 exceeds the bound even at M = 1
    lower: int | None
    upper: int | None
    at_lower: OrderScales | None
    at_upper: OrderScales | None

    @property
    def sentence(self) -> str:
        """The window in words, with the reason where it is empty."""
        if self.affordable is None:
            return (
                f"No order is feasible: even M = 1 gives a lone success the update scale 1/N = "
                f"{1 / self.num_rollouts:.3g}, above {self.largest_scale:g}."
            )
        need = (
            f"pass rates down to {self.least_pass_rate:g} need M ≥ {self.needed:,} to miss at most "
            f"{100 * self.tail:.3g} % of their weight"
        )
        if self.at_upper is None:
            limit = (
                f"a group has {self.num_rollouts:,} rollouts"
                if self.affordable == self.num_rollouts
                else f"a bound of {self.largest_scale:g} on α_1 allows M ≤ {self.affordable:,}"
            )
            return f"No order is feasible: {need}, and {limit}."
        end = self.at_upper
        if end.order == self.num_rollouts:
            advice = f"Train without truncation, M = N = {end.order:,}"
        else:
            advice = f"Truncate at M = {end.order:,}"
        words = f"{advice}: {need}, and M = {end.order:,} gives a lone success the update scale {end.first_scale:.3g}."
        if end.largest_scale_reached > self.largest_scale * (1 + _ROUNDING):
            words += (
                f" The largest scale is {end.largest_scale_reached:.3g}, at {end.largest_at:,} successes, above the "
                f"bound of {self.largest_scale:g}: only α_1 is bounded."
            )
        return words

    def to_dict(self) -> dict[str, Any]:
        """The fields and the sentence, as plain values."""
        return {**asdict(self), "sentence": self.sentence}


def truncation_window(
    gamma: float, num_rollouts: SupportsIndex, *, least_pass_rate: float, tail: float, largest_scale: float
) -> TruncationWindow:
    """The feasible truncation orders M_need ≤ M ≤ min(M_cap, N). App. C, E27.

    Args:
        gamma: γ ∈ [0, 20].
        num_rollouts: N, 1 to 65,536.
        least_pass_rate: p_min ∈ [1e-12, 1], the hardest prompts that must count.
        tail: δ ∈ [1e-12, 1], the share of their weight p^−γ that may be missing.
        largest_scale: A_max > 0, the bound on α_1. It does not bound the largest α_K once M < N (γ = 1.7, M = 8,
            N = 16: α_1 = 1.49, largest 2.25), so both are reported.

    Raises:
        InvalidInput: a value outside these ranges.
    """
    n = integer(num_rollouts, "num_rollouts", minimum=1, maximum=MAX_ROLLOUTS)
    needed = needed_order(gamma, least_pass_rate, tail)
    affordable = affordable_order(gamma, n, largest_scale)
    lower = upper = at_lower = at_upper = None
    if affordable is not None and needed <= affordable:
        lower, upper = needed, affordable
        at_upper = OrderScales.of(gamma, n, upper, least_pass_rate)
        at_lower = at_upper if lower == upper else OrderScales.of(gamma, n, lower, least_pass_rate)
    return TruncationWindow(
        gamma=float(gamma),
        num_rollouts=n,
        least_pass_rate=float(least_pass_rate),
        tail=float(tail),
        largest_scale=float(largest_scale),
        needed=needed,
        needed_approximate=needed_order(gamma, least_pass_rate, tail, approximate=True),
        affordable=affordable,
        lower=lower,
        upper=upper,
        at_lower=at_lower,
        at_upper=at_upper,
    )


def _gamma(gamma: float) -> float:
    return finite_number(gamma, "gamma", minimum=0, maximum=MAX_GAMMA)
