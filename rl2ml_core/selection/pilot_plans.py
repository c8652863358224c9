"""What a plan of a pilot says: plain values, with their sentences."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

from rl2ml_core.version import METHOD_VERSION, __version__

__all__ = ["PilotPlan", "PilotSize"]

_ROUNDING = 1e-9


@dataclass(frozen=True)
class PilotSize:
    """More of a pilot, and what choosing γ from all of it is expected to lose."""

    kind: str  # "prompts": so many new ones; "rollouts": so many more for each prompt of the pilot
    prompts: int
    rollouts: int  # for each of these prompts
    cost: float  # rollouts to generate
    expected_regret: float = math.nan  # mean share of the gain
    standard_error: float = math.nan  # of that mean, by the number of draws

    @property
    def words(self) -> str:
        """As a sentence names it."""
        if self.kind == "rollouts":
            return f"{self.rollouts:,} more rollouts of each prompt"
        return f"{self.prompts:,} prompts × {self.rollouts}"


@dataclass(frozen=True)
class PilotPlan:
    """Whether a pilot is enough, and what more would bring.

    Regrets are mean shares of one step's gain that the chosen γ loses. All are None or empty where nothing can be said:
    status "uninformative".
    """

    status: str  # "enough", "more", "out_of_reach" (no pilot reaches the target) or "uninformative"
    summary: str
    target: float
    expected_regret: float | None  # of the pilot there is; None with a guess
    floor: float | None  # what stays however large the pilot: κ is not known
    sizes: tuple[PilotSize, ...]
    needed: PilotSize | None  # the cheapest that reaches the target; None where none does, or nothing more is needed

    @classmethod
    def without(cls, reason: str, target: float) -> "PilotPlan":
        """Nothing to say, and why."""
        return cls("uninformative", f"No plan: {reason}.", target, None, None, (), None)

    @classmethod
    def of(
        cls, now: float | None, there: float, floor: float, sizes: tuple[PilotSize, ...], target: float
    ) -> "PilotPlan":
        """From what was computed, `there` being the prompts of the pilot there is."""
        enough = now is not None and now <= target
        needed = None if enough else _cheapest(now, there, sizes, target)
        status = "enough" if enough else "more" if needed else "out_of_reach"
        return cls(status, _summary(status, now, floor, sizes, needed, target), target, now, floor, sizes, needed)

    def to_dict(self) -> dict[str, Any]:
        """The JSON form: the service's answer."""
        content = asdict(self)
        content["sizes"] = list(content["sizes"])
        return {"method_version": METHOD_VERSION, "core_version": __version__, **content}


def _cheapest(now: float | None, there: float, sizes: Sequence[PilotSize], target: float) -> PilotSize | None:
    """The cheapest that reaches a target: of the sizes, or between two numbers of prompts.

    What prompts leave open falls like one over their number, the pilot's included: regret is interpolated over it.
    """
    reached = [size for size in sizes if size.expected_regret <= target]
    rows = [size for size in sizes if size.kind == "prompts"]
    if now is not None and rows:
        rows = [PilotSize("prompts", 0, rows[0].rollouts, 0.0, now, 0.0), *rows]
    for less, more in pairwise(rows):
        if less.expected_regret > target >= more.expected_regret:
            share = (less.expected_regret - target) / (less.expected_regret - more.expected_regret)
            inverse = (1 - share) / (there + less.prompts) + share / (there + more.prompts)
            prompts = math.ceil(1 / inverse - there - _ROUNDING)
            error = max(less.standard_error, more.standard_error)
            reached.append(PilotSize("prompts", prompts, more.rollouts, float(prompts * more.rollouts), target, error))
    return min(reached, key=lambda size: size.cost, default=None)


def _summary(
    status: str, now: float | None, floor: float, sizes: Sequence[PilotSize], needed: PilotSize | None, target: float
) -> str:
    aim, floor_only = f"{target:.2%}", floor > target
    rest = f" κ, which is not known, accounts for {floor:.2%} whatever the pilot: measure it." if floor > 0 else ""
    there = f"{needed.expected_regret:.2%}" if needed else ""
    if now is None:
        said = f"A pilot of {needed.words} is expected to lose {there} of a step's gain." if needed else ""
    elif status == "enough":
        said = f"γ chosen from this pilot loses {now:.2%} of a step's gain on average, below {aim}: it is enough."
    else:
        said = f"γ chosen from this pilot loses {now:.2%} of a step's gain on average."
        said += (
            f" About {needed.words.replace(' prompts', ' more prompts')} would bring it to {there}." if needed else ""
        )
    if status == "out_of_reach":
        least = min((size.expected_regret for size in sizes), default=floor)
        why = "" if floor_only else f" of the sizes asked about (the least is {least:.2%})"
        said = f"{said} No pilot{why} reaches {aim}.".strip()
    return said + rest
