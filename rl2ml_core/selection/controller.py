"""γ over a training run: the success counts of a window of steps in, the objective for the next window out. E32.

`start`, `step` and `replay` are pure functions of frozen values. A state has a plain JSON form, and the same windows
give the same bytes in any process: a run is replayed by calling again and rewound by taking an earlier state. γ is the
family parameter, not a discount factor.
"""

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

from rl2ml_core.checks import Array, choice, finite_number, integer
from rl2ml_core.errors import InvalidInput
from rl2ml_core.objective.advantages import AdvantageTable
from rl2ml_core.objective.baselines import Estimator
from rl2ml_core.objective.family import MAX_GAMMA
from rl2ml_core.objective.objective import Objective
from rl2ml_core.objective.population import BetaPrior, ScoreModel
from rl2ml_core.pilot.diagnostics import LEAST_PROMPTS, Diagnostic, pilot_diagnostics
from rl2ml_core.pilot.histogram import PilotHistogram
from rl2ml_core.selection.calibration import LearningRate
from rl2ml_core.selection.metrics import Metric, parse_metric
from rl2ml_core.selection.problem import Problem, Trainer
from rl2ml_core.selection.recommend import MAX_BOOTSTRAP, Recommendation, recommend
from rl2ml_core.selection.status import FLAT_LOSS

__all__ = ["CODES", "SCHEMA", "ControllerSettings", "ControllerState", "Decision", "replay", "start", "step"]

#: Version of the JSON forms. A reader refuses versions that it does not know.
SCHEMA: Final = 1

#: What a decision's code says; `Decision.reason` is the sentence with its numbers.
CODES: Final = {
    "no_evidence": "nothing was measured yet: the initial γ",
    "pilot": "chosen from the pilot",
    "uninformative": "held: what was measured cannot tell one γ from another",
    "little_evidence": "held: too few prompts, none in this window, or counts that leave the choice to the prior",
    "near_optimal": "held: staying loses too little, and too few draws prefer moving",
    "first_choice": "moved all the way: the first choice on enough evidence",
    "limited": "moved towards the best γ by the largest step",
    "moved": "moved to the best γ",
}

#: Windows until a prompt counts half: with fewer windows the evidence is noisier, with more it lags behind the policy
#: (`benchmarks/controller.py`).
HALF_LIFE: Final = 2.0
#: Near-optimal sets are .2 to .6 wide: from the best γ a step of half the least stays within 1 % of it, so that is what
#: one bad window can cost.
MAX_STEP: Final = 0.1
#: The smallest pilots on which fitted priors were measured (docs/decisions.md). Draws tell noise apart with fewer, too,
#: but not the prior's own error.
MIN_PROMPTS: Final = 16.0
#: Share of draws that is worth a move however little staying loses: the level of `recommend`'s intervals.
CONFIDENCE: Final = 0.9
#: The γ that counts do not speak for or against: the constant with the least regret (docs/decisions.md).
INITIAL_GAMMA: Final = 1.0

#: A cell that stands for less is forgotten: a single prompt after ten half-lives.
LEAST_WEIGHT: Final = 2.0**-10
#: Cells that a window may bring and a state keeps; by `rms_gain` a step with as many takes some .2 s
#: (`benchmarks/solver.py`).
MAX_CELLS: Final = 10_000
#: Prompts that a window may stand for: with the longest half-life, their sum is still one that a histogram may hold.
MAX_PROMPTS: Final = 1e8
_SHORTEST, _LONGEST = 0.1, 1000.0

#: What `recommend` is asked in every window alike.
_QUESTION = (
    *("metric", "num_rollouts", "gamma_min", "gamma_max", "criterion", "variance_penalty", "prior", "score_model"),
    *("baseline", "order", "filter_groups"),
)
_ONE_PROMPT = PilotHistogram.from_cells([(2, 1, 1)])
_MOVES = ("first_choice", "limited", "moved")
#: Said of pilots; the controller's counts come from training itself.
_BESIDE_THE_POINT = "metadata_missing"
_FILTERED = "filtered_groups"
#: Baselines that are made from counts, and what stands in until there are any.
_WITHOUT_COUNTS = {"bayes": "leave_one_out", "minimum_variance": "leave_one_out"}


