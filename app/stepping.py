"""A step of a run's controller: the same functions here and in a pool process, what they cost, and their JSON."""

import json
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import rl2ml_core as rl2ml
from app.answers import as_json
from app.problems import Problem
from app.schemas.common import RatesPilot, Table
from app.schemas.runs import RunRequest, WindowCells, WindowRequest
from app.settings import Settings
from app.solving import POINTERS, Question
from app.stored_runs import Decided
from app.values import check_size, limit, metric_of, pilot_of, prior_of, refusing, scores_of, table_of
from rl2ml_core.selection.controller import ControllerSettings, ControllerState, Decision, start, step

__all__ = ["Start", "Step", "begin", "cells_of", "settings_of", "state_of", "take", "window_of"]

_CONTROLLER = ("half_life", "hysteresis", "max_step", "min_prompts", "initial_gamma")
_POINTERS = {
    **POINTERS,
    **{name: f"#/controller/{name}" for name in _CONTROLLER},
    "num_rollouts": "#/budget/num_rollouts",
    "bootstrap": "#/uncertainty/bootstrap",
    "seed": "#/uncertainty/seed",
    "pilot": "#/pilot",
}
#: What a step takes besides its solve: the objective, the learning rate, JSON.
_BESIDES = 1.2


def settings_of(request: RunRequest, settings: Settings) -> ControllerSettings:
    """The controller's settings, within the service's limits.

    Raises:
        Problem: a limit exceeded, or values that the core refuses.
    """
    search, current = request.search, request.current
    limit(request.budget.num_rollouts, settings.max_run_rollouts, "#/budget/num_rollouts", "rollouts per prompt")
    limit(search.gamma_max, settings.max_gamma, "#/search/gamma_max", "γ")
    limit(request.uncertainty.bootstrap, settings.max_bootstrap, "#/uncertainty/bootstrap", "draws")
    with refusing(_POINTERS):
        return ControllerSettings(
            metric=metric_of(request.metric).name,
            num_rollouts=request.budget.num_rollouts,
            gamma_min=search.gamma_min,
            gamma_max=search.gamma_max,
            criterion=search.criterion,
            variance_penalty=search.variance_penalty,
            prior=prior_of(request.prior),
            score_model=scores_of(request.score_model),
            baseline=request.estimator.baseline,
            # An order of N is no truncation: one content for an idempotency key.
            order=None if request.estimator.order == request.budget.num_rollouts else request.estimator.order,
            filter_groups=request.estimator.filter_groups,
            current=table_of(current, "current") if isinstance(current, Table) else current,
            bootstrap=request.uncertainty.bootstrap,
            seed=request.uncertainty.seed,
            **{name: getattr(request.controller, name) for name in _CONTROLLER},
        )


def window_of(request: WindowRequest, settings: Settings) -> rl2ml.PilotHistogram | None:
    """A window's counts; None where it has none.

    Raises:
        Problem: a limit exceeded, or values that the core refuses.
    """
    window = request.root
    counts = window.cells if isinstance(window, WindowCells) else window.num_successes
    if isinstance(window, WindowCells):
        limit(len(counts), settings.max_cells, "#/cells", "cells")
        pointers = dict.fromkeys(("cells", "num_rollouts", "num_successes", "num_prompts"), "#/cells")
    else:
        limit(len(counts), settings.max_prompts, "#/num_successes", "groups")
        pointers = {name: f"#/{name}" for name in ("num_rollouts", "num_successes")}
        if isinstance(window.num_rollouts, list) and len(window.num_rollouts) != len(counts):
            raise Problem("invalid-request", errors=[("#/num_rollouts", "must be as long as num_successes")])
    if not counts:
        return None
    with refusing(pointers):
        if isinstance(window, WindowCells):
            return rl2ml.PilotHistogram.from_cells(
                [(cell.num_rollouts, cell.num_successes, cell.num_prompts) for cell in window.cells]
            )
        return rl2ml.PilotHistogram.from_counts(window.num_successes, window.num_rollouts)


def cells_of(counts: rl2ml.PilotHistogram | None) -> str:
    """Counts as JSON, the same for every form of them."""
    return json.dumps([] if counts is None else counts.cells(), separators=(",", ":"))


