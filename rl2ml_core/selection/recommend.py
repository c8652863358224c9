"""From a pilot to the objective to train with: `recommend`, the one entry.

γ is the family parameter, not a discount factor. Shapes: C cells, G values of γ, N rollouts per prompt.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from rl2ml_core.checks import Array, choice, finite_number, integer
from rl2ml_core.errors import InvalidInput
from rl2ml_core.objective.advantages import AdvantageTable
from rl2ml_core.objective.baselines import Baseline, resolve_baseline
from rl2ml_core.objective.catalog import KNOWN_TRAINERS, known_table
from rl2ml_core.objective.family import MAX_GAMMA, MAX_ROLLOUTS, success_weights
from rl2ml_core.objective.objective import Objective
from rl2ml_core.objective.population import BetaPrior, Population, ScoreModel
from rl2ml_core.pilot.diagnostics import LEAST_PROMPTS, Diagnostic, pilot_diagnostics, set_by_prior
from rl2ml_core.pilot.histogram import PilotHistogram
from rl2ml_core.pilot.prior import posterior
from rl2ml_core.selection.calibration import LearningRate, calibrate
from rl2ml_core.selection.chebyshev import (
    Certificate,
    Interpolant,
    first_degree,
    grid_and_matrix,
    interpolate,
    piece_edges,
)
from rl2ml_core.selection.criteria import Criterion, Paper, PreparedWeights, RmsGain
from rl2ml_core.selection.metrics import Metric, parse_metric
from rl2ml_core.selection.uncertainty import Interval, NearOptimal, draw, kappa_draws, near_optimal, peaks
from rl2ml_core.version import METHOD_VERSION, __version__

__all__ = ["CRITERIA", "Curve", "Recommendation", "recommend"]

CRITERIA = ("rms_gain", "paper")
STATUSES = ("interior", "at_lower_bound", "at_upper_bound", "flat", "prior_dominated", "uninformative")

#: λ of Eq. 4 where none is given: the best of the four values measured (docs/decisions.md).
DEFAULT_VARIANCE_PENALTY = 0.01
#: A share of the criterion below which a difference does not matter.
FLAT_LOSS = 0.01
#: A metric with less expected headroom than this share of its range is saturated on the pilot.
SATURATED_HEADROOM = 1e-3
MAX_BOOTSTRAP = 100_000
_SENSITIVITY_KAPPAS = (0.01, 0.03, 0.1, 0.3, 1.0)
_CURVE_EVERY = 2
_RL_AND_MAXRL = np.array([0.0, 1.0])
_KEPT_WEIGHTS = 1 << 17  # a megabyte at most for each range and N
_VALUES_AT_ONCE = 1 << 20


@dataclass(frozen=True, eq=False)
class Curve:
    """The criterion over γ relative to its maximum, with the draws' pointwise band (None without draws); each [R]."""

    gamma: Array
    relative_criterion: Array
    lower: Array | None
    upper: Array | None

    def to_dict(self) -> dict[str, Any]:
        band = {name: None if side is None else side.tolist() for name, side in self._band()}
        return {"gamma": self.gamma.tolist(), "relative_criterion": self.relative_criterion.tolist(), **band}

    def _band(self) -> list[tuple[str, Array | None]]:
        return [("lower", self.lower), ("upper", self.upper)]


