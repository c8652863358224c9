"""What `/v1/runs` takes and gives."""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Discriminator, Field, RootModel, Tag

from app.schemas.common import (
    Answer,
    Cell,
    DiagnosticAnswer,
    EmpiricalBayesChoice,
    Gamma,
    Metric,
    PilotRollouts,
    Prior,
    ScoreModelChoice,
    SinglePilot,
    Strict,
    fields_of,
    one_of,
    rollouts_form,
    unsigned,
)
from app.schemas.recommendations import Current, Estimator, LearningRateAnswer, ObjectiveAnswer
from rl2ml_core.objective.family import MAX_GAMMA, MAX_ROLLOUTS
from rl2ml_core.pilot.diagnostics import LEAST_PROMPTS
from rl2ml_core.pilot.histogram import MAX_PILOT_ROLLOUTS
from rl2ml_core.selection.controller import CODES, HALF_LIFE, MAX_PROMPTS, MAX_STEP, MIN_PROMPTS
from rl2ml_core.selection.recommend import MAX_BOOTSTRAP
from rl2ml_core.selection.status import FLAT_LOSS

__all__ = [
    "RewindRequest",
    "RunAnswer",
    "RunRequest",
    "RunsAnswer",
    "WindowAnswer",
    "WindowCells",
    "WindowRequest",
    "WindowsAnswer",
]

#: Of a window: more than any run has, and as many as every database counts to.
MAX_INDEX = 2**31 - 2


class RunSearch(Strict):
    """Which γ to choose from, and by what."""

    gamma_min: Gamma = 0.0
    gamma_max: Gamma = 2.0
    criterion: Literal["rms_gain", "paper", "lookahead"] = "lookahead"
    variance_penalty: Annotated[float, Field(ge=0, le=1e6), unsigned] | None = None


class RunUncertainty(Strict):
    """Draws, by which γ moves when most of them prefer it; every window uses the seed as it is."""

    bootstrap: Annotated[int, Field(ge=0, le=MAX_BOOTSTRAP)] = 200
    seed: Annotated[int, Field(ge=0, le=2**63 - 1)] = 0


class ControllerChoice(Strict):
    """How γ moves from window to window."""

    half_life: Annotated[float, Field(ge=0.1, le=1000)] = HALF_LIFE
    hysteresis: Annotated[float, Field(ge=0, le=1), unsigned] = FLAT_LOSS
    max_step: Annotated[float, Field(gt=0, le=MAX_GAMMA)] = MAX_STEP
    min_prompts: Annotated[float, Field(ge=LEAST_PROMPTS, le=MAX_PROMPTS)] = MIN_PROMPTS
    initial_gamma: Gamma | None = None


class RunBudget(Strict):
    """Rollouts per prompt in training."""

    num_rollouts: Annotated[int, Field(ge=1, le=MAX_ROLLOUTS)]


class RunRequest(Strict):
    """What a run is judged by, what it trains with and how γ may move; the rest has defaults."""

    metric: Metric
    budget: RunBudget
    search: RunSearch = RunSearch()
    estimator: Estimator = Estimator()
    score_model: ScoreModelChoice | None = None
    prior: Prior = EmpiricalBayesChoice(name="empirical_bayes")
    current: Current = "grpo"
    controller: ControllerChoice = ControllerChoice()
    uncertainty: RunUncertainty = RunUncertainty()
    pilot: SinglePilot | None = None


class WindowCells(Strict):
    """A histogram of the window's groups; empty where there were none."""

    cells: Annotated[list[Cell], Field(fail_fast=True)]


class WindowCounts(Strict):
    """Group by group: successes, of one number of rollouts or one each."""

    num_rollouts: Annotated[
        Annotated[PilotRollouts, Tag("rollouts:one")]
        | Annotated[list[PilotRollouts], Field(fail_fast=True), Tag("rollouts:each")],
        Discriminator(rollouts_form),
    ]
    num_successes: Annotated[list[Annotated[int, Field(ge=0, le=MAX_PILOT_ROLLOUTS)]], Field(fail_fast=True)]


def _window_form(value: Any) -> str:
    return "window:cells" if "cells" in fields_of(value) else "window:counts"


class WindowRequest(
    RootModel[
        Annotated[
            Annotated[WindowCells, Tag("window:cells")] | Annotated[WindowCounts, Tag("window:counts")],
            Discriminator(_window_form),
        ]
    ]
):
    """How many rollouts of each group succeeded: every group that was drawn for training, before any filter."""

    model_config = ConfigDict(strict=True, frozen=True)


class RewindRequest(Strict):
    """The window that comes next again, for a trainer that resumes from a checkpoint made before it."""

    to_index: Annotated[int, Field(ge=0, le=MAX_INDEX)]


Code = Annotated[str, *one_of(CODES)]


class OutcomeAnswer(Answer):
    """What was decided, and why."""

    index: int
    moved: bool
    gamma: float
    code: Code
    reason: str
    status: str
    diagnostics: list[DiagnosticAnswer]
    num_prompts: float
    learning_rate: LearningRateAnswer | None


class DecisionAnswer(OutcomeAnswer):
    """What to train the window `index` with."""

    objective: ObjectiveAnswer


class RunSummary(Answer):
    """A run, its settings as `rl2ml_core.ControllerSettings.from_dict` reads them."""

    id: Annotated[str, Field(pattern="^run_[0-9a-f]{32}$")]
    created: str
    generation: int
    index: int
    settings: dict[str, Any]


class RunAnswer(RunSummary):
    decision: DecisionAnswer


class RunsAnswer(Answer):
    items: list[RunSummary]
    next_cursor: str | None


class WindowAnswer(Answer):
    run: str
    index: int
    generation: int
    num_prompts: float
    decision: DecisionAnswer


class PastWindow(Answer):
    """A window that was put, its cells [num_rollouts, num_successes, num_prompts] and what was decided after it."""

    index: int
    generation: int
    superseded: bool
    put: str
    cells: list[tuple[float, float, float]]
    decision: OutcomeAnswer


class WindowsAnswer(Answer):
    items: list[PastWindow]
    next_cursor: str | None
