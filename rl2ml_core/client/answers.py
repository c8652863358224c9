"""What comes back, as frozen values. Fields that a newer service adds are ignored, but kept in `content`."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any, Generic, Literal, TypeVar

from rl2ml_core.objective.objective import Objective
from rl2ml_core.pilot.diagnostics import Diagnostic
from rl2ml_core.pilot.histogram import PilotHistogram
from rl2ml_core.selection.calibration import LearningRate
from rl2ml_core.selection.controller import Decision
from rl2ml_core.selection.uncertainty import Interval, NearOptimal

__all__ = ["Page", "PilotAnswer", "RecommendationAnswer", "RunAnswer", "WindowAnswer"]

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class RecommendationAnswer:
    """A recommendation as docs/rest.md describes it, the service's or this process's own.

    γ, the objective and all that follows are None where `status` is "uninformative".
    """

    source: Literal["service", "local"]
    content: Mapping[str, Any] = field(repr=False)  # the whole answer

    @property
    def id(self) -> str | None:
        """Names question and answer; None for one from this process."""
        return self.content.get("id")

    @property
    def summary(self) -> str:
        return str(self.content["summary"])

    @property
    def gamma(self) -> float | None:
        return _number(self.content["gamma"])

    @property
    def status(self) -> str:
        return str(self.content["status"])

    @property
    def regime(self) -> str | None:
        return self.content.get("regime")

    @property
    def interval(self) -> Interval | None:
        return _value(Interval, self.content.get("interval"))

    @property
    def near_optimal(self) -> NearOptimal | None:
        return _value(NearOptimal, self.content.get("near_optimal"))

    @property
    def predicted_gain_over(self) -> Mapping[str, float | None]:
        return dict(self.content.get("predicted_gain_over") or {})

    @property
    def learning_rate(self) -> LearningRate | None:
        return _value(LearningRate, self.content.get("learning_rate"))

    @cached_property
    def objective(self) -> Objective | None:
        """What to train with.

        Raises:
            InvalidInput: an objective of a version that this library does not read.
        """
        content = self.content.get("objective")
        return None if content is None else Objective.from_dict(content)

    @property
    def diagnostics(self) -> list[Diagnostic]:
        return _diagnostics(self.content)


@dataclass(frozen=True, eq=False)
class WindowAnswer:
    """What to train the next window with."""

    decision: Decision
    content: Mapping[str, Any] = field(repr=False)

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> "WindowAnswer":
        return cls(_decision(content), content)


@dataclass(frozen=True, eq=False)
class RunAnswer:
    """A run as it stands."""

    id: str
    index: int  # of the window that it takes next
    decision: Decision
    content: Mapping[str, Any] = field(repr=False)

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> "RunAnswer":
        decision = _decision(content)
        return cls(str(content["id"]), decision.index, decision, content)


@dataclass(frozen=True, eq=False)
class PilotAnswer:
    """An uploaded pilot: `recommend` and `create_run` take its id."""

    id: str
    histogram: PilotHistogram
    content: Mapping[str, Any] = field(repr=False)

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> "PilotAnswer":
        cells = [
            (cell["num_rollouts"], cell["num_successes"], cell["num_prompts"]) if isinstance(cell, Mapping) else cell
            for cell in content["cells"]
        ]
        return cls(str(content["id"]), PilotHistogram.from_cells(cells), content)


@dataclass(frozen=True, eq=False)
class Page(Generic[T]):
    """Some of a list; `next_cursor` asks for the next page, None for the last one."""

    items: list[T]
    next_cursor: str | None

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> "Page[T]":
        return cls(list(content["items"]), content.get("next_cursor"))


def _decision(content: Mapping[str, Any]) -> Decision:
    found = content.get("decision", content)
    return Decision(
        index=int(found["index"]),
        gamma=float(found["gamma"]),
        code=str(found["code"]),
        reason=str(found["reason"]),
        status=str(found["status"]),
        num_prompts=float(found["num_prompts"]),
        objective=Objective.from_dict(found["objective"]),
        learning_rate=_value(LearningRate, found.get("learning_rate")),
        diagnostics=_diagnostics(found),
    )


def _diagnostics(content: Mapping[str, Any]) -> list[Diagnostic]:
    return [Diagnostic(row["code"], row["level"], row["detail"]) for row in content.get("diagnostics") or ()]


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


def _value(kind: type[T], content: Mapping[str, Any] | None) -> T | None:
    """A small value of its fields."""
    if content is None:
        return None
    names = [item.name for item in fields(kind)]  # type: ignore[arg-type]
    return kind(**{name: content[name] for name in names if name in content})