@dataclass(frozen=True)
class ControllerSettings:
    """What a run asks and how it moves.

    Args:
        metric, num_rollouts, gamma_min, gamma_max, criterion, variance_penalty, prior, score_model, baseline, order,
            filter_groups, bootstrap, seed: as `recommend`. A metric is kept by its name; every window uses the seed as
            it is. "bayes" and "minimum_variance" are "leave_one_out" until something was measured.
        current: the trainer whose learning rate was tuned: a catalog name, a γ or an AdvantageTable.
        initial_gamma: γ until something was measured. None: `current` where that is a γ, else 1, or the nearest that
            the range allows.
        half_life: windows until a prompt counts half, 0.1 to 1000.
        hysteresis: γ moves where staying is predicted to lose more than this share of the criterion, or where 90 % of
            the draws prefer moving (κ held; prompts and prior uncertain). 0 always moves, 1 leaves it to the draws.
        max_step: the largest change of γ from one window to the next, above 0; only the first choice that rests on
            enough evidence may be larger.
        min_prompts: prompts, by their decayed weights, below which γ stays; at least 2.

    Raises:
        InvalidInput: a value outside its range.
    """

    metric: str
    num_rollouts: int
    gamma_min: float = 0.0
    gamma_max: float = 2.0
    criterion: str = "lookahead"
    variance_penalty: float | None = None
    prior: BetaPrior | str = "empirical_bayes"
    score_model: ScoreModel | None = None
    baseline: str = "bayes"
    order: int | None = None
    filter_groups: bool = False
    current: str | float | AdvantageTable = "grpo"
    initial_gamma: float | None = None
    half_life: float = HALF_LIFE
    hysteresis: float = FLAT_LOSS
    max_step: float = MAX_STEP
    min_prompts: float = MIN_PROMPTS
    bootstrap: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "metric", _name_of(self.metric))
        # Asked of a single prompt, the question checks itself.
        problem = _problem(self, _ONE_PROMPT)
        Trainer.of(self.current, problem)
        _objective(self, 0.0, problem)
        low, high = problem.gamma_min, problem.gamma_max
        current = self.current if isinstance(self.current, (str, AdvantageTable)) else float(self.current)
        first = self.initial_gamma
        if first is None:
            first = min(max(current if isinstance(current, float) else INITIAL_GAMMA, low), high)
        score_model = self.score_model
        if self.criterion != "paper" and score_model is not None and score_model.is_default:
            score_model = None  # as in `recommend`: not measured
        checked = {
            "num_rollouts": problem.num_rollouts,
            "gamma_min": low,
            "gamma_max": high,
            "variance_penalty": None if self.variance_penalty is None else float(self.variance_penalty),
            "score_model": score_model,
            "order": problem.estimator.order,
            "current": current,
            "initial_gamma": finite_number(first, "initial_gamma", minimum=low, maximum=high),
            "half_life": finite_number(self.half_life, "half_life", minimum=_SHORTEST, maximum=_LONGEST),
            "hysteresis": finite_number(self.hysteresis, "hysteresis", minimum=0, maximum=1),
            "max_step": finite_number(self.max_step, "max_step", above=0, maximum=MAX_GAMMA),
            "min_prompts": finite_number(self.min_prompts, "min_prompts", minimum=LEAST_PROMPTS, maximum=MAX_PROMPTS),
            "bootstrap": integer(self.bootstrap, "bootstrap", minimum=0, maximum=MAX_BOOTSTRAP),
            "seed": integer(self.seed, "seed", minimum=0),
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    @property
    def decay(self) -> float:
        """What a prompt's weight is multiplied by from one window to the next."""
        return float(0.5 ** (1 / self.half_life))

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        content = {"schema": SCHEMA, **{item.name: getattr(self, item.name) for item in fields(self)}}
        if isinstance(self.prior, BetaPrior):
            content["prior"] = asdict(self.prior)
        if self.score_model is not None:
            content["score_model"] = self.score_model.to_dict()
        if isinstance(self.current, AdvantageTable):
            success, failure = self.current.success.tolist(), self.current.failure.tolist()
            content["current"] = {"success": [None, *success[1:]], "failure": [*failure[:-1], None]}
        return content

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Self:
        """The settings of a JSON form; fields that are left out have their defaults.

        Raises:
            InvalidInput: not such a form, unknown fields, another schema version, or values outside their ranges.
        """
        what, names = "controller settings", [item.name for item in fields(cls)]
        given = _object(content, what, ("schema", "metric", "num_rollouts"), names)
        _check_schema(given.pop("schema"), what)
        prior, scores, current = given.get("prior"), given.get("score_model"), given.get("current")
        if isinstance(prior, Mapping):
            given["prior"] = BetaPrior(**_object(prior, "prior", ("alpha", "beta")))
        if isinstance(scores, Mapping):
            given["score_model"] = ScoreModel(**_object(scores, "score_model", (), ("kappa", "kappa_spread", "name")))
        if isinstance(current, Mapping):
            given["current"] = _table(current)
        return cls(**given)


@dataclass(frozen=True, eq=False)
class Decision:
    """What to train the next window with, and why."""

    index: int  # of that window
    gamma: float
    code: str  # a key of `CODES`
    reason: str
    status: str  # of the recommendation; "uninformative" where nothing was measured
    num_prompts: float  # that the evidence stands for, by decayed weights
    #: At this γ, with a baseline made anew from the evidence even where γ stays.
    objective: Objective
    learning_rate: LearningRate | None  # relative to the settings' `current`; None where nothing was measured
    diagnostics: list[Diagnostic]
    #: With the γ in use as its "current" (at the start, the settings'); None where nothing was measured and from JSON.
    recommendation: Recommendation | None = field(default=None, repr=False)

    @property
    def moved(self) -> bool:
        """Whether γ is another than in the window before."""
        return self.code in _MOVES

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "index": self.index,
            "moved": self.moved,
            **self._outcome(),
            "num_prompts": self.num_prompts,
            "learning_rate": None if self.learning_rate is None else self.learning_rate.to_dict(),
            "objective": self.objective.to_dict(),
        }

    def _outcome(self) -> dict[str, Any]:
        """What does not follow from settings and evidence."""
        return {
            "gamma": self.gamma,
            "code": self.code,
            "reason": self.reason,
            "status": self.status,
            "diagnostics": [found.to_dict() for found in self.diagnostics],
        }


