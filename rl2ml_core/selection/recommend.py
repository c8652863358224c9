"""From a pilot to the objective to train with: `recommend`, the one entry.

γ is the family parameter, not a discount factor. Shapes: C cells, G values of γ, N rollouts per prompt.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from rl2ml_core.checks import Array, finite_number, integer
from rl2ml_core.errors import InvalidInput
from rl2ml_core.objective.advantages import AdvantageTable
from rl2ml_core.objective.objective import Objective
from rl2ml_core.objective.population import BetaPrior, Population, ScoreModel
from rl2ml_core.pilot.diagnostics import LEAST_PROMPTS, Diagnostic, pilot_diagnostics
from rl2ml_core.pilot.histogram import PilotHistogram
from rl2ml_core.pilot.metadata import Conditions, conditions_diagnostics
from rl2ml_core.selection.calibration import LearningRate
from rl2ml_core.selection.chebyshev import Certificate
from rl2ml_core.selection.criteria import Criterion, Paper, RmsGain, Tables
from rl2ml_core.selection.lookahead import Lookahead
from rl2ml_core.selection.metrics import Metric
from rl2ml_core.selection.problem import ALWAYS_ASSUMED, LOOKAHEAD, Problem, Solution, Trainer, solve
from rl2ml_core.selection.sensitivity import (
    Assumed,
    corollary_4_2,
    kappa_diagnostics,
    kappa_sensitivity,
    other_criterion,
    other_priors,
    prior_diagnostics,
    prior_sensitivity,
    second_opinion,
)
from rl2ml_core.selection.status import FLAT_LOSS, caution_of, regime_of, status_of
from rl2ml_core.selection.uncertainty import (
    Draws,
    Interval,
    NearOptimal,
    draw,
    kappa_draws,
    near_optimal,
    spread_of_fit,
    spread_of_strength,
)
from rl2ml_core.version import METHOD_VERSION, __version__

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Curve", "Recommendation", "recommend"]

MAX_BOOTSTRAP = 100_000
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
    interval: Interval | None  # for the best γ: prompts, κ and the prior uncertain
    sampling_interval: Interval | None  # prompts alone
    near_optimal: NearOptimal | None
    probability_subcritical: float | None  # P(best γ < 1)
    expected_regret: float | None  # mean share of the criterion that the shipped γ loses
    predicted_gain_over: dict[str, float | None]  # of "rl", "maxrl", "current" and any others, relative
    gain_intervals: dict[str, Interval | None]  # of the same: prompts, κ and the prior uncertain
    learning_rate: LearningRate | None
    objective: Objective | None
    kappa_sensitivity: list[dict[str, float]]
    prior_sensitivity: list[Assumed]
    curve: Curve | None
    certificate: Certificate | None
    diagnostics: list[Diagnostic]
    assumptions: list[str]
    draws: Draws | None = field(default=None, repr=False)  # behind the intervals; no part of `to_dict`

    @property
    def looks_ahead(self) -> bool:
        """Whether gains are over a training run, not per step of equal length."""
        return LOOKAHEAD in self.assumptions

    def plot(self) -> "Figure":
        """The criterion over γ as a matplotlib figure, which notebooks show.

        Raises:
            InvalidInput: there is no γ.
            MissingExtra: matplotlib is not installed.
        """
        from rl2ml_core.plotting import plot_recommendation

        return plot_recommendation(self)

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
            "gain_intervals": {name: _fields(gain) for name, gain in self.gain_intervals.items()},
            "learning_rate": self.learning_rate.to_dict() if self.learning_rate else None,
            "objective": self.objective.to_dict() if self.objective else None,
            "kappa_sensitivity": self.kappa_sensitivity,
            "prior_sensitivity": [row.to_dict() for row in self.prior_sensitivity],
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
    criterion: str = "lookahead",
    variance_penalty: float | None = None,
    prior: BetaPrior | str = "empirical_bayes",
    score_model: ScoreModel | None = None,
    baseline: str = "bayes",
    order: int | None = None,
    filter_groups: bool = False,
    current: str | float | AdvantageTable = "grpo",
    others: Mapping[str, str | float | AdvantageTable] | None = None,
    bootstrap: int = 200,
    seed: int = 0,
    level: float = 0.9,
    sampled: Conditions | None = None,
    training: Conditions | None = None,
    judged_on: str = "either",
    look_ahead: bool = False,
) -> Recommendation:
    """The objective to train with: the γ that maximizes the criterion on [gamma_min, gamma_max], and its estimator.

    Deterministic for a seed and independent of the order of prompts.

    Args:
        pilot: success counts; or a Population of known pass rates (point masses: no intervals).
        metric: what you are judged on: a Metric, or "pass@8", "log:0.01", "0.5*pass@1+0.5*pass@16".
        num_rollouts: N, rollouts per prompt in training, 1 to 65,536.
        gamma_min, gamma_max: the range searched, within [0, 20].
        criterion: "rms_gain", gain per root-mean-square update length of the next step; "lookahead", gain over a
            predicted training curve; or "paper", Eq. 4 with `variance_penalty`.
        variance_penalty: λ of Eq. 4; only with criterion "paper", 0.01 when None.
        prior: on a prompt's pass rate: "empirical_bayes" for the Beta prior that fits the pilot best, a
            BetaPrior(alpha, beta), or "plug_in" for raw k/n.
        score_model: ScoreModel(kappa, kappa_spread); the default uses κ = 0.1 and draws κ from [0.01, 1] for the
            interval.
        baseline: a key of `BASELINES`.
        order: M ≤ N, the truncation order to train with; N when None. See `truncation_window`.
        filter_groups: whether the trainer drops groups of equal rewards (DAPO, verl's filter_groups): the estimator
            then leaves them without advantages, so that nothing is lost.
        current: the trainer in use, whose learning rate was tuned: a catalog name, a γ or an AdvantageTable.
        others: further trainers to compare with, by names of your own; `compare` uses them.
        bootstrap: draws for the intervals; 0 for none.
        seed: of the draws.
        level: probability of the intervals.
        sampled, training: the conditions that the pilot was sampled under and that training samples under; differences
            are said in the diagnostics.
        judged_on: with criterion "lookahead", the prompts that the metric is read on: those of "training", "held_out"
            ones, which gain by what prompts share alone, or "either".
        look_ahead: whether the diagnostics say where another γ is predicted to end higher over a training run, as
            criterion "lookahead" would choose; some 30 ms.

    Raises:
        InvalidInput: a value outside its range; the message says what was got and what was expected.
    """
    if criterion != "paper" and isinstance(score_model, ScoreModel) and score_model.is_default:
        score_model = None
    problem = Problem.of(
        pilot, metric, num_rollouts, gamma_min, gamma_max, criterion, variance_penalty, prior, score_model, baseline,
        order, filter_groups, judged_on,
    )  # fmt: skip
    bootstrap = integer(bootstrap, "bootstrap", minimum=0, maximum=MAX_BOOTSTRAP)
    seed = integer(seed, "seed", minimum=0)
    level = finite_number(level, "level", minimum=0.5, maximum=0.999)
    trainer = Trainer.of(current, problem)
    compared = ["rl", "maxrl", "current", *(others or ())]
    if len(set(compared) | {"shipped"}) < len(compared) + 1:
        raise InvalidInput("others need names other than rl, maxrl, current and shipped", field="others")
    beside = {"current": trainer} | {name: Trainer.of(other, problem) for name, other in (others or {}).items()}
    compared_tables = {name: other.table for name, other in beside.items() if other.table is not None}
    diagnostics = conditions_diagnostics(sampled, training) if problem.pilot is not None else []
    if problem.pilot is not None and problem.fitted is not None:
        stated = None if problem.prior_is_fitted else problem.population.prior
        diagnostics += pilot_diagnostics(problem.pilot, stated, problem.fitted)
    if trainer.table is None:
        diagnostics.append(Diagnostic("current_undefined", "info", trainer.why_undefined))

    reason = problem.why_uninformative()
    if reason is None:
        solution = solve(problem, compared_tables)
        if not solution.node_terms[0].any():  # no gain at any γ
            reason = "no prompt has both successes and failures to learn from under this prior"
    if reason is not None:
        return _uninformative(reason, diagnostics, compared)

    status = status_of(problem, solution, diagnostics)
    chosen = solution.table if problem.valued is problem.estimator else problem.estimator.table(solution.gamma)
    objective = problem.objective(solution.gamma)._with_table(chosen)
    near = near_optimal(solution.grid, solution.curve, solution.gamma, solution.value, FLAT_LOSS)

    # Other priors' criteria serve the sensitivity check and, where they are the neighbors, the draws.
    priors = other_priors(problem)
    criteria = {name: problem.under(prior) for name, prior in priors.items()}
    tables = solution.valued_tables(problem)
    by_prior = prior_sensitivity(problem, solution, tables, priors, criteria)
    by_kappa = kappa_sensitivity(problem, solution)
    known = {prior: criteria[name] for name, prior in priors.items()}
    alone, full = _draws(problem, solution, tables, known, score_model, bootstrap, seed)

    gains = {name: solution.gain_over(name) for name in compared}
    gain_intervals = {name: _gain_interval(full, solution, name, level) for name in compared}
    diagnostics += prior_diagnostics(problem, by_prior, _gain_interval(full, solution, "maxrl", level, at_kappa=True))
    diagnostics += kappa_diagnostics(by_kappa, score_model)
    diagnostics += other_criterion(problem, solution)
    diagnostics += second_opinion(problem, solution, score_model) if look_ahead else []
    diagnostics += corollary_4_2(problem)
    across = problem.gamma_min < 1 < problem.gamma_max
    return Recommendation(
        summary=_summary(status, solution, near, gains, trainer, problem),
        gamma=solution.gamma,
        status=status,
        regime=regime_of(solution.gamma),
        interval=full.interval(level) if full else None,
        sampling_interval=alone.interval(level) if alone else None,
        near_optimal=near,
        probability_subcritical=float((full.best < 1).mean()) if full and across else None,
        expected_regret=full.regret if full else None,
        predicted_gain_over=gains,
        gain_intervals=gain_intervals,
        learning_rate=_learning_rate(problem, solution, chosen, trainer),
        objective=objective,
        kappa_sensitivity=by_kappa,
        prior_sensitivity=by_prior,
        curve=_curve(solution, full.band(level) if full else None),
        certificate=Certificate(
            solution.interpolant.degree, solution.interpolant.tail, tuple(solution.stationary.tolist())
        ),
        diagnostics=diagnostics,
        assumptions=problem.assumptions(criterion, variance_penalty, score_model),
        draws=full,
    )


def _draws(
    problem: Problem,
    solution: Solution,
    tables: Sequence[Tables],
    known: Mapping[BetaPrior, Criterion],
    score_model: ScoreModel | None,
    bootstrap: int,
    seed: int,
) -> tuple[Draws | None, Draws | None]:
    """Draws with prompts alone uncertain and with all uncertain; None where there is nothing to draw or to choose."""
    pilot, prior = problem.pilot, problem.population.prior
    if not bootstrap or pilot is None or pilot.total_prompts < LEAST_PROMPTS or problem.num_rollouts == 1:
        return None, None
    rng = np.random.default_rng(seed)
    spread = None
    if problem.prior_is_fitted and problem.fitted is not None:
        spread = spread_of_fit(problem.fitted, pilot.num_prompts, bootstrap, rng)
    elif prior is not None:
        spread = spread_of_strength(prior, bootstrap, rng)
    around = [known.get(prior) or problem.under(prior) for prior in spread.neighbors] if spread else []
    return draw(
        problem.criterion,
        problem.criterion.weighted(tables),
        [neighbor.weighted(tables) for neighbor in around],
        spread,
        # The curve's own points suffice for draws: peaks between them are refined.
        solution.to_grid[:, ::_CURVE_EVERY],
        solution.grid[::_CURVE_EVERY],
        pilot.num_prompts,
        problem.scores.kappa,
        None if isinstance(problem.criterion, Paper) else kappa_draws(score_model, bootstrap),
        bootstrap,
        rng,
    )


def _gain_interval(
    draws: Draws | None, solution: Solution, name: str, level: float, *, at_kappa: bool = False
) -> Interval | None:
    """Where the shipped table's gain over a fixed one lies; None where there is no such gain or no draws."""
    place = solution.place(name)
    if draws is None or place is None or solution.gain_over(name) is None:
        return None
    return draws.gain_over(place, level, at_kappa=at_kappa)


def _curve(solution: Solution, band: tuple[Array, Array] | None) -> Curve | None:
    """The relative criterion; relative to a maximum that is not positive (Eq. 4 subtracts) it would mislead."""
    if not solution.value > 0:
        return None
    relative = solution.curve / solution.value
    return Curve(solution.grid[::_CURVE_EVERY], relative[::_CURVE_EVERY], *(band or (None, None)))


def _learning_rate(problem: Problem, solution: Solution, chosen: AdvantageTable, trainer: Trainer) -> LearningRate:
    if isinstance(problem.criterion, RmsGain):
        rms = problem.criterion.advantage_rms(solution.fixed_terms[:, :1])
        place = solution.place("current")
        reference = None if place is None else problem.criterion.advantage_rms(solution.fixed_terms[:, place, None])
    else:
        rms = chosen.rms(problem.population)
        reference = trainer.rms(problem.population)
    return problem.learning_rate(trainer, rms, reference)


def _uninformative(reason: str, diagnostics: list[Diagnostic], compared: list[str]) -> Recommendation:
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
        predicted_gain_over=dict.fromkeys(compared),
        gain_intervals=dict.fromkeys(compared),
        learning_rate=None,
        objective=None,
        kappa_sensitivity=[],
        prior_sensitivity=[],
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
    unit = "over a training run" if isinstance(problem.criterion, Lookahead) else "per step"
    gain = f" Predicted gain {unit}: {', '.join(spoken)}." if spoken else ""
    if problem.num_rollouts == 1:
        return "With one rollout per prompt every γ is plain RL: nothing to choose."
    lower, upper = near.rounded()
    if status == "flat":
        return (
            f"γ hardly matters here: any from {lower:g} to {upper:g} will do (γ=0 and γ=1 are each within 1 % of "
            f"the best, {solution.gamma:.2f})." + gain
        )
    caution = caution_of(status)
    return f"Train with γ = {solution.gamma:.2f} (near-optimal {lower:g}–{upper:g}).{caution}{gain}"


def _percent(share: float | None) -> str:
    percent = 100 * (share or 0.0)
    digits = 0 if abs(percent) >= 1 else 1
    return f"{percent:+.{digits}f} %" if abs(percent) >= 0.05 else "+0 %"


def _fields(value: Interval | NearOptimal | Certificate | None) -> dict[str, Any] | None:
    if value is None:
        return None
    return {name: list(x) if isinstance(x, tuple) else x for name, x in vars(value).items()}
