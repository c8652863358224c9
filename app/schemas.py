"""The wire: what `POST /v1/recommendations` takes and gives.

Types and sizes are checked here, mathematics in the core's constructors.
"""

from collections.abc import Collection
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag, WithJsonSchema

from rl2ml_core.objective.baselines import BASELINES
from rl2ml_core.objective.catalog import KNOWN_TRAINERS
from rl2ml_core.objective.family import MAX_GAMMA, MAX_ROLLOUTS
from rl2ml_core.pilot.histogram import MAX_PILOT_ROLLOUTS
from rl2ml_core.selection.metrics import MAX_K

__all__ = ["TAGS", "ProblemDocument", "RecommendationAnswer", "RecommendationRequest"]


class _Strict(BaseModel):
    # Strict: true is no 1 and "8" no 8. Unknown fields are errors: a typo must not become a default.
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


PilotRollouts = Annotated[int, Field(ge=1, le=MAX_PILOT_ROLLOUTS)]
PassRate = Annotated[float, Field(ge=0, le=1)]
_unsigned = AfterValidator(abs)  # −0 is 0: one question, one id
Gamma = Annotated[float, Field(ge=0, le=MAX_GAMMA), _unsigned]


def _one_of(names: Collection[str]) -> tuple[AfterValidator, WithJsonSchema]:
    """A string that is one of the core's names, here and in the schema."""

    def check(value: str) -> str:
        if value not in names:
            raise ValueError(f"expected one of {', '.join(names)}")
        return value

    return AfterValidator(check), WithJsonSchema({"type": "string", "enum": list(names)})


def _is_object(value: Any) -> bool:
    return isinstance(value, (dict, BaseModel))


class Cell(_Strict):
    """`num_prompts` prompts had `num_successes` of `num_rollouts`."""

    num_rollouts: PilotRollouts
    num_successes: Annotated[int, Field(ge=0, le=MAX_PILOT_ROLLOUTS)]
    num_prompts: Annotated[float, Field(ge=0, le=1e12)]


class CellsPilot(_Strict):
    """A histogram: the canonical form, as long as it has distinct counts."""

    cells: Annotated[list[Cell], Field(fail_fast=True, min_length=1)]


def _rollouts_form(value: Any) -> str:
    return "rollouts:each" if isinstance(value, list) else "rollouts:one"


class CountsPilot(_Strict):
    """Prompt by prompt: successes, of one number of rollouts or one each."""

    num_rollouts: Annotated[
        Annotated[PilotRollouts, Tag("rollouts:one")]
        | Annotated[list[PilotRollouts], Field(fail_fast=True, min_length=1), Tag("rollouts:each")],
        Discriminator(_rollouts_form),
    ]
    num_successes: Annotated[
        list[Annotated[int, Field(ge=0, le=MAX_PILOT_ROLLOUTS)]], Field(fail_fast=True, min_length=1)
    ]


class RatesPilot(_Strict):
    """Prompt by prompt: pass rates, each the nearest k/n; without `num_rollouts` taken as exact (no intervals)."""

    pass_rates: Annotated[list[PassRate], Field(fail_fast=True, min_length=1)]
    num_rollouts: PilotRollouts | None = None


def _pilot_form(value: Any) -> str:
    fields = value if isinstance(value, dict) else vars(value) if isinstance(value, BaseModel) else {}
    return "pilot:cells" if "cells" in fields else "pilot:rates" if "pass_rates" in fields else "pilot:counts"


Pilot = Annotated[
    Annotated[CellsPilot, Tag("pilot:cells")]
    | Annotated[CountsPilot, Tag("pilot:counts")]
    | Annotated[RatesPilot, Tag("pilot:rates")],
    Discriminator(_pilot_form),
]


class PassAtKMetric(_Strict):
    """At least one of k attempts succeeds."""

    name: Literal["pass_at_k"]
    k: Annotated[int, Field(ge=1, le=MAX_K)]


class LogSuccessMetric(_Strict):
    """log(p + tau)."""

    name: Literal["log_success"]
    tau: Annotated[float, Field(ge=1e-9, le=1e3)]


