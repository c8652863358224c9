"""What several resources take and give: pilots, metrics, priors, tables, problems.

Types and sizes are checked here, mathematics in the core's constructors.
"""

from collections.abc import Collection, Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag, WithJsonSchema

from rl2ml_core.objective.family import MAX_GAMMA, MAX_ROLLOUTS
from rl2ml_core.objective.population import LEAST_KAPPA
from rl2ml_core.pilot.histogram import MAX_PILOT_ROLLOUTS
from rl2ml_core.pilot.tables import LONGEST_GROUP, MAX_GROUPS
from rl2ml_core.selection.metrics import MAX_K

__all__ = [
    "TAGS",
    "Answer",
    "Cell",
    "CellsPilot",
    "ConditionsChoice",
    "CountsPilot",
    "DiagnosticAnswer",
    "Gamma",
    "Metric",
    "Pilot",
    "PilotReference",
    "PilotRollouts",
    "Prior",
    "ProblemDocument",
    "RatesPilot",
    "ScoreModelChoice",
    "SinglePilot",
    "Strict",
    "Table",
    "fields_of",
    "is_object",
    "one_of",
    "rollouts_form",
    "unsigned",
]


class Strict(BaseModel):
    # Strict: true is no 1 and "8" no 8. Unknown fields are errors: a typo must not become a default.
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


PilotRollouts = Annotated[int, Field(ge=1, le=MAX_PILOT_ROLLOUTS)]
PassRate = Annotated[float, Field(ge=0, le=1)]
unsigned = AfterValidator(abs)  # −0 is 0: one question, one id
Gamma = Annotated[float, Field(ge=0, le=MAX_GAMMA), unsigned]


def one_of(names: Collection[str]) -> tuple[AfterValidator, WithJsonSchema]:
    """A string that is one of the core's names, here and in the schema."""

    def check(value: str) -> str:
        if value not in names:
            raise ValueError(f"expected one of {', '.join(names)}")
        return value

    return AfterValidator(check), WithJsonSchema({"type": "string", "enum": list(names)})


class Cell(Strict):
    """`num_prompts` prompts had `num_successes` of `num_rollouts`."""

    num_rollouts: PilotRollouts
    num_successes: Annotated[int, Field(ge=0, le=MAX_PILOT_ROLLOUTS)]
    num_prompts: Annotated[float, Field(ge=0, le=1e12)]


class CellsPilot(Strict):
    """A histogram: the canonical form, as long as it has distinct counts."""

    cells: Annotated[list[Cell], Field(fail_fast=True, min_length=1)]


def rollouts_form(value: Any) -> str:
    return "rollouts:each" if isinstance(value, list) else "rollouts:one"


class CountsPilot(Strict):
    """Prompt by prompt: successes, of one number of rollouts or one each."""

    num_rollouts: Annotated[
        Annotated[PilotRollouts, Tag("rollouts:one")]
        | Annotated[list[PilotRollouts], Field(fail_fast=True, min_length=1), Tag("rollouts:each")],
        Discriminator(rollouts_form),
    ]
    num_successes: Annotated[
        list[Annotated[int, Field(ge=0, le=MAX_PILOT_ROLLOUTS)]], Field(fail_fast=True, min_length=1)
    ]


class RatesPilot(Strict):
    """Prompt by prompt: pass rates, each the nearest k/n; without `num_rollouts` taken as exact (no intervals)."""

    pass_rates: Annotated[list[PassRate], Field(fail_fast=True, min_length=1)]
    num_rollouts: PilotRollouts | None = None


def _printable(name: str) -> str:
    # Names come back in sentences that terminals and pages show: no line breaks, escapes or direction marks.
    if not name.isprintable() or not name.strip():
        raise ValueError("expected printable characters, not all of them spaces")
    return name


GroupName = Annotated[str, Field(min_length=1, max_length=LONGEST_GROUP), AfterValidator(_printable)]


class GroupsPilot(Strict):
    """A histogram for each group of prompts (data source): a joint answer, one per group, and whether they differ."""

    groups: Annotated[dict[GroupName, CellsPilot], Field(min_length=1, max_length=MAX_GROUPS)]


class PilotReference(Strict):
    """A pilot that was uploaded, by its id."""

    id: Annotated[str, Field(pattern="^pilot_[0-9a-f]{32}$")]


def is_object(value: Any) -> bool:
    return isinstance(value, (dict, BaseModel))


def fields_of(value: Any) -> Mapping[str, Any]:
    """The fields of an object, parsed or not; none of anything else."""
    return value if isinstance(value, dict) else vars(value) if isinstance(value, BaseModel) else {}


def _single_pilot_form(value: Any) -> str:
    fields, forms = fields_of(value), {"id": "id", "cells": "cells", "pass_rates": "rates"}
    return f"pilot:{next((form for name, form in forms.items() if name in fields), 'counts')}"


def _pilot_form(value: Any) -> str:
    return "pilot:groups" if "groups" in fields_of(value) else _single_pilot_form(value)


