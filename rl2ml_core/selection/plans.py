"""What a plan of a budget says: plain values, with their sentences."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rl2ml_core.selection.uncertainty import Interval
from rl2ml_core.version import METHOD_VERSION, __version__

__all__ = ["BudgetPlan", "Planned", "Sensitivity"]

#: A share of the gain below which a difference does not matter.
_NEAR = 0.01
_HABITS = (2, 4, 8, 16, 32, 64)


@dataclass(frozen=True)
class Planned:
    """One number of rollouts per prompt, with the γ that is best for it."""

    num_rollouts: int  # N
    prompts_per_step: int  # G
    rollouts_spent: float  # what a step costs, in rollouts: G times N and the cost of a prompt
    gamma: float  # best for one step
    largest_gamma: float  # that the search and the demands allow
    relative_gain: float  # per step, relative to the best N's
    gain_per_rollout: float  # the same per rollout spent
    loss_interval: Interval | None  # of what it loses against the best N; prompts, κ and ρ uncertain
    equal_group_share: float  # groups with equal rewards, which teach trainers that center on the group's mean nothing

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return asdict(self)


@dataclass(frozen=True)
class Sensitivity:
    """The plan were one unknown known."""

    value: float  # of κ or ρ
    num_rollouts: int  # the best N then
    gamma: float  # and its γ
    loss: float  # what the planned N and γ would lose then
    split_loss: float  # what the planned N would with the γ that is best for it then


@dataclass(frozen=True)
class BudgetPlan:
    """How to spend a budget of rollouts per step.

    `best` is None and the frontier empty where nothing can be planned: status "uninformative" (nothing to choose by) or
    "infeasible" (demands that no N meets; the summary says which to relax, and by how much).
    """

    status: str  # "planned", "infeasible" or "uninformative"
    summary: str
    rollouts_per_step: int
    best: Planned | None
    frontier: tuple[Planned, ...]
    expected_regret: float | None  # mean share of the gain that the planned N loses; None without draws
    kappa_sensitivity: tuple[Sensitivity, ...]
    cosine_sensitivity: tuple[Sensitivity, ...]
    assumptions: tuple[str, ...]

    @classmethod
    def without(cls, status: str, reason: str, rollouts_per_step: int) -> "BudgetPlan":
        """No plan, and why."""
        return cls(status, f"No plan: {reason}.", rollouts_per_step, None, (), None, (), (), ())

    @property
    def num_rollouts(self) -> int | None:
        """The planned N."""
        return None if self.best is None else self.best.num_rollouts

    @property
    def near_optimal(self) -> tuple[int, ...]:
        """Every N within 1 % of the best."""
        return tuple(row.num_rollouts for row in self.frontier if row.relative_gain >= 1 - _NEAR)

    def loss_of(self, num_rollouts: int) -> float | None:
        """What an N loses against the best one, as a share of the gain; None where it was not to choose from."""
        return next((1 - row.relative_gain for row in self.frontier if row.num_rollouts == num_rollouts), None)

    def to_dict(self) -> dict[str, Any]:
        """The JSON form: the service's answer."""
        content = {name: value for name, value in asdict(self).items() if name not in ("best", "frontier")}
        return {
            "method_version": METHOD_VERSION,
            "core_version": __version__,
            "status": content.pop("status"),
            "summary": content.pop("summary"),
            "rollouts_per_step": content.pop("rollouts_per_step"),
            "best": None if self.best is None else self.best.to_dict(),
            "near_optimal": list(self.near_optimal),
            "frontier": [row.to_dict() for row in self.frontier],
            **{name: list(value) if isinstance(value, tuple) else value for name, value in content.items()},
        }


def plan_summary(budget: int, best: Planned, frontier: Sequence[Planned]) -> str:
    """The plan in words: the split, what other N cost, and how wide the choice is."""
    others = [row for row in frontier if row.num_rollouts in _HABITS and row.num_rollouts != best.num_rollouts]
    near = [row.num_rollouts for row in _around(best, frontier)]
    split = (
        f"Spend {_counted(budget, 'rollout')} per step on {_counted(best.prompts_per_step, 'prompt')} × "
        f"{_counted(best.num_rollouts, 'rollout')}"
    )
    costs = ", ".join(f"N = {row.num_rollouts}: {_percent(1 - row.relative_gain)}" for row in others)
    lost = f" Others lose per step: {costs}." if costs else ""
    if len(near) == len(frontier) > 1:
        return f"{split}; N hardly matters here: all from {near[0]} to {near[-1]} are within 1 % of the best.{lost}"
    width = f" (from {near[0]} to {near[-1]} within 1 %)" if len(near) > 1 else ""
    more = ""
    if len(frontier) > 1 and best is frontier[-1]:
        more = " It is the largest N to choose from: more may be better."
    if best.num_rollouts == 1:
        more = " With one rollout per prompt every γ is plain RL, and most trainers want two or more."
    return f"{split}{width}.{lost}{more}"


def _around(best: Planned, frontier: Sequence[Planned]) -> Sequence[Planned]:
    """The rows on both sides of the best that are within 1 % of it, without a gap."""
    first = last = next(i for i, row in enumerate(frontier) if row is best)
    while first and frontier[first - 1].relative_gain >= 1 - _NEAR:
        first -= 1
    while last + 1 < len(frontier) and frontier[last + 1].relative_gain >= 1 - _NEAR:
        last += 1
    return frontier[first : last + 1]


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}{'s' * (number != 1)}"


def _percent(share: float) -> str:
    percent = 100 * share
    return f"{percent:.0f} %" if percent >= 0.95 else f"{percent:.1f} %"