@dataclass(frozen=True, eq=False)
class ControllerState:
    """A run between two windows: all that the next decision depends on, and the last one."""

    settings: ControllerSettings
    index: int  # of the next window: as many were seen
    chosen: bool  # whether γ was ever chosen on enough evidence: from then on its steps are limited
    evidence: PilotHistogram | None  # the pilot and all windows, by decayed weights
    decision: Decision

    @property
    def gamma(self) -> float:
        """γ of the next window."""
        return self.decision.gamma

    def to_dict(self) -> dict[str, Any]:
        """The JSON form; objective and learning rate follow from it and are left out."""
        return {
            "schema": SCHEMA,
            "settings": self.settings.to_dict(),
            "index": self.index,
            "chosen": self.chosen,
            "cells": None if self.evidence is None else [list(cell) for cell in self.evidence.cells()],
            "decision": self.decision._outcome(),
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Self:
        """The state of a JSON form, to the last bit; its decision comes without the recommendation.

        Raises:
            InvalidInput: not such a form, unknown fields, another schema version, or values outside their ranges.
        """
        what = "a controller state"
        given = _object(content, what, ("schema", "settings", "index", "chosen", "cells", "decision"))
        _check_schema(given["schema"], what)
        settings = ControllerSettings.from_dict(given["settings"])
        index = integer(given["index"], "index", minimum=0)
        cells = given["cells"]
        evidence = None if cells is None else PilotHistogram.from_cells(_typed(cells, list, "cells"))
        last = _object(given["decision"], "decision", ("gamma", "code", "reason", "status", "diagnostics"))
        decision = _decision(
            settings,
            index,
            evidence,
            finite_number(last["gamma"], "gamma", minimum=settings.gamma_min, maximum=settings.gamma_max),
            choice(last["code"], "code", CODES),
            _typed(last["reason"], str, "reason"),
            _typed(last["status"], str, "status"),
            [_diagnostic(row) for row in _typed(last["diagnostics"], list, "diagnostics")],
        )
        return cls(settings, index, _typed(given["chosen"], bool, "chosen"), evidence, decision)


def start(settings: ControllerSettings, pilot: PilotHistogram | None = None) -> tuple[ControllerState, Decision]:
    """A run before its first window, at the γ that `recommend` chooses from the pilot, or the initial one.

    Args:
        settings: of the run.
        pilot: counts measured before training, the way training samples; they decay like a window's.

    Raises:
        InvalidInput: no PilotHistogram, or one with too many cells or prompts.
    """
    found = None
    if pilot is not None:
        _check_size(pilot, "pilot")
        found = _recommend(settings, pilot, settings.current)
    code, why = _lacking(settings, pilot, found)
    chosen, gamma = not code, settings.initial_gamma or 0.0  # never None once checked
    if found is None or found.gamma is None:
        reason = f"γ = {gamma:.2f} for now: {why}."
    else:
        code, gamma = "pilot", found.gamma
        reason = f"γ = {gamma:.2f}, chosen from the pilot" + (f", for now: {why}." if why else ".")
    return _next(settings, 0, chosen, pilot, found, gamma, code, reason)


def step(state: ControllerState, window: PilotHistogram | None) -> tuple[ControllerState, Decision]:
    """The run one window later. E32.

    Args:
        state: the run before the window, whose index is `state.index`.
        window: the counts of all groups that it trained on, of whatever sizes; a prompt that comes twice counts twice.
            None where there was none.

    Raises:
        InvalidInput: no PilotHistogram, or one with too many cells or prompts.
    """
    settings, gamma = state.settings, state.gamma
    if window is not None:
        _check_size(window, "window")
    evidence = _remember(settings, state.evidence, window)
    found = None if evidence is None else _recommend(settings, evidence, gamma)
    code, why = _lacking(settings, evidence, found)
    if code or found is None:
        reason = f"Held at γ = {gamma:.2f}: {why}."
    elif window is None:
        code, reason = "little_evidence", f"Held at γ = {gamma:.2f}: the window brought no counts."
    else:
        code, gamma, reason = _move(settings, state.chosen, gamma, found)
    chosen = state.chosen or not why
    return _next(settings, state.index + 1, chosen, evidence, found, gamma, code, reason, window)


def replay(
    settings: ControllerSettings, pilot: PilotHistogram | None, windows: Iterable[PilotHistogram | None]
) -> list[ControllerState]:
    """All states of a run: the k-th is the one before window k, the last the one after all of them."""
    states = [start(settings, pilot)[0]]
    for window in windows:
        states.append(step(states[-1], window)[0])
    return states


def _problem(settings: ControllerSettings, evidence: PilotHistogram) -> Problem:
    return Problem.of(evidence, **_question(settings))


def _recommend(
    settings: ControllerSettings, evidence: PilotHistogram, current: str | float | AdvantageTable
) -> Recommendation:
    return recommend(evidence, **_question(settings), current=current, bootstrap=settings.bootstrap, seed=settings.seed)


def _question(settings: ControllerSettings) -> dict[str, Any]:
    return {name: getattr(settings, name) for name in _QUESTION}


def _objective(settings: ControllerSettings, gamma: float, problem: Problem | None) -> Objective:
    """The objective of a γ as `recommend` ships it; without evidence, with a baseline that needs none."""
    if problem is not None:
        return problem.objective(gamma)
    scores, baseline, n = settings.score_model, settings.baseline, settings.num_rollouts
    if scores is None and settings.criterion == "paper":
        scores = ScoreModel.paper()
    return Objective(
        gamma,
        _WITHOUT_COUNTS.get(baseline, baseline),
        None,
        scores,
        Estimator.named(_WITHOUT_COUNTS.get(baseline, baseline), n, None, order=settings.order).effective_order,
        n,
        filter_groups=settings.filter_groups,
    )


def _remember(
    settings: ControllerSettings, evidence: PilotHistogram | None, window: PilotHistogram | None
) -> PilotHistogram | None:
    """The evidence one window later: decayed, without what has next to no weight left, with the window."""
    if evidence is not None:
        weights = evidence.num_prompts * settings.decay
        evidence = _cells(evidence, weights, np.flatnonzero(weights >= LEAST_WEIGHT))
    if evidence is None or window is None:
        return evidence or window
    evidence = evidence + window
    if evidence.num_cells > MAX_CELLS:
        heaviest = np.argsort(-evidence.num_prompts, kind="stable")[:MAX_CELLS]
        return _cells(evidence, evidence.num_prompts, np.sort(heaviest))
    return evidence


def _cells(evidence: PilotHistogram, weights: Array, places: npt.NDArray[np.intp]) -> PilotHistogram | None:
    """Some of the cells under other weights; None where there are none."""
    if not places.size:
        return None
    return PilotHistogram(evidence.num_rollouts[places], evidence.num_successes[places], weights[places])


def _lacking(
    settings: ControllerSettings, evidence: PilotHistogram | None, found: Recommendation | None
) -> tuple[str, str]:
    """Code and reason why γ may not move; both empty where it may."""
    if evidence is None or found is None:
        return "no_evidence", "nothing was measured"
    if found.gamma is None:
        return "uninformative", "what was measured cannot tell one γ from another"
    prompts = evidence.total_prompts
    if prompts < settings.min_prompts:
        return "little_evidence", f"{prompts:.4g} prompts of evidence are fewer than {settings.min_prompts:g}"
    if found.status == "prior_dominated":
        return "little_evidence", "the counts leave the choice to the prior"
    return "", ""


def _move(settings: ControllerSettings, chosen: bool, gamma: float, found: Recommendation) -> tuple[str, float, str]:
    """Code, next γ and sentence where there is enough evidence. E32."""
    best = gamma if found.gamma is None else found.gamma
    gain, draws = found.predicted_gain_over["current"], found.draws
    loss = None if gain is None else max(gain / (1 + gain), 0.0)  # None where the γ in use gains nothing
    share, prefer = 0.0, ""
    if draws is not None:
        # With κ held: it is as unknown in one window as in the next, and would only keep γ from following. The table of
        # the best γ stands first, that of the γ in use last.
        share = float((draws.fixed_at_kappa[:, 0] > draws.fixed_at_kappa[:, -1]).mean())
        prefer = f" ({share:.0%} of draws prefer moving)"
    loses = "gains nothing" if loss is None else f"loses {loss:.1%}"
    if best == gamma or (loss is not None and loss <= settings.hysteresis and share < CONFIDENCE):
        return "near_optimal", gamma, f"Held at γ = {gamma:.2f}: next to {best:.2f}, it {loses}{prefer}."
    after, code, how = best, "moved", ""
    if not chosen:
        code, how = "first_choice", ", the first choice on enough evidence"
    elif abs(best - gamma) > settings.max_step:
        after = gamma + math.copysign(settings.max_step, best - gamma)
        code, how = "limited", f", a step of {settings.max_step:g} towards {best:.2f}"
    return code, after, f"Moved from γ = {gamma:.2f} to {after:.2f}{how}: staying {loses}{prefer}."


def _next(
    settings: ControllerSettings,
    index: int,
    chosen: bool,
    evidence: PilotHistogram | None,
    found: Recommendation | None,
    gamma: float,
    code: str,
    reason: str,
    window: PilotHistogram | None = None,
) -> tuple[ControllerState, Decision]:
    diagnostics: list[Diagnostic] = []
    status = "uninformative"
    if evidence is not None and found is not None:
        status = found.status
        diagnostics = [said for said in found.diagnostics if said.code != _BESIDE_THE_POINT]
        if window is not None and all(said.code != _FILTERED for said in diagnostics):
            # Older evidence that has groups of equal rewards would hide that the window has none.
            of_window = pilot_diagnostics(window, None, evidence.fitted_prior)
            diagnostics += [said for said in of_window if said.code == _FILTERED]
    decision = _decision(settings, index, evidence, gamma, code, reason, status, diagnostics, found)
    return ControllerState(settings, index, chosen, evidence, decision), decision


def _decision(
    settings: ControllerSettings,
    index: int,
    evidence: PilotHistogram | None,
    gamma: float,
    code: str,
    reason: str,
    status: str,
    diagnostics: list[Diagnostic],
    recommendation: Recommendation | None = None,
) -> Decision:
    """An outcome with what follows from it and the evidence."""
    problem = None if evidence is None else _problem(settings, evidence)
    objective = _objective(settings, gamma, problem)
    learning_rate = None
    if problem is not None:
        trainer = Trainer.of(settings.current, problem)
        rms = objective.table(settings.num_rollouts).rms(problem.population)
        learning_rate = problem.learning_rate(trainer, rms, trainer.rms(problem.population))
    prompts = 0.0 if evidence is None else evidence.total_prompts
    return Decision(index, gamma, code, reason, status, prompts, objective, learning_rate, diagnostics, recommendation)


def _name_of(metric: Metric | str) -> str:
    """A metric's name, which must give it back."""
    name = parse_metric(metric).name
    if parse_metric(name).name != name:
        raise InvalidInput(f"metric must be one that its name gives back; got {name!r:.60}", field="metric")
    return name


def _check_size(counts: PilotHistogram, what: str) -> None:
    if not isinstance(counts, PilotHistogram):
        raise InvalidInput(
            f"{what} must be a PilotHistogram (see from_counts) or None; got {type(counts).__name__}", field=what
        )
    if counts.num_cells > MAX_CELLS or counts.total_prompts > MAX_PROMPTS:
        raise InvalidInput(
            f"{what} must have at most {MAX_CELLS:,} cells and {MAX_PROMPTS:g} prompts; got {counts.num_cells:,} cells "
            f"and {counts.total_prompts:g} prompts",
            field=what,
        )


def _check_schema(schema: object, what: str) -> None:
    if schema != SCHEMA:
        raise InvalidInput(f"{what} must be of schema {SCHEMA}; got {schema!r:.40}", field="schema")


def _object(content: object, what: str, required: Collection[str], optional: Collection[str] = ()) -> dict[str, Any]:
    """The fields of a JSON object: all that are required, none that is unknown."""
    given = dict(_typed(content, Mapping, what))
    for name in required:
        if name not in given:
            raise InvalidInput(f"{what} must have {', '.join(required)}; got no {name}", field=name)
    for name in given:
        if name not in required and name not in optional:
            raise InvalidInput(f"{what} must have known fields only; got {name!r:.60}", field=str(name))
    return given


def _typed(value: object, kind: type, field: str) -> Any:
    if not isinstance(value, kind):
        expected = {list: "a list", bool: "true or false", str: "text", Mapping: "an object"}[kind]
        raise InvalidInput(f"{field} must be {expected}; got {value!r:.60}", field=field)
    return value


def _table(content: object) -> AdvantageTable:
    """The first success and the last failure are null: there is no such rollout."""
    given = _object(content, "current", ("success", "failure"))
    success, failure = (_typed(given[name], list, f"current.{name}") for name in ("success", "failure"))
    numbers = [0.0, *success[1:]], [*failure[:-1], 0.0]
    return AdvantageTable(*(np.array([finite_number(x, "current") for x in side]) for side in numbers))


def _diagnostic(content: object) -> Diagnostic:
    names = [item.name for item in fields(Diagnostic)]
    given = _object(content, "diagnostics", names)
    return Diagnostic(**{name: _typed(given[name], str, f"diagnostics.{name}") for name in names})
