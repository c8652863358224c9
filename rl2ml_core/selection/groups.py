"""Prompts from several sources: the joint answer, one per source, and whether they differ by more than noise."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from scipy.special import ndtri

from rl2ml_core.checks import finite_number
from rl2ml_core.errors import InvalidInput
from rl2ml_core.pilot.histogram import PilotHistogram
from rl2ml_core.pilot.tables import MAX_GROUPS
from rl2ml_core.selection.metrics import Metric
from rl2ml_core.selection.recommend import Recommendation, recommend
from rl2ml_core.selection.uncertainty import Interval

__all__ = ["GroupAnswer", "GroupedRecommendation", "recommend_groups"]


#: Draws that must lie outside an interval for its ends to be their quantiles.
_DRAWS_BEYOND = 20


@dataclass(frozen=True, eq=False)
class GroupAnswer:
    """What one group would train with alone, and how that compares with the others."""

    name: str
    num_prompts: float
    recommendation: Recommendation
    #: Best γ of this group less that of all others: an interval at a level that allows for the number of groups; None
    #: where either has no draws.
    difference: Interval | None
    #: Share of this group's criterion that the joint γ loses with this group's estimator; None without an answer.
    loss_of_joint: float | None

    @property
    def differs(self) -> bool | None:
        """Whether this group's best γ differs from the others' by more than noise; None where none was compared."""
        return None if self.difference is None else not self.difference.lower <= 0 <= self.difference.upper

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "name": self.name,
            "num_prompts": self.num_prompts,
            "differs": self.differs,
            "difference": None if self.difference is None else asdict(self.difference),
            "loss_of_joint": self.loss_of_joint,
            "recommendation": self.recommendation.to_dict(),
        }


@dataclass(frozen=True, eq=False)
class GroupedRecommendation:
    """The joint recommendation and one per group, by name."""

    joint: Recommendation
    groups: tuple[GroupAnswer, ...]

    @property
    def differ(self) -> bool | None:
        """Whether any group differs from the others by more than noise; None where none was compared."""
        compared = [group.differs for group in self.groups if group.differs is not None]
        return any(compared) if compared else None

    @property
    def summary(self) -> str:
        """In a sentence."""
        if len(self.groups) == 1:
            return "There is only one group: the joint answer is its own."
        left = sum(group.differs is None for group in self.groups)
        rest = f" {left} of {len(self.groups)} could not be compared: no answer, or no draws." if left else ""
        if left == len(self.groups):
            return "The groups could not be compared: no answer, or no draws."
        apart = [group for group in self.groups if group.differs]
        if not apart:
            some = f"The {len(self.groups)} groups" if not left else "The groups that can be compared"
            return f"{some} do not differ by more than noise: the joint answer serves them.{rest}"
        named = ", ".join(
            f"{group.name} (γ = {group.recommendation.gamma:.2f}; the joint one loses {group.loss_of_joint or 0:.1%})"
            for group in apart
        )
        return f"More than noise sets apart: {named}.{rest}"

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "summary": self.summary,
            "differ": self.differ,
            "joint": self.joint.to_dict(),
            "groups": [group.to_dict() for group in self.groups],
        }


def recommend_groups(
    pilots: Mapping[str, PilotHistogram],
    metric: Metric | str,
    num_rollouts: int,
    *,
    seed: int = 0,
    level: float = 0.9,
    look_ahead: bool = False,
    **options: Any,
) -> GroupedRecommendation:
    """The joint answer for a pilot whose prompts come in groups, one answer per group, and whether they differ. E29.

    Args:
        pilots: a pilot per group (data source), 1 to 256; see `read_pilot_groups`.
        metric, num_rollouts, seed, level, options: as `recommend`.
        look_ahead: as `recommend`, for the joint answer.

    Raises:
        InvalidInput: no group or too many, or as `recommend`.
    """
    if not isinstance(pilots, Mapping) or not all(isinstance(pilot, PilotHistogram) for pilot in pilots.values()):
        raise InvalidInput("pilots must be a mapping from a group's name to its PilotHistogram", field="pilots")
    if not all(isinstance(name, str) and name.isprintable() and name.strip() for name in pilots):
        raise InvalidInput("pilots must have names of printable characters", field="pilots")
    if not 1 <= len(pilots) <= MAX_GROUPS:
        raise InvalidInput(f"pilots must hold 1 to {MAX_GROUPS} groups; got {len(pilots)}", field="pilots")
    level = finite_number(level, "level", minimum=0.5, maximum=0.999)
    together = PilotHistogram.merged(pilots.values())
    joint = recommend(together, metric, num_rollouts, seed=seed, level=level, look_ahead=look_ahead, **options)
    if len(pilots) == 1:
        (name, pilot), *_ = pilots.items()
        loss = None if joint.gamma is None else 0.0
        return GroupedRecommendation(joint, (GroupAnswer(str(name), pilot.total_prompts, joint, None, loss),))
    groups = []
    places = {name: i for i, name in enumerate(sorted(pilots))}  # the order of the groups makes no other question
    for name, pilot in pilots.items():
        others = PilotHistogram.merged(other for key, other in pilots.items() if key != name)
        # Seeds of their own: draws of two pilots must not share their randomness.
        own, rest = (
            recommend(part, metric, num_rollouts, seed=_seed(seed, places[name], side), level=level, **options)
            for side, part in enumerate((pilot, others))
        )
        groups.append(
            GroupAnswer(
                str(name),
                pilot.total_prompts,
                replace(own, draws=None),  # megabytes, and of no use from here on
                _difference(own, rest, level, len(pilots)),
                _loss(own, joint),
            )
        )
    return GroupedRecommendation(joint, tuple(groups))


def _difference(own: Recommendation, rest: Recommendation, level: float, num_groups: int) -> Interval | None:
    """Draw by draw, under one κ; Bonferroni's level for as many comparisons as groups (two groups make one)."""
    if own.draws is None or rest.draws is None:
        return None
    outside = (1 - level) / (1 if num_groups == 2 else num_groups)
    values = own.draws.best - rest.draws.best
    if values.size * outside >= _DRAWS_BEYOND:
        return Interval.of(values, 1 - outside)
    # Quantiles beyond the draws would be their extremes.
    center, reach = float(values.mean()), float(-ndtri(outside / 2) * values.std(ddof=1)) if values.size > 1 else 0.0
    return Interval(1 - outside, center - reach, center + reach)


def _loss(own: Recommendation, joint: Recommendation) -> float | None:
    """1 − F(γ of the joint answer)/max F of the group."""
    if own.curve is None or joint.gamma is None:
        return None
    reached = float(np.interp(joint.gamma, own.curve.gamma, own.curve.relative_criterion))
    return max(1 - reached, 0.0)


def _seed(seed: int, group: int, side: int) -> int:
    return int(np.random.SeedSequence([seed, group, side]).generate_state(1, np.uint64)[0])