SimpleMetric = Annotated[PassAtKMetric | LogSuccessMetric, Discriminator("name")]


class MixturePart(_Strict):
    """One metric of a mixture."""

    weight: Annotated[float, Field(ge=0, le=1e12)]
    metric: SimpleMetric


class MixtureMetric(_Strict):
    """Σ weight · metric."""

    name: Literal["mixture"]
    parts: Annotated[list[MixturePart], Field(fail_fast=True, min_length=1, max_length=64)]


def _metric_form(value: Any) -> str | None:
    if isinstance(value, str):
        return "metric:text"
    name = value.get("name") if isinstance(value, dict) else getattr(value, "name", None)
    return name if isinstance(name, str) else None


Metric = Annotated[
    Annotated[PassAtKMetric, Tag("pass_at_k")]
    | Annotated[LogSuccessMetric, Tag("log_success")]
    | Annotated[MixtureMetric, Tag("mixture")]
    | Annotated[str, Field(max_length=1000, examples=["pass@8", "log:0.01"]), Tag("metric:text")],
    Discriminator(_metric_form),
]


class Budget(_Strict):
    """Rollouts per prompt in training."""

    num_rollouts: Annotated[int, Field(ge=1, le=MAX_ROLLOUTS)]


class Search(_Strict):
    """Which γ to choose from, and by what."""

    gamma_min: Gamma = 0.0
    gamma_max: Gamma = 2.0
    criterion: Literal["rms_gain", "paper"] = "rms_gain"
    variance_penalty: Annotated[float, Field(ge=0, le=1e6), _unsigned] | None = None


class Estimator(_Strict):
    """The estimator to train with."""

    baseline: Annotated[str, *_one_of(BASELINES)] = "bayes"


class ScoreModelChoice(_Strict):
    """κ and how well it is known (log-standard-deviation); leave the whole object out where κ is not measured."""

    kappa: Annotated[float, Field(gt=0, le=1)]
    kappa_spread: Annotated[float, Field(ge=0, le=10), _unsigned] | None = None


class BetaPriorChoice(_Strict):
    """Beta(alpha, beta) on each prompt's pass rate."""

    name: Literal["beta"] = "beta"
    alpha: Annotated[float, Field(gt=0, le=1e9)] = 1.0
    beta: Annotated[float, Field(gt=0, le=1e9)] = 1.0


class PlugInChoice(_Strict):
    """Raw k/n."""

    name: Literal["plug_in"]


def _prior_form(value: Any) -> str:
    name = value.get("name") if isinstance(value, dict) else getattr(value, "name", None)
    return f"prior:{name}" if isinstance(name, str) else "prior:beta"


Prior = Annotated[
    Annotated[BetaPriorChoice, Tag("prior:beta")] | Annotated[PlugInChoice, Tag("prior:plug_in")],
    Discriminator(_prior_form),
]


class Uncertainty(_Strict):
    """Draws for the intervals."""

    bootstrap: Annotated[int, Field(ge=0, le=100_000)] = 200
    seed: Annotated[int, Field(ge=0, le=2**63 - 1)] = 0
    level: Annotated[float, Field(ge=0.5, le=0.999)] = 0.9


Advantages = Annotated[
    list[Annotated[float, Field(ge=-1e100, le=1e100)] | None],
    Field(fail_fast=True, min_length=2, max_length=MAX_ROLLOUTS + 1),
]


class Table(_Strict):
    """Advantages of a success and of a failure by success count 0..N; null where no such rollout exists."""

    success: Advantages
    failure: Advantages


def _current_form(value: Any) -> str:
    return "current:name" if isinstance(value, str) else "current:table" if _is_object(value) else "current:gamma"


Current = Annotated[
    Annotated[str, *_one_of(KNOWN_TRAINERS), Tag("current:name")]
    | Annotated[Gamma, Tag("current:gamma")]
    | Annotated[Table, Tag("current:table")],
    Discriminator(_current_form),
]


