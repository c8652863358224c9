"""What `POST /v1/recommendations` takes and gives."""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Discriminator, Field, Tag, ValidationInfo, field_validator

from app.schemas.common import (
    Answer,
    ConditionsChoice,
    DiagnosticAnswer,
    EmpiricalBayesChoice,
    Gamma,
    Metric,
    Pilot,
    Prior,
    ScoreModelChoice,
    Strict,
    Table,
    is_object,
    one_of,
    unsigned,
)
from rl2ml_core.objective.baselines import BASELINES
from rl2ml_core.objective.catalog import KNOWN_TRAINERS
from rl2ml_core.objective.family import MAX_ROLLOUTS
from rl2ml_core.selection.planning import MOST_BUDGET

__all__ = [
    "Budget",
    "Current",
    "Estimator",
    "LearningRateAnswer",
    "ObjectiveAnswer",
    "RecommendationAnswer",
    "RecommendationRequest",
]


class Budget(Strict):
    """Rollouts per prompt in training; or per step, and the plan chooses how many per prompt. One of them, or both."""

    rollouts_per_step: Annotated[int, Field(ge=1, le=MOST_BUDGET)] | None = None
    num_rollouts: Annotated[int | None, Field(ge=1, le=MAX_ROLLOUTS, validate_default=True)] = None

    @field_validator("num_rollouts")
    @classmethod
    def _some(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value is None and info.data.get("rollouts_per_step") is None:
            raise ValueError("needed where rollouts_per_step is not given")
        return value


class Search(Strict):
    """Which γ to choose from, and by what."""

    gamma_min: Gamma = 0.0
    gamma_max: Gamma = 2.0
    criterion: Literal["rms_gain", "paper", "lookahead"] = "lookahead"
    variance_penalty: Annotated[float, Field(ge=0, le=1e6), unsigned] | None = None
    judged_on: Literal["either", "training", "held_out"] = "either"
    look_ahead: bool = False


class Estimator(Strict):
    """The estimator to train with."""

    baseline: Annotated[str, *one_of(BASELINES)] = "bayes"
    order: Annotated[int, Field(ge=1, le=MAX_ROLLOUTS)] | None = None
    filter_groups: bool = False


class Uncertainty(Strict):
    """Draws for the intervals."""

    bootstrap: Annotated[int, Field(ge=0, le=100_000)] = 200
    seed: Annotated[int, Field(ge=0, le=2**63 - 1)] = 0
    level: Annotated[float, Field(ge=0.5, le=0.999)] = 0.9


def _current_form(value: Any) -> str:
    return "current:name" if isinstance(value, str) else "current:table" if is_object(value) else "current:gamma"


Current = Annotated[
    Annotated[str, *one_of(KNOWN_TRAINERS), Tag("current:name")]
    | Annotated[Gamma, Tag("current:gamma")]
    | Annotated[Table, Tag("current:table")],
    Discriminator(_current_form),
]


class RecommendationRequest(Strict):
    """A pilot, the metric you are judged on and the rollouts per prompt you train with; the rest has defaults."""

    pilot: Pilot
    metric: Metric
    budget: Budget
    current: Current = "grpo"
    search: Search = Search()
    estimator: Estimator = Estimator()
    score_model: ScoreModelChoice | None = None
    prior: Prior = EmpiricalBayesChoice(name="empirical_bayes")
    uncertainty: Uncertainty = Uncertainty()
    sampled: ConditionsChoice | None = None
    training: ConditionsChoice | None = None


class IntervalAnswer(Answer):
    level: float
    lower: float
    upper: float


class NearOptimalAnswer(Answer):
    loss: float
    lower: float
    upper: float


class Gains(Answer):
    """Relative gain of the criterion; null where the other has none."""

    rl: float | None
    maxrl: float | None
    current: float | None


class GainIntervals(Answer):
    """Where the gains lie: prompts, κ and the prior uncertain."""

    rl: IntervalAnswer | None
    maxrl: IntervalAnswer | None
    current: IntervalAnswer | None


class LearningRateAnswer(Answer):
    """For SGD-like optimizers only: Adam's rate stays as it is."""

    multiplier: float | None
    relative_to: str
    advantage_rms: float
    applies_to: Literal["sgd_like"]
    assumes: Literal["length_controlled_step"]


class PriorAnswer(Answer):
    alpha: float
    beta: float


class ScoreModelAnswer(Answer):
    kappa: float | None = None
    kappa_spread: float | None = None
    name: str | None = None
    source: Literal["default", "given"]


class PopulationAnswer(Answer):
    """Cells [num_rollouts, num_successes, num_prompts]."""

    cells: list[tuple[float, float, float]]


class ObjectiveAnswer(Answer):
    """What to train with; `rl2ml_core.Objective.from_dict` reads it."""

    model_config = ConfigDict(populate_by_name=True)

    schema_: Annotated[Literal[1], Field(alias="schema")]
    gamma: float
    order: int
    num_rollouts: int
    baseline: str
    filter_groups: bool
    advantages: Table
    update_scales: list[float]
    prior: PriorAnswer | None
    score_model: ScoreModelAnswer
    population: PopulationAnswer | None  # null in a run that has counted nothing yet


class KappaAnswer(Answer):
    kappa: float
    gamma: float
    regret: float


class AssumedAnswer(Answer):
    """The answer under another prior."""

    name: Literal["weaker", "stronger", "fitted", "uniform"]
    prior: PriorAnswer
    gamma: float
    regret: float
    gain_over_maxrl: float | None


class CurveAnswer(Answer):
    gamma: list[float]
    relative_criterion: list[float]
    lower: list[float] | None
    upper: list[float] | None


class CertificateAnswer(Answer):
    degree: int
    tail: float
    stationary_points: list[float]


class GroupAnswer(Answer):
    """What one group would train with alone."""

    name: str
    num_prompts: float
    differs: bool | None
    difference: IntervalAnswer | None
    loss_of_joint: float | None
    summary: str
    gamma: float | None
    status: str
    interval: IntervalAnswer | None
    near_optimal: NearOptimalAnswer | None
    objective: ObjectiveAnswer | None


class GroupsAnswer(Answer):
    """Whether the groups of a pilot differ by more than noise, and one answer each."""

    summary: str
    differ: bool | None
    by_group: list[GroupAnswer]


class SplitAnswer(Answer):
    """How a step's rollouts are split; null parts where no split could be planned, and `summary` says why."""

    summary: str
    rollouts_per_step: int
    num_rollouts: int
    prompts_per_step: int | None
    best_num_rollouts: int | None
    near_optimal: list[int]
    loss: float | None


class RecommendationAnswer(Answer):
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
    gain_intervals: GainIntervals
    learning_rate: LearningRateAnswer | None
    objective: ObjectiveAnswer | None
    kappa_sensitivity: list[KappaAnswer]
    prior_sensitivity: list[AssumedAnswer]
    curve: CurveAnswer | None
    certificate: CertificateAnswer | None
    diagnostics: list[DiagnosticAnswer]
    assumptions: list[str]
    groups: GroupsAnswer | None
    plan: SplitAnswer | None