@dataclass(frozen=True, eq=False)
class Recommendation:
    """What to train with, how sure that is and how much is at stake.

    γ, the objective and everything derived from them are None when `status` is "uninformative"; intervals, probability
    and regret are None without draws.
    """

    summary: str
    gamma: float | None
    status: str
    regime: str | None
    interval: Interval | None  # for the best γ, prompts and κ uncertain
    sampling_interval: Interval | None  # prompts alone
    near_optimal: NearOptimal | None
    probability_subcritical: float | None  # P(best γ < 1)
    expected_regret: float | None  # mean share of the criterion that the shipped γ loses
    predicted_gain_over: dict[str, float | None]  # of "rl", "maxrl" and "current", relative
    learning_rate: LearningRate | None
    objective: Objective | None
    kappa_sensitivity: list[dict[str, float]]
    curve: Curve | None
    certificate: Certificate | None
    diagnostics: list[Diagnostic]
    assumptions: list[str]

    def to_dict(self) -> dict[str, Any]:
        """The JSON form: the service's answer without its id."""
        return {
            "method_version": METHOD_VERSION,
            "core_version": __version__,
            "summary": self.summary,
            "gamma": self.gamma,
            "status": self.status,
            "regime": self.regime,
            "interval": _fields(self.interval),
            "sampling_interval": _fields(self.sampling_interval),
            "near_optimal": _fields(self.near_optimal),
            "probability_subcritical": self.probability_subcritical,
            "expected_regret": self.expected_regret,
            "predicted_gain_over": self.predicted_gain_over,
            "learning_rate": self.learning_rate.to_dict() if self.learning_rate else None,
            "objective": self.objective.to_dict() if self.objective else None,
            "kappa_sensitivity": self.kappa_sensitivity,
            "curve": self.curve.to_dict() if self.curve else None,
            "certificate": _fields(self.certificate),
            "diagnostics": [found.to_dict() for found in self.diagnostics],
            "assumptions": self.assumptions,
        }


