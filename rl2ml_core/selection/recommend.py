"""From a pilot to the objective to train with: `recommend`, the one entry.

γ is the family parameter, not a discount factor. Shapes: C cells, G values of γ, N rollouts per prompt.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from rl2ml_core.checks import Array, finite_number, integer
from rl2ml_core.objective.advantages import AdvantageTable
from rl2ml_core.objective.objective import Objective
from rl2ml_core.objective.population import BetaPrior, Population, ScoreModel
from rl2ml_core.pilot.diagnostics import LEAST_PROMPTS, Diagnostic, pilot_diagnostics, set_by_prior
from rl2ml_core.pilot.histogram import PilotHistogram
from rl2ml_core.selection.calibration import LearningRate, calibrate
from rl2ml_core.selection.chebyshev import (
    Certificate,
    grid_and_matrix,
)
from rl2ml_core.selection.criteria import RmsGain
from rl2ml_core.selection.metrics import Metric
from rl2ml_core.selection.problem import ALWAYS_ASSUMED, Problem, Solution, Trainer, solve
from rl2ml_core.selection.uncertainty import Interval, NearOptimal, draw, kappa_draws, near_optimal, peaks
from rl2ml_core.version import METHOD_VERSION, __version__

__all__ = ["Curve", "Recommendation", "recommend"]

#: A share of the criterion below which a difference does not matter.
FLAT_LOSS = 0.01
MAX_BOOTSTRAP = 100_000
_SENSITIVITY_KAPPAS = (0.01, 0.03, 0.1, 0.3, 1.0)
_CURVE_EVERY = 2


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
    problem = Problem.of(
        pilot, metric, num_rollouts, gamma_min, gamma_max, criterion, variance_penalty, prior, score_model, baseline
    )
    bootstrap = integer(bootstrap, "bootstrap", minimum=0, maximum=MAX_BOOTSTRAP)
    seed = integer(seed, "seed", minimum=0)
    level = finite_number(level, "level", minimum=0.5, maximum=0.999)
    trainer = Trainer.of(current, problem)
    diagnostics = pilot_diagnostics(pilot) if isinstance(pilot, PilotHistogram) else []
    if trainer.table is None:
        diagnostics.append(Diagnostic("current_undefined", "info", trainer.why_undefined))

    reason = problem.why_uninformative()
    if reason is None:
        solution = solve(problem, trainer)
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
    sample = problem.pilot
    if bootstrap and sample is not None and sample.total_prompts >= LEAST_PROMPTS and n > 1:
        rng = np.random.default_rng(seed)
        known = np.full(bootstrap, problem.scores.kappa)
        unknown = kappa_draws(score_model, bootstrap, rng) if criterion == "rms_gain" else None
        scenarios = [known] if unknown is None else [known, unknown]
        shipped = problem.criterion.per_cell(solution.table.success[None], solution.table.failure[None])
        nodes = problem.search_per_cell(solution.gammas)[:, :, : solution.node_values.size]
        per_cell = np.concatenate([nodes, shipped], axis=2)
        # The curve's own points suffice for draws: peaks between them are refined.
        coarse, to_coarse = grid[::_CURVE_EVERY], to_grid[:, ::_CURVE_EVERY]
        results = draw(problem.criterion, per_cell, to_coarse, coarse, sample.num_prompts, scenarios, bootstrap, rng)
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
        assumptions=problem.assumptions(criterion, variance_penalty, score_model),
    )


def _learning_rate(problem: Problem, solution: Solution, chosen: AdvantageTable, trainer: Trainer) -> LearningRate:
    if isinstance(problem.criterion, RmsGain):
        rms = problem.criterion.advantage_rms(solution.terms)
        reference = None if solution.current_terms is None else problem.criterion.advantage_rms(solution.current_terms)
    else:
        rms = chosen.rms(problem.population)
        reference = None if trainer.table is None else trainer.table.rms(problem.population)
    return calibrate(reference, rms, trainer.label)


def _status(problem: Problem, solution: Solution, diagnostics: list[Diagnostic]) -> str:
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


def _kappa_sensitivity(problem: Problem, solution: Solution, grid: Array, to_grid: Array) -> list[dict[str, float]]:
    """The best γ were κ another, and what the shipped γ would lose then."""
    if not isinstance(problem.criterion, RmsGain):
        return []
    kappas = np.array(_SENSITIVITY_KAPPAS)
    terms = np.concatenate([solution.node_terms, solution.terms], axis=1)
    values = problem.criterion.combine(terms[:, None], kappas[:, None])
    best, height = peaks(values[:, :-1] @ to_grid, grid)
    regret = np.maximum(1 - values[:, -1] / np.where(height > 0, height, 1), 0)
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
        assumptions=list(ALWAYS_ASSUMED),
    )


def _summary(
    status: str,
    solution: Solution,
    near: NearOptimal,
    gains: dict[str, float | None],
    trainer: Trainer,
    problem: Problem,
) -> str:
    spoken = [
        f"{_percent(gains[name])} over {label}"
        for name, label, itself in (("current", trainer.spoken, None), ("rl", "γ=0", 0), ("maxrl", "γ=1", 1))
        if gains[name] is not None and solution.gamma != itself
    ]
    gain = f" Predicted gain per step: {', '.join(spoken)}." if spoken else ""
    if problem.num_rollouts == 1:
        return "With one rollout per prompt every γ is plain RL: nothing to choose."
    lower, upper = near.rounded()
    if status == "flat":
        return (
            f"γ hardly matters here: any from {lower:g} to {upper:g} will do (γ=0 and γ=1 are each within 1 % of "
            f"the best, {solution.gamma:.2f})." + gain
        )
    caution = " The pilot says little: the prior shapes this answer." if status == "prior_dominated" else ""
    return f"Train with γ = {solution.gamma:.2f} (near-optimal {lower:g}–{upper:g}).{caution}{gain}"


def _percent(share: float | None) -> str:
    percent = 100 * (share or 0.0)
    digits = 0 if abs(percent) >= 1 else 1
    return f"{percent:+.{digits}f} %" if abs(percent) >= 0.05 else "+0 %"


def _fields(value: Interval | NearOptimal | Certificate | None) -> dict[str, Any] | None:
    if value is None:
        return None
    return {name: list(x) if isinstance(x, tuple) else x for name, x in vars(value).items()}