def state_of(settings: ControllerSettings, text: str) -> ControllerState:
    """The state that was kept."""
    return ControllerState.from_dict({**json.loads(text), "settings": settings.to_dict()})


@dataclass(frozen=True, eq=False)
class Start:
    """A run about to begin; sent to pool processes."""

    settings: ControllerSettings
    pilot: rl2ml.PilotHistogram | None

    @classmethod
    def of(cls, request: RunRequest, settings: Settings) -> "Start":
        """Check the service's limits, then build the core's values.

        Raises:
            Problem: a limit exceeded, or values that the core refuses.
        """
        if isinstance(request.pilot, RatesPilot) and request.pilot.num_rollouts is None:
            raise Problem("invalid-request", errors=[("#/pilot/num_rollouts", "needed: a run's pilot has counts")])
        check_size(request.pilot, settings)
        chosen, pilot = settings_of(request, settings), None
        with refusing(_POINTERS, request.pilot):
            if request.pilot is not None:
                found = pilot_of(request.pilot)
                pilot = found if isinstance(found, rl2ml.PilotHistogram) else None
        made = cls(chosen, pilot)
        _check(made.settings, pilot, settings)
        return made

    @cached_property
    def milliseconds(self) -> float:
        """Predicted time."""
        return _milliseconds(self.settings, self.pilot)

    @property
    def is_trivial(self) -> bool:
        """Whether nothing is solved."""
        return self.pilot is None


@dataclass(frozen=True, eq=False)
class Step:
    """A run and its next window; sent to pool processes."""

    state: ControllerState
    window: rl2ml.PilotHistogram | None

    def check(self, settings: Settings) -> None:
        """Refuse what the service would not solve.

        Raises:
            Problem: "limit-exceeded".
        """
        try:
            _check(self.state.settings, self._evidence, settings)
        except Problem as refusal:
            # It names parts of a recommendation's body; a window's has none of them.
            errors = [("#", f"{detail}, with the run's evidence") for _, detail in refusal.errors]
            raise Problem(refusal.name, refusal.detail, errors=errors) from None

    @cached_property
    def milliseconds(self) -> float:
        """Predicted time."""
        return _milliseconds(self.state.settings, self._evidence)

    @property
    def is_trivial(self) -> bool:
        """Whether nothing is solved."""
        return self._evidence is None

    @cached_property
    def _evidence(self) -> rl2ml.PilotHistogram | None:
        """What is solved has these cells, or fewer."""
        before = self.state.evidence
        return before + self.window if before is not None and self.window is not None else before or self.window


def begin(start_of: Start) -> tuple[ControllerState, Decided]:
    """The run before its first window.

    Raises:
        Problem: values that the core refuses.
    """
    with refusing(_POINTERS):
        return _kept(*start(start_of.settings, start_of.pilot))


def take(step_of: Step) -> tuple[ControllerState, Decided]:
    """The run one window later.

    Raises:
        Problem: values that the core refuses.
    """
    with refusing({"window": "#"}):
        return _kept(*step(step_of.state, step_of.window))


def _kept(state: ControllerState, decision: Decision) -> tuple[ControllerState, Decided]:
    """The state without the draws behind its decision, and its JSON."""
    content, outcome = state.to_dict(), decision.to_dict()
    objective = outcome.pop("objective")
    del content["settings"]
    texts = (as_json(part).decode() for part in (content, outcome, objective))
    return replace(state, decision=replace(decision, recommendation=None)), Decided(*texts)


def _question(settings: ControllerSettings, evidence: rl2ml.PilotHistogram) -> Question:
    names = ("gamma_min", "gamma_max", "criterion", "prior", "bootstrap")
    options: dict[str, Any] = {name: getattr(settings, name) for name in names}
    return Question(evidence, {}, rl2ml.parse_metric(settings.metric), settings.num_rollouts, None, False, options)


def _milliseconds(settings: ControllerSettings, evidence: rl2ml.PilotHistogram | None) -> float:
    return _BESIDES + (0.0 if evidence is None else _question(settings, evidence).milliseconds)


def _check(settings: ControllerSettings, evidence: rl2ml.PilotHistogram | None, limits: Settings) -> None:
    if evidence is not None:
        _question(settings, evidence).check_work(limits)