def recommend(
    pilot: PilotHistogram | Population,
    metric: Metric | str,
    num_rollouts: int,
    *,
    gamma_min: float = 0.0,
    gamma_max: float = 2.0,
    criterion: str = "rms_gain",
    variance_penalty: float | None = None,
    prior: BetaPrior | str = BetaPrior(1, 1),  # noqa: B008  (frozen)
    score_model: ScoreModel | None = None,
    baseline: str = "bayes",
    current: str | float | AdvantageTable = "grpo",
    bootstrap: int = 200,
    seed: int = 0,
    level: float = 0.9,
) -> Recommendation:
    """The objective to train with: the γ that maximizes the criterion on [gamma_min, gamma_max], and its estimator.

    Deterministic for a seed and independent of the order of prompts.

    Args:
        pilot: success counts; or a Population of known pass rates (point masses: no intervals).
        metric: what you are judged on: a Metric, or "pass@8", "log:0.01", "0.5*pass@1+0.5*pass@16".
        num_rollouts: N, rollouts per prompt in training, 1 to 65,536.
        gamma_min, gamma_max: the range searched, within [0, 20].
        criterion: "rms_gain", gain per root-mean-square update length; or "paper", Eq. 4 with `variance_penalty`.
        variance_penalty: λ of Eq. 4; only with criterion "paper", 0.01 when None.
        prior: BetaPrior(alpha, beta) on a prompt's pass rate, or "plug_in" for raw k/n.
        score_model: ScoreModel(kappa, kappa_spread); the default uses κ = 0.1 and draws κ from [0.01, 1] for the
            interval.
        baseline: a key of `BASELINES`.
        current: the trainer in use, whose learning rate was tuned: a catalog name, a γ or an AdvantageTable.
        bootstrap: draws for the intervals; 0 for none.
        seed: of the draws.
        level: probability of the intervals.

    Raises:
        InvalidInput: a value outside its range; the message says what was got and what was expected.
    """
    if criterion != "paper" and isinstance(score_model, ScoreModel) and score_model.is_default:
        score_model = None
    problem = _Problem.of(
        pilot, metric, num_rollouts, gamma_min, gamma_max, criterion, variance_penalty, prior, score_model, baseline
    )
    bootstrap = integer(bootstrap, "bootstrap", minimum=0, maximum=MAX_BOOTSTRAP)
    seed = integer(seed, "seed", minimum=0)
    level = finite_number(level, "level", minimum=0.5, maximum=0.999)
    trainer = _Trainer.of(current, problem)
    diagnostics = pilot_diagnostics(pilot) if isinstance(pilot, PilotHistogram) else []
    if trainer.table is None:
        diagnostics.append(Diagnostic("current_undefined", "info", trainer.why_undefined))

    reason = problem.why_uninformative()
    if reason is None:
        solution = _solve(problem, trainer)
        if not solution.node_terms[0].any():  # no gain at any γ
            reason = "no prompt has both successes and failures to learn from under this prior"
    if reason is not None:
        return _uninformative(reason, diagnostics)

    status = _status(problem, solution, diagnostics)
    chosen = solution.table if problem.valued is problem.baseline else problem.table(solution.gamma)
    n = problem.num_rollouts
    scores = problem.scores if criterion == "paper" else score_model
    objective = Objective(solution.gamma, problem.baseline_name, problem.population, scores, n, n)
    objective = objective._with_table(chosen)
    learning_rate = _learning_rate(problem, solution, chosen, trainer)
    gains = {
        name: None if value is None or not value > 0 else solution.value / value - 1
        for name, value in (("rl", solution.at_zero), ("maxrl", solution.at_one), ("current", solution.at_current))
    }
    grid, to_grid = grid_and_matrix(problem.gamma_min, problem.gamma_max, solution.interpolant.degree)
    values = solution.node_values @ to_grid
    near = near_optimal(grid, values, solution.gamma, solution.value, FLAT_LOSS)

    interval = sampling = band = None
    probability = regret = None
    # With one rollout there is nothing to choose, and with hardly a prompt nothing to resample.
    resampled = isinstance(pilot, PilotHistogram) and pilot.total_prompts >= LEAST_PROMPTS and n > 1
    if bootstrap and resampled and isinstance(pilot, PilotHistogram):
        rng = np.random.default_rng(seed)
        known = np.full(bootstrap, problem.scores.kappa)
        unknown = kappa_draws(score_model, bootstrap, rng) if criterion == "rms_gain" else None
        scenarios = [known] if unknown is None else [known, unknown]
        shipped = problem.criterion.per_cell(solution.table.success[None], solution.table.failure[None])
        nodes = problem.search_per_cell(solution.gammas)[:, :, : solution.node_values.size]
        per_cell = np.concatenate([nodes, shipped], axis=2)
        # The curve's own points suffice for draws: peaks between them are refined.
        coarse, to_coarse = grid[::_CURVE_EVERY], to_grid[:, ::_CURVE_EVERY]
        results = draw(problem.criterion, per_cell, to_coarse, coarse, pilot.num_prompts, scenarios, bootstrap, rng)
        sampling, interval = results[0].interval(level), results[-1].interval(level)
        band = results[-1].band(level)
        regret = results[-1].regret
        if problem.gamma_min < 1 < problem.gamma_max:
            probability = float((results[-1].best < 1).mean())

    return Recommendation(
        summary=_summary(status, solution, near, gains, trainer, problem),
        gamma=solution.gamma,
        status=status,
        regime=_regime(solution.gamma),
        interval=interval,
        sampling_interval=sampling,
        near_optimal=near,
        probability_subcritical=probability,
        expected_regret=regret,
        predicted_gain_over=gains,
        learning_rate=learning_rate,
        objective=objective,
        kappa_sensitivity=_kappa_sensitivity(problem, solution, grid, to_grid),
        # Relative to a maximum that is not positive (Eq. 4 subtracts) a curve would mislead.
        curve=Curve(grid[::_CURVE_EVERY], (values / solution.value)[::_CURVE_EVERY], *(band or (None, None)))
        if solution.value > 0
        else None,
        certificate=Certificate(
            solution.interpolant.degree, solution.interpolant.tail, tuple(solution.stationary.tolist())
        ),
        diagnostics=diagnostics,
        assumptions=problem.assumptions(pilot, criterion, variance_penalty, score_model),
    )