class RecommendationRequest(_Strict):
    """A pilot, the metric you are judged on and the rollouts per prompt you train with; the rest has defaults."""

    pilot: Pilot
    metric: Metric
    budget: Budget
    current: Current = "grpo"
    search: Search = Search()
    estimator: Estimator = Estimator()
    score_model: ScoreModelChoice | None = None
    prior: Prior = BetaPriorChoice()
    uncertainty: Uncertainty = Uncertainty()


#: Members of unions: pydantic puts them into error paths, where the document has nothing.
TAGS = frozenset(
    {
        *("pilot:cells", "pilot:counts", "pilot:rates", "rollouts:one", "rollouts:each"),
        *("current:name", "current:gamma", "current:table", "prior:beta", "prior:plug_in"),
        *("pass_at_k", "log_success", "mixture", "metric:text"),
    }
)


class _Answer(BaseModel):
    """Documents and tests the answer; clients ignore fields that they do not know."""


class IntervalAnswer(_Answer):
    level: float
    lower: float
    upper: float


class NearOptimalAnswer(_Answer):
    loss: float
    lower: float
    upper: float


class Gains(_Answer):
    """Relative gain of the criterion; null where the other has none."""

    rl: float | None
    maxrl: float | None
    current: float | None


class LearningRateAnswer(_Answer):
    """For SGD-like optimizers only: Adam's rate stays as it is."""

    multiplier: float | None
    relative_to: str
    advantage_rms: float
    applies_to: Literal["sgd_like"]
    assumes: Literal["length_controlled_step"]


class PriorAnswer(_Answer):
    alpha: float
    beta: float


class ScoreModelAnswer(_Answer):
    kappa: float | None = None
    kappa_spread: float | None = None
    name: str | None = None
    source: Literal["default", "given"]


class PopulationAnswer(_Answer):
    """Cells [num_rollouts, num_successes, num_prompts]."""

    cells: list[tuple[float, float, float]]


class ObjectiveAnswer(_Answer):
    """What to train with; `rl2ml_core.Objective.from_dict` reads it."""

    model_config = ConfigDict(populate_by_name=True)

    schema_: Annotated[Literal[1], Field(alias="schema")]
    gamma: float
    order: int
    num_rollouts: int
    baseline: str
    advantages: Table
    update_scales: list[float]
    prior: PriorAnswer | None
    score_model: ScoreModelAnswer
    population: PopulationAnswer


class KappaAnswer(_Answer):
    kappa: float
    gamma: float
    regret: float


class CurveAnswer(_Answer):
    gamma: list[float]
    relative_criterion: list[float]
    lower: list[float] | None
    upper: list[float] | None


class CertificateAnswer(_Answer):
    degree: int
    tail: float
    stationary_points: list[float]


class DiagnosticAnswer(_Answer):
    code: str
    level: Literal["info", "warning", "error"]
    detail: str


class RecommendationAnswer(_Answer):
    """The recommendation. γ and all that follows from it are null when `status` is "uninformative"."""

    id: Annotated[str, Field(pattern="^rec_[0-9a-f]{32}$")]
    method_version: int
    core_version: str
    summary: str
    gamma: float | None
    status: Literal["interior", "at_lower_bound", "at_upper_bound", "flat", "prior_dominated", "uninformative"]
    regime: Literal["rl", "subcritical", "maxrl_boundary", "supercritical"] | None
    interval: IntervalAnswer | None
    sampling_interval: IntervalAnswer | None
    near_optimal: NearOptimalAnswer | None
    probability_subcritical: float | None
    expected_regret: float | None
    predicted_gain_over: Gains
    learning_rate: LearningRateAnswer | None
    objective: ObjectiveAnswer | None
    kappa_sensitivity: list[KappaAnswer]
    curve: CurveAnswer | None
    certificate: CertificateAnswer | None
    diagnostics: list[DiagnosticAnswer]
    assumptions: list[str]


class ProblemError(_Answer):
    pointer: str
    detail: str


class ProblemDocument(_Answer):
    """RFC 9457. `type` is one of a published list, see docs/rest.md."""

    type: str
    title: str
    status: int
    detail: str | None = None
    errors: Annotated[list[ProblemError], Field(max_length=20)] | None = None