SinglePilot = Annotated[
    Annotated[CellsPilot, Tag("pilot:cells")]
    | Annotated[CountsPilot, Tag("pilot:counts")]
    | Annotated[RatesPilot, Tag("pilot:rates")]
    | Annotated[PilotReference, Tag("pilot:id")],
    Discriminator(_single_pilot_form),
]
Pilot = Annotated[
    Annotated[CellsPilot, Tag("pilot:cells")]
    | Annotated[CountsPilot, Tag("pilot:counts")]
    | Annotated[RatesPilot, Tag("pilot:rates")]
    | Annotated[GroupsPilot, Tag("pilot:groups")]
    | Annotated[PilotReference, Tag("pilot:id")],
    Discriminator(_pilot_form),
]


class ConditionsChoice(Strict):
    """How rollouts were, or will be, sampled."""

    temperature: Annotated[float, Field(ge=0, le=1e6), unsigned] | None = None
    policy: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    step: Annotated[int, Field(ge=0, le=2**53)] | None = None


class PassAtKMetric(Strict):
    """At least one of k attempts succeeds."""

    name: Literal["pass_at_k"]
    k: Annotated[int, Field(ge=1, le=MAX_K)]


class LogSuccessMetric(Strict):
    """log(p + tau)."""

    name: Literal["log_success"]
    tau: Annotated[float, Field(ge=1e-9, le=1e3)]


SimpleMetric = Annotated[PassAtKMetric | LogSuccessMetric, Discriminator("name")]


class MixturePart(Strict):
    """One metric of a mixture."""

    weight: Annotated[float, Field(ge=0, le=1e12)]
    metric: SimpleMetric


class MixtureMetric(Strict):
    """Σ weight · metric."""

    name: Literal["mixture"]
    parts: Annotated[list[MixturePart], Field(fail_fast=True, min_length=1, max_length=64)]


def _metric_form(value: Any) -> str | None:
    if isinstance(value, str):
        return "metric:text"
    name = fields_of(value).get("name")
    return name if isinstance(name, str) else None


Metric = Annotated[
    Annotated[PassAtKMetric, Tag("pass_at_k")]
    | Annotated[LogSuccessMetric, Tag("log_success")]
    | Annotated[MixtureMetric, Tag("mixture")]
    | Annotated[str, Field(max_length=1000, examples=["pass@8", "log:0.01"]), Tag("metric:text")],
    Discriminator(_metric_form),
]


class ScoreModelChoice(Strict):
    """κ and how well it is known (log-standard-deviation); leave the whole object out where κ is not measured."""

    kappa: Annotated[float, Field(ge=LEAST_KAPPA, le=1)]
    kappa_spread: Annotated[float, Field(ge=0, le=10), unsigned] | None = None


#: So far within what the core takes that half and twice of it, which every answer is checked against, fit too.
Shape = Annotated[float, Field(ge=1e-9, le=1e8)]


class BetaPriorChoice(Strict):
    """Beta(alpha, beta) on each prompt's pass rate."""

    name: Literal["beta"] = "beta"
    alpha: Shape
    beta: Shape


class EmpiricalBayesChoice(Strict):
    """The Beta prior that fits the pilot best."""

    name: Literal["empirical_bayes"]


class PlugInChoice(Strict):
    """Raw k/n."""

    name: Literal["plug_in"]


def _prior_form(value: Any) -> str:
    name = fields_of(value).get("name")
    return f"prior:{name}" if isinstance(name, str) else "prior:beta"


Prior = Annotated[
    Annotated[BetaPriorChoice, Tag("prior:beta")]
    | Annotated[EmpiricalBayesChoice, Tag("prior:empirical_bayes")]
    | Annotated[PlugInChoice, Tag("prior:plug_in")],
    Discriminator(_prior_form),
]


Advantages = Annotated[
    list[Annotated[float, Field(ge=-1e100, le=1e100)] | None],
    Field(fail_fast=True, min_length=2, max_length=MAX_ROLLOUTS + 1),
]


class Table(Strict):
    """Advantages of a success and of a failure by success count 0..N; null where no such rollout exists."""

    success: Advantages
    failure: Advantages


#: Members of unions: pydantic puts them into error paths, where the document has nothing.
TAGS = frozenset(
    {
        *("pilot:cells", "pilot:counts", "pilot:rates", "pilot:groups", "pilot:id"),
        *("rollouts:one", "rollouts:each", "window:cells", "window:counts"),
        *("current:name", "current:gamma", "current:table"),
        *("estimator:name", "estimator:trainer", "estimator:family", "estimator:table"),
        *("parameter:text", "parameter:integer", "parameter:number"),
        *("prior:beta", "prior:empirical_bayes", "prior:plug_in"),
        *("pass_at_k", "log_success", "mixture", "metric:text"),
    }
)


class Answer(BaseModel):
    """Documents and tests the answer; clients ignore fields that they do not know."""


class DiagnosticAnswer(Answer):
    code: str
    level: Literal["info", "warning", "error"]
    detail: str


class ProblemError(Answer):
    pointer: str
    detail: str


class ProblemDocument(Answer):
    """RFC 9457. `type` is one of a published list, see docs/rest.md."""

    type: str
    title: str
    status: int
    detail: str | None = None
    errors: Annotated[list[ProblemError], Field(max_length=20)] | None = None
    expected_index: int | None = None
