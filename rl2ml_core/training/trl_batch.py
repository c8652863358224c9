"""A batch that TRL has scored: rewards by group → advantages, and TRL's own logs corrected for them. See docs/trl.md.

Shapes: G groups of N rollouts, of all ranks.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rl2ml_core.errors import InvalidInput
from rl2ml_core.training.advantages import GroupAdvantages, group_advantages
from rl2ml_core.training.lookup import Tables

__all__ = ["Batch", "correct_logs", "reward_columns", "rows_of_rank"]


def reward_columns(scored: Sequence[Tensor], names: Sequence[str], correctness: str, size: int) -> dict[str, Tensor]:
    """Rewards by function, [G, N]; NaN where a function gave None.

    Args:
        scored: what `_calculate_rewards` gave during the batch, [rows, functions] each.
        names: of the functions.
        correctness: the one that must give 0, 1 or None.
        size: N.

    Raises:
        InvalidInput: the batch was scored several times or not at all, or such a reward is neither.
    """
    if len(scored) != 1:
        raise InvalidInput(
            "_calculate_rewards must be called once per batch, through RL2MLMixin; "
            f"got {len(scored)} calls in one _generate_and_score_completions of the trainer below",
            field="rewards",
        )
    columns = dict(zip(names, scored[0].T.unflatten(1, (-1, size)), strict=True))
    correct = columns[correctness]
    wrong = ~correct.isnan() & (correct != 0) & (correct != 1)
    if wrong.any():
        raise InvalidInput(
            f"reward function {correctness} must give 1 (correct), 0 (wrong) or None (cannot tell), as it is the "
            f"correctness that advantages count; got {correct[wrong][0].item():g}. Let it return float(reward >= "
            "threshold), or name another function with correctness=; graded rewards can be added with reward_weights",
            field="rewards",
        )
    return columns


class Batch(NamedTuple):
    """What a batch is trained on.

    Args:
        advantages: [G, N]; 0 where correctness is missing.
        rewards: correctness + Σ weight · value, [G, N]; NaN where correctness is missing.
        groups: those that have a reward. Others train nothing.
        gamma: γ in force; None where advantages are not those of an `Objective`.
    """

    advantages: Tensor
    rewards: Tensor
    groups: GroupAdvantages
    gamma: float | None

    @classmethod
    def of(
        cls, objective: Tables, columns: Mapping[str, Tensor], correctness: str, shaping: Mapping[str, float]
    ) -> "Batch":
        """Of rewards by function, and the weights of those that shape."""
        correct = columns[correctness]
        known = ~correct.isnan().all(1)
        parts = {name: columns[name][known] for name in (correctness, *shaping)}
        groups = group_advantages(objective, parts, correctness=correctness, shaping=shaping)
        advantages = torch.zeros_like(correct)
        advantages[known] = groups.advantages
        rewards = sum((weight * columns[name].nan_to_num() for name, weight in shaping.items()), start=correct)
        return cls(advantages, rewards, groups, getattr(objective, "gamma", None))


def rows_of_rank(advantages: Tensor, rank: int, rows: int, output: Mapping[str, Any]) -> Tensor:
    """A rank's share of the advantages, as TRL cuts the batch.

    Raises:
        InvalidInput: responses were dropped or added after they were scored.
    """
    if len(output["completion_ids"]) != rows:
        raise InvalidInput(
            f"a batch must keep the rows that were scored, {rows}; got {len(output['completion_ids'])}. A trainer that "
            "drops or adds rows in _generate_and_score_completions changes which groups the advantages count",
            field="completion_ids",
        )
    return advantages.flatten()[rank * rows : (rank + 1) * rows]


def correct_logs(metrics: dict[str, list[float]], logs: dict[str, Any], batch: Batch) -> None:
    """Replace what TRL has just logged of its own rewards and advantages, and add ours under rl2ml/.

    Args:
        metrics: of training or evaluation, a list per name whose last entries are this batch's.
        logs: the table of completions, a column per name whose last entries are this batch's.
        batch: of all ranks.
    """
    column: deque[float] = logs["advantages"]
    for _ in range(min(len(column), batch.advantages.numel())):
        column.pop()
    column.extend(batch.advantages.flatten().tolist())

    scored = batch.rewards[~batch.rewards.isnan().all(1)]
    known = scored[~scored.isnan()].double()
    spread = scored.nan_to_num(nan=-float("inf")).amax(1) - scored.nan_to_num(nan=float("inf")).amin(1)
    values = {
        "reward": known.mean(),
        "reward_std": known.std() if len(known) > 1 else known.mean() * float("nan"),
        "frac_reward_zero_std": (spread < 1e-8).double().mean(),
    }
    for name, value in values.items():
        if metrics.get(name):
            metrics[name][-1] = value.item()
    ours = batch.groups.metrics() if len(scored) else {}
    ours["missing_rewards"] = batch.rewards.isnan().double().mean().item()  # groups without any reward, too
    if batch.gamma is not None:
        ours["gamma"] = batch.gamma
    for name, number in ours.items():
        metrics[f"rl2ml/{name}"].append(number)
