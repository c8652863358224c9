"""What `/v1/estimators` gives, and what `POST /v1/estimators/analyses` takes and gives."""

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, WithJsonSchema

from app.schemas.common import (
    Answer,
    EmpiricalBayesChoice,
    Gamma,
    Prior,
    ScoreModelChoice,
    SinglePilot,
    Strict,
    Table,
    fields_of,
    one_of,
)
from rl2ml_core.objective.baselines import BASELINES
from rl2ml_core.objective.catalog import KNOWN_TRAINERS
from rl2ml_core.objective.family import MAX_ROLLOUTS

__all__ = ["AnalysisAnswer", "AnalysisRequest", "EstimatorsAnswer", "FamilyChoice", "TrainerChoice"]

#: More than any trainer has; which names and values there are the core knows.
_MOST_PARAMETERS = 8


def _parameter_form(value: Any) -> str:
    if isinstance(value, str):
        return "parameter:text"
    return "parameter:integer" if isinstance(value, int) else "parameter:number"


Parameter = Annotated[
    Annotated[str, Field(max_length=40), Tag("parameter:text")]
    | Annotated[int, Field(ge=-(2**53), le=2**53), Tag("parameter:integer")]
    | Annotated[float, Tag("parameter:number")],
    Discriminator(_parameter_form),
    WithJsonSchema({"anyOf": [{"type": "string", "maxLength": 40}, {"type": "number"}]}),  # an integer is a number too
]
TrainerName = Annotated[str, *one_of(KNOWN_TRAINERS)]


class TrainerChoice(Strict):
    """A known trainer, with parameters that `GET /v1/estimators` lists."""

    name: TrainerName
    parameters: Annotated[dict[Annotated[str, Field(max_length=40)], Parameter], Field(max_length=_MOST_PARAMETERS)] = (
        Field(default_factory=dict)
    )


class FamilyChoice(Strict):
    """A member of the family; without a baseline "bayes" on a pilot, else "leave_one_out"."""

    gamma: Gamma
    baseline: Annotated[str, *one_of(BASELINES)] | None = None
    order: Annotated[int, Field(ge=1, le=MAX_ROLLOUTS)] | None = None
    filter_groups: bool = False


def _estimator_form(value: Any) -> str:
    if isinstance(value, str):
        return "estimator:name"
    fields = fields_of(value)
    if "success" in fields or "failure" in fields:
        return "estimator:table"
    return "estimator:family" if "gamma" in fields else "estimator:trainer"


class AnalysisRequest(Strict):
    """A trainer and its rollouts per prompt (a table has its own); a pilot says on which prompts."""

    estimator: Annotated[
        Annotated[TrainerName, Tag("estimator:name")]
        | Annotated[TrainerChoice, Tag("estimator:trainer")]
        | Annotated[FamilyChoice, Tag("estimator:family")]
        | Annotated[Table, Tag("estimator:table")],
        Discriminator(_estimator_form),
    ]
    num_rollouts: Annotated[int, Field(ge=1, le=MAX_ROLLOUTS)] | None = None
    pilot: SinglePilot | None = None
    prior: Prior = EmpiricalBayesChoice(name="empirical_bayes")
    score_model: ScoreModelChoice | None = None


class ParameterAnswer(Answer):
    """Where `default` is null it depends on the rollouts per prompt."""

    name: str
    default: float | str | None
    meaning: str


class TrainerAnswer(Answer):
    name: str
    label: str
    title: str
    source: str
    least_rollouts: int
    drops_equal_groups: bool
    note: str
    parameters: list[ParameterAnswer]


class BaselineAnswer(Answer):
    name: str
    description: str


class EstimatorsAnswer(Answer):
    """What can be asked about by name."""

    trainers: list[TrainerAnswer]
    baselines: list[BaselineAnswer]


class IdentityAnswer(Answer):
    """J_{γ,M} (gamma, order) or pass@k (k), times `scale`."""

    scale: float
    gamma: float | None
    order: int | None
    k: int | None


class NearestAnswer(Answer):
    gamma: float
    cosine: float


class AnalysisAnswer(Answer):
    """What a trainer optimizes, how noisy it is and which groups it learns nothing from."""

    method_version: int
    core_version: str
    name: str
    label: str
    parameters: dict[str, bool | float | str | None]
    num_rollouts: int
    sentence: str
    advantages: Table
    pass_rates: list[float]
    weights: list[float]
    identity: IdentityAnswer | None
    nearest: NearestAnswer | None
    population: Literal["pilot", "uniform"]
    energy: float
    signal: float
    noise_to_signal: float | None
    advantage_rms: float
    all_fail_share: float
    all_fail_carries_advantage: bool
    all_pass_share: float
    all_pass_carries_advantage: bool
    dead_group_share: float
    dead_mixed_share: float
    kept_share: float | None
    rollouts_per_kept_group: float | None
    kept_weights: list[float] | None
    note: str