@dataclass(frozen=True, eq=False)
class _Problem:
    """A validated question: what is known, what is judged, what may be chosen."""

    pilot: PilotHistogram | None
    population: Population
    metric: Metric
    num_rollouts: int
    gamma_min: float
    gamma_max: float
    baseline_name: str
    baseline: Baseline  # of the estimator that ships
    valued: Baseline  # of the estimator that the criterion values
    scores: ScoreModel
    criterion: Criterion

    @classmethod
    def of(
        cls,
        pilot: PilotHistogram | Population,
        metric: Metric | str,
        num_rollouts: int,
        gamma_min: float,
        gamma_max: float,
        criterion: str,
        variance_penalty: float | None,
        prior: BetaPrior | str,
        score_model: ScoreModel | None,
        baseline: str,
    ) -> "_Problem":
        if not isinstance(pilot, (PilotHistogram, Population)):
            raise InvalidInput(
                "pilot must be a PilotHistogram (see from_counts, read_pilot) or a Population; "
                f"got {type(pilot).__name__}",
                field="pilot",
            )
        judged = parse_metric(metric)
        n = integer(num_rollouts, "num_rollouts", minimum=1, maximum=MAX_ROLLOUTS)
        low = finite_number(gamma_min, "gamma_min", minimum=0, maximum=MAX_GAMMA)
        high = finite_number(gamma_max, "gamma_max", minimum=0, maximum=MAX_GAMMA)
        if low > high:
            raise InvalidInput(f"gamma_min must not exceed gamma_max; got {low:g} > {high:g}", field="gamma_min")
        choice(criterion, "criterion", CRITERIA)
        penalty = DEFAULT_VARIANCE_PENALTY
        if variance_penalty is not None:
            if criterion != "paper":
                raise InvalidInput(
                    "variance_penalty belongs to criterion 'paper'; 'rms_gain' needs none", field="variance_penalty"
                )
            penalty = finite_number(variance_penalty, "variance_penalty", minimum=0, maximum=1e6)
        population = pilot if isinstance(pilot, Population) else posterior(pilot, prior)
        if score_model is not None and not isinstance(score_model, ScoreModel):
            raise InvalidInput(f"score_model must be a ScoreModel; got {score_model!r:.60}", field="score_model")
        if criterion == "paper":
            scores = score_model or ScoreModel.paper()
            if scores.kappa_spread:
                raise InvalidInput("criterion 'paper' draws no κ: it takes no kappa_spread", field="score_model")
            valued: Criterion = Paper(population, judged, n, scores, penalty)
        else:
            scores = score_model or ScoreModel()
            if scores.name == "paper":
                raise InvalidInput(
                    "criterion 'rms_gain' takes ScoreModel(kappa=…); ScoreModel.paper() serves criterion 'paper'",
                    field="score_model",
                )
            valued = RmsGain(population, judged, n)
        name = resolve_baseline(baseline, population)
        shipped = Baseline.named(name, n, population)
        return cls(
            pilot=pilot if isinstance(pilot, PilotHistogram) else None,
            population=population,
            metric=judged,
            num_rollouts=n,
            gamma_min=low,
            gamma_max=high,
            baseline_name=name,
            baseline=shipped,
            # Eq. 3 is the variance of the direct estimator.
            valued=Baseline.named("none", n, None) if criterion == "paper" else shipped,
            scores=scores,
            criterion=valued,
        )

    def search(self, gamma: Array) -> Array:
        """The criterion's terms at each γ that is searched, [terms, G]."""
        return self._in_parts(gamma, lambda weights: self.criterion.family_totals(weights, self.valued))

    def search_per_cell(self, gamma: Array) -> Array:
        """The same for every cell, [terms, C, G]."""
        return self._in_parts(gamma, lambda weights: self.criterion.family_per_cell(weights, self.valued))

    def terms(self, *tables: AdvantageTable) -> Array:
        """The criterion's terms of any tables, [terms, tables]."""
        return self.criterion.totals(np.array([t.success for t in tables]), np.array([t.failure for t in tables]))

    def values(self, terms: Array) -> Array:
        """The criterion of terms [terms, G] → [G]."""
        return self.criterion.combine(terms, self.scores.kappa)

    def table(self, gamma: float, *, valued: bool = False) -> AdvantageTable:
        """The table that training uses at a γ; or, `valued`, the one that the criterion values."""
        weights = success_weights(gamma, self.num_rollouts)
        success, failure = (self.valued if valued else self.baseline).tables(weights[None])
        return AdvantageTable.trusted(success[0], failure[0])

    def _in_parts(self, gamma: Array, function: Callable[[PreparedWeights], Array]) -> Array:
        """`function` of the success weights at every γ, of so many at a time that they stay within a few megabytes."""
        if gamma.size * self.num_rollouts <= _KEPT_WEIGHTS:
            return function(_kept_weights(gamma.tobytes(), self.num_rollouts))
        rows = max(1, _VALUES_AT_ONCE // self.num_rollouts)
        parts = [gamma[start : start + rows] for start in range(0, gamma.size, rows)]
        found = [function(PreparedWeights.of(success_weights(part, self.num_rollouts))) for part in parts]
        return np.concatenate(found, axis=-1)

    def why_uninformative(self) -> str | None:
        """Why no γ can be told from this pilot, or None."""
        occupied = self.population.weights > 0
        if not self.population.successes[occupied].any():
            return "the pilot has no success at all; make the prompts easier, or sample far more rollouts"
        if not self.population.failures[occupied].any():
            return "the pilot has no failure at all: there is nothing left to learn from these prompts"
        weights = self.population.weights
        headroom = float(weights @ self.metric.headroom(self.population) / weights.sum())
        if headroom < SATURATED_HEADROOM:
            return f"{self.metric.name} is saturated on this pilot: {1 - headroom:.2%} of its range is reached already"
        return None

    def assumptions(
        self,
        pilot: PilotHistogram | Population,
        criterion: str,
        variance_penalty: float | None,
        score_model: ScoreModel | None,
    ) -> list[str]:
        """What the answer rests on, as stable codes."""
        stated = ["pilot_policy_is_current", "binary_rewards", "judged_prompts_resemble_pilot"]
        if isinstance(pilot, Population):
            stated.append("pass_rates_are_exact")
        if criterion == "paper":
            stated += ["paper_score_proxies"] * (score_model is None)
            stated += ["default_variance_penalty"] * (variance_penalty in (None, DEFAULT_VARIANCE_PENALTY))
        elif score_model is None:
            stated.append("default_kappa")
        return stated


@lru_cache(maxsize=32)
def _kept_weights(gamma: bytes, num_rollouts: int) -> PreparedWeights:
    """Success weights where a range is searched: the same for every pilot."""
    return PreparedWeights.of(success_weights(np.frombuffer(gamma), num_rollouts))


@dataclass(frozen=True, eq=False)
class _Trainer:
    """The trainer in use."""

    label: str  # as the answer names it
    spoken: str  # as a sentence names it
    table: AdvantageTable | None
    why_undefined: str = ""

    @classmethod
    def of(cls, current: str | float | AdvantageTable, problem: _Problem) -> "_Trainer":
        n = problem.num_rollouts
        if isinstance(current, AdvantageTable):
            if current.num_rollouts != n:
                raise InvalidInput(
                    f"current is a table for {current.num_rollouts} rollouts per prompt; expected {n}", field="current"
                )
            return cls("table", "your table", current)
        if not isinstance(current, str):
            gamma = finite_number(current, "current", minimum=0, maximum=MAX_GAMMA)
            return cls(f"gamma={gamma:g}", f"your γ={gamma:g}", problem.table(gamma))
        name = choice(current, "current", KNOWN_TRAINERS)
        spoken = f"your {_SPOKEN.get(name, name.upper())}"
        if n < KNOWN_TRAINERS[name].least_rollouts:
            return cls(
                name, spoken, None, f"{name} has no gradient with {n} rollout per prompt, so nothing to compare."
            )
        return cls(name, spoken, known_table(name, n))


_SPOKEN = {"dr_grpo": "Dr. GRPO", "maxrl": "MaxRL", "maxrl_centered": "MaxRL"}


@dataclass(frozen=True, eq=False)
class _Solution:
    """The certified maximum and the values that it is compared with."""

    gamma: float
    value: float
    table: AdvantageTable  # that the criterion values at the best γ
    stationary: Array
    interpolant: Interpolant
    gammas: Array  # all that were searched: the Q interpolation nodes, the piece edges, 0 and 1
    node_values: Array  # [Q]
    node_terms: Array  # [terms, Q]
    terms: Array  # at the best γ, [terms, 1]
    current_terms: Array | None  # of the trainer in use, [terms, 1]
    at_zero: float
    at_one: float
    at_current: float | None


def _solve(problem: _Problem, trainer: _Trainer) -> _Solution:
    edges = piece_edges(problem.gamma_min, problem.gamma_max)
    searched: dict[str, Array] = {}

    def evaluate(nodes: Array) -> Array:
        """The criterion at the nodes; on the way at the piece edges, γ = 0 and γ = 1."""
        gammas = np.concatenate([nodes, edges, _RL_AND_MAXRL])
        terms = problem.search(gammas)
        values = problem.values(terms)
        searched.update(gammas=gammas, terms=terms, values=values)
        return values[: nodes.size]

    found, node_values = interpolate(evaluate, problem.gamma_min, problem.gamma_max, first_degree(problem.num_rollouts))
    gammas, terms, values = searched["gammas"], searched["terms"], searched["values"]
    nodes = node_values.size
    stationary = found.stationary_points()
    # Candidates are the piece edges and the stationary points; the interpolant ranks them.
    at_edges = values[nodes : nodes + edges.size]
    best = int(np.argmax(at_edges))
    gamma, value = float(edges[best]), float(at_edges[best])
    for point in stationary.tolist():
        height = found(point)
        if height > value:
            gamma, value = point, height
    # The answer's own value is exact, with that of the trainer in use.
    table = problem.table(gamma, valued=True)
    exact_terms = problem.terms(table) if trainer.table is None else problem.terms(table, trainer.table)
    exact = problem.values(exact_terms).tolist()
    return _Solution(
        gamma=gamma,
        value=exact[0],
        table=table,
        stationary=stationary,
        interpolant=found,
        gammas=gammas,
        node_values=node_values,
        node_terms=terms[:, :nodes],
        terms=exact_terms[:, :1],
        current_terms=None if trainer.table is None else exact_terms[:, 1:],
        at_zero=float(values[-2]),
        at_one=float(values[-1]),
        at_current=None if trainer.table is None else exact[1],
    )


def _learning_rate(problem: _Problem, solution: _Solution, chosen: AdvantageTable, trainer: _Trainer) -> LearningRate:
    if isinstance(problem.criterion, RmsGain):
        rms = problem.criterion.advantage_rms(solution.terms)
        reference = None if solution.current_terms is None else problem.criterion.advantage_rms(solution.current_terms)
    else:
        rms = chosen.rms(problem.population)
        reference = None if trainer.table is None else trainer.table.rms(problem.population)
    return calibrate(reference, rms, trainer.label)


def _status(problem: _Problem, solution: _Solution, diagnostics: list[Diagnostic]) -> str:
    """The status, with the diagnostic that explains it."""
    scale = abs(solution.value) or 1.0
    loss_at_zero, loss_at_one = ((solution.value - value) / scale for value in (solution.at_zero, solution.at_one))
    if problem.num_rollouts == 1:
        diagnostics.append(Diagnostic("single_rollout", "info", "With one rollout per prompt every γ is plain RL."))
        return "flat"
    if problem.pilot is not None and problem.population.prior is not None:
        why = set_by_prior(problem.pilot)
        if why is not None:
            detail = f"The prior shapes this answer: {why}."
            diagnostics.append(Diagnostic("prior_dominated", "warning", detail))
            return "prior_dominated"
    # Outside the range they may also be better than anything inside it: that is no flat criterion.
    if max(abs(loss_at_zero), abs(loss_at_one)) <= FLAT_LOSS:
        detail = "γ = 0 and γ = 1 are each within 1 % of the best: keep what you have."
        diagnostics.append(Diagnostic("flat", "info", detail))
        return "flat"
    if problem.gamma_min == problem.gamma_max:
        detail = f"γ = {problem.gamma_min:g} was the only one to choose from."
        diagnostics.append(Diagnostic("single_gamma", "info", detail))
        return "at_lower_bound"
    for side, gamma in (("lower", problem.gamma_min), ("upper", problem.gamma_max)):
        if solution.gamma == gamma:
            slope = solution.interpolant.slope(gamma) / scale
            staying = f"lose {loss_at_one:.1%}" if loss_at_one >= 0 else f"gain {-loss_at_one:.1%}"
            detail = (
                f"The best γ is the {side} bound {gamma:g}; the criterion changes by {slope:+.1%} per unit of γ there, "
                f"and staying at γ = 1 would {staying}."
            )
            diagnostics.append(Diagnostic(f"at_{side}_bound", "info", detail))
            return f"at_{side}_bound"
    return "interior"


def _regime(gamma: float) -> str:
    if gamma == 0:
        return "rl"
    if gamma == 1:
        return "maxrl_boundary"
    return "subcritical" if gamma < 1 else "supercritical"


def _kappa_sensitivity(problem: _Problem, solution: _Solution, grid: Array, to_grid: Array) -> list[dict[str, float]]:
    """The best γ were κ another, and what the shipped γ would lose then."""
    if not isinstance(problem.criterion, RmsGain):
        return []
    kappas = np.array(_SENSITIVITY_KAPPAS)
    terms = np.concatenate([solution.node_terms, solution.terms], axis=1)
    values = problem.criterion.combine(terms[:, None], kappas[:, None])
    best, height = peaks(values[:, :-1] @ to_grid, grid)
    regret = np.clip(1 - values[:, -1] / np.where(height > 0, height, 1), 0, None)
    return [
        {"kappa": float(k), "gamma": float(g), "regret": float(r)} for k, g, r in zip(kappas, best, regret, strict=True)
    ]


def _uninformative(reason: str, diagnostics: list[Diagnostic]) -> Recommendation:
    diagnostics.append(Diagnostic("uninformative", "error", f"{reason[0].upper()}{reason[1:]}."))
    return Recommendation(
        summary=f"No recommendation: {reason}.",
        gamma=None,
        status="uninformative",
        regime=None,
        interval=None,
        sampling_interval=None,
        near_optimal=None,
        probability_subcritical=None,
        expected_regret=None,
        predicted_gain_over={"rl": None, "maxrl": None, "current": None},
        learning_rate=None,
        objective=None,
        kappa_sensitivity=[],
        curve=None,
        certificate=None,
        diagnostics=diagnostics,
        assumptions=["pilot_policy_is_current", "binary_rewards", "judged_prompts_resemble_pilot"],
    )


def _summary(
    status: str,
    solution: _Solution,
    near: NearOptimal,
    gains: dict[str, float | None],
    trainer: _Trainer,
    problem: _Problem,
) -> str:
    spoken = [
        f"{_percent(gains[name])} over {label}"
        for name, label, itself in (("current", trainer.spoken, None), ("rl", "γ=0", 0), ("maxrl", "γ=1", 1))
        if gains[name] is not None and solution.gamma != itself
    ]
    gain = f" Predicted gain per step: {', '.join(spoken)}." if spoken else ""
    if problem.num_rollouts == 1:
        return "With one rollout per prompt every γ is plain RL: nothing to choose."
    span = f"{_inwards(near.lower, math.ceil)}–{_inwards(near.upper, math.floor)}"
    if status == "flat":
        return (
            f"γ hardly matters here: any from {span.replace('–', ' to ')} will do (γ=0 and γ=1 are each within 1 % of "
            f"the best, {solution.gamma:.2f})." + gain
        )
    caution = " The pilot says little: the prior shapes this answer." if status == "prior_dominated" else ""
    return f"Train with γ = {solution.gamma:.2f} (near-optimal {span}).{caution}{gain}"


def _inwards(bound: float, towards: Callable[[float], int]) -> str:
    """A bound to two decimals, rounded so that it stays within the set."""
    return f"{towards(bound * 100 - 1e-6 if towards is math.ceil else bound * 100 + 1e-6) / 100:g}"


def _percent(share: float | None) -> str:
    percent = 100 * (share or 0.0)
    digits = 0 if abs(percent) >= 1 else 1
    return f"{percent:+.{digits}f} %" if abs(percent) >= 0.05 else "+0 %"


def _fields(value: Interval | NearOptimal | Certificate | None) -> dict[str, Any] | None:
    if value is None:
        return None
    return {name: list(x) if isinstance(x, tuple) else x for name, x in vars(value).items()}
