"""What `POST /v1/plans` takes and gives."""

from typing import Annotated, Literal

from pydantic import Field

from app.schemas.common import (
    Answer,
    EmpiricalBayesChoice,
    Gamma,
    Metric,
    Prior,
    ScoreModelChoice,
    SinglePilot,
    Strict,
    one_of,
    unsigned,
)
from app.schemas.recommendations import IntervalAnswer, NearOptimalAnswer, ObjectiveAnswer, Uncertainty
from rl2ml_core.objective.baselines import BASELINES
from rl2ml_core.selection.lookahead import JUDGED_ON
from rl2ml_core.selection.planning import MOST_BUDGET, MOST_ROLLOUTS, NUM_PROMPTS

__all__ = ["PlanAnswer", "PlanRequest"]


class StepBudget(Strict):
    """Rollouts of a training step, and how they may be split."""

    rollouts_per_step: Annotated[int, Field(ge=1, le=MOST_BUDGET)]
    choices: (
        Annotated[
            list[Annotated[int, Field(ge=1, le=MOST_ROLLOUTS)]],
            Field(fail_fast=True, min_length=1, max_length=MOST_ROLLOUTS),
        ]
        | None
    ) = None
    prompt_cost: Annotated[float, Field(ge=0, le=1e6), unsigned] = 0.0
    num_prompts: Annotated[int, Field(ge=1, le=10**12)] = NUM_PROMPTS


class PlanSearch(Strict):
    """Which γ to choose from, and where the metric is read."""

    gamma_min: Gamma = 0.0
    gamma_max: Gamma = 2.0
    judged_on: Annotated[str, *one_of(JUDGED_ON)] = "either"


class PlanEstimator(Strict):
    """The estimator to train with."""

    baseline: Annotated[str, *one_of(BASELINES)] = "bayes"
    filter_groups: bool = False


class DemandsChoice(Strict):
    """Bounds that leave each number of rollouts a largest γ."""

    least_pass_rate: Annotated[float, Field(ge=1e-12, le=1)] | None = None
    tail: Annotated[float, Field(ge=1e-12, le=1)] = 0.1
    largest_scale: Annotated[float, Field(gt=0, le=1e6)] | None = None


class PlanRequest(Strict):
    """A pilot, the metric you are judged on and the rollouts of a step; the rest has defaults."""

    pilot: SinglePilot
    metric: Metric
    budget: StepBudget
    cosine: Annotated[float, Field(ge=0, le=1), unsigned] | None = None
    search: PlanSearch = PlanSearch()
    estimator: PlanEstimator = PlanEstimator()
    demands: DemandsChoice | None = None
    score_model: ScoreModelChoice | None = None
    prior: Prior = EmpiricalBayesChoice(name="empirical_bayes")
    uncertainty: Uncertainty = Uncertainty()
    pilot_target: Annotated[float, Field(gt=0, le=1)] | None = None


class PlannedAnswer(Answer):
    """One number of rollouts per prompt, with the γ that is best for it in a step."""

    num_rollouts: int
    prompts_per_step: int
    rollouts_spent: float
    gamma: float
    largest_gamma: float
    relative_gain: float
    gain_per_rollout: float
    loss_interval: IntervalAnswer | None
    equal_group_share: float


class SensitivityAnswer(Answer):
    """Were κ or ρ this value: the best plan, and what the plan given, and its N alone, would lose."""

    value: float
    num_rollouts: int
    gamma: float
    loss: float
    split_loss: float


class PlannedRecommendation(Answer):
    """What `POST /v1/recommendations` says of the planned number of rollouts, without draws."""

    summary: str
    gamma: float | None
    status: str
    near_optimal: NearOptimalAnswer | None
    objective: ObjectiveAnswer | None


class PilotSizeAnswer(Answer):
    """More of the pilot, and what would be lost after it."""

    kind: Literal["prompts", "rollouts"]
    prompts: int
    rollouts: int
    cost: float
    expected_regret: float
    standard_error: float


class PilotPlanAnswer(Answer):
    """Whether the pilot is enough."""

    status: Literal["enough", "more", "out_of_reach", "uninformative"]
    summary: str
    target: float
    expected_regret: float | None
    floor: float | None
    sizes: list[PilotSizeAnswer]
    needed: PilotSizeAnswer | None


class PlanAnswer(Answer):
    """The plan. `best` is null where nothing can be planned, and `summary` says why."""

    method_version: int
    core_version: str
    status: Literal["planned", "infeasible", "uninformative"]
    summary: str
    rollouts_per_step: int
    best: PlannedAnswer | None
    near_optimal: list[int]
    frontier: list[PlannedAnswer]
    expected_regret: float | None
    kappa_sensitivity: list[SensitivityAnswer]
    cosine_sensitivity: list[SensitivityAnswer]
    assumptions: list[str]
    recommendation: PlannedRecommendation | None
    pilot: PilotPlanAnswer | None
