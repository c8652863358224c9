"""What the answer would be under other assumptions: another κ, another prior, another criterion; Corollary 4.2's test.

Each finding that matters becomes a diagnostic.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rl2ml_core.objective.baselines import Estimator
from rl2ml_core.objective.family import objective_weight
from rl2ml_core.objective.population import BetaPrior, ScoreModel
from rl2ml_core.pilot.diagnostics import Diagnostic
from rl2ml_core.selection.criteria import Criterion, Paper, RmsGain, Tables
from rl2ml_core.selection.lookahead import Lookahead
from rl2ml_core.selection.problem import DEFAULT_VARIANCE_PENALTY, Problem, Solution, stack
from rl2ml_core.selection.status import FLAT_LOSS
from rl2ml_core.selection.uncertainty import STRENGTH_FACTOR, Interval, peaks, scaled

__all__ = [
    "Assumed",
    "corollary_4_2",
    "kappa_diagnostics",
    "kappa_sensitivity",
    "other_criterion",
    "other_priors",
    "prior_diagnostics",
    "prior_sensitivity",
    "second_opinion",
]

_KAPPAS = (0.01, 0.03, 0.1, 0.3, 1.0)
#: A share of a training run's gain that is worth a second look: rules lose 1 to 3 % on average (docs/evidence.md).
_WORTH_SAYING = 0.02
#: A share of the criterion that is worth measuring κ for.
_WORTH_MEASURING = 0.02
#: Standard deviation of the log-concentration above which intervals missed in simulation (docs/decisions.md); pilots of
#: 64 prompts × 8 rollouts that are not all easy or all hard have .2 to .4.
_UNIDENTIFIED = 0.45
_ALIKE = 1e-6
_GAMMA_STEP = 1e-4  # of a central difference: relative error near 1e-8


@dataclass(frozen=True)
class Assumed:
    """The answer under another prior."""

    name: str  # "weaker", "stronger", "fitted" or "uniform"
    prior: BetaPrior
    gamma: float  # the best then
    regret: float  # what the shipped γ would lose then
    gain_over_maxrl: float | None  # of the shipped γ

    def to_dict(self) -> dict[str, object]:
        prior = {"alpha": self.prior.alpha, "beta": self.prior.beta}
        return {**vars(self), "prior": prior}


def kappa_sensitivity(problem: Problem, solution: Solution) -> list[dict[str, float]]:
    """The best γ were κ another, and what the shipped γ would lose then."""
    if isinstance(problem.criterion, Paper):
        return []
    kappas = np.array(_KAPPAS)
    terms = np.concatenate([solution.node_terms, solution.fixed_terms[:, :1]], axis=1)
    values = problem.criterion.combine(terms[:, None], kappas[:, None])
    best, height = peaks(values[:, :-1] @ solution.to_grid, solution.grid)
    regret = np.maximum(1 - values[:, -1] / np.where(height > 0, height, 1), 0)
    return [
        {"kappa": float(k), "gamma": float(g), "regret": float(r)} for k, g, r in zip(kappas, best, regret, strict=True)
    ]


def kappa_diagnostics(rows: list[dict[str, float]], score_model: ScoreModel | None) -> list[Diagnostic]:
    """Whether κ, where it is not known, decides more than it may."""
    if not rows or (score_model is not None and not score_model.kappa_spread):
        return []
    worst = max(rows, key=lambda row: row["regret"])
    if worst["regret"] <= _WORTH_MEASURING:
        return []
    detail = (
        f"κ matters: were it {worst['kappa']:g}, the best γ would be {worst['gamma']:.2f} and the one given here would "
        f"lose {worst['regret']:.1%}. Measure κ."
    )
    return [Diagnostic("kappa_sensitive", "warning", detail)]


def other_priors(problem: Problem) -> dict[str, BetaPrior]:
    """The priors that an answer from a pilot is checked against, by name. E22."""
    prior, fitted = problem.population.prior, problem.fitted
    if problem.pilot is None or fitted is None:
        return {}
    if prior is None:  # plug-in
        return {"uniform": BetaPrior(1, 1), "fitted": fitted.prior}
    around = {"weaker": scaled(prior, 1 / STRENGTH_FACTOR), "stronger": scaled(prior, STRENGTH_FACTOR)}
    return around | ({"uniform": BetaPrior(1, 1)} if problem.prior_is_fitted else {"fitted": fitted.prior})


def prior_sensitivity(
    problem: Problem,
    solution: Solution,
    tables: Sequence[Tables],
    priors: Mapping[str, BetaPrior],
    criteria: Mapping[str, Criterion],
) -> list[Assumed]:
    """The answer under each of several priors, `criteria` being the criterion under it; `tables` the valued ones."""
    nodes = solution.node_values.size
    found = []
    for name, criterion in criteria.items():
        if isinstance(criterion, Lookahead):  # it has walked the nodes to know what the best gain is
            parts = [criterion.searched[:, :nodes], criterion.totals(*stack(*solution.fixed.values()))]
        else:
            parts = [criterion.totals(*part) for part in tables]
        values = criterion.combine(np.concatenate(parts, axis=-1), problem.scores.kappa)
        best, height = peaks((values[:nodes] @ solution.to_grid)[None], solution.grid)
        shipped, _, at_one, *_ = values[nodes:].tolist()
        regret = max(1 - shipped / float(height[0]), 0.0) if height[0] > 0 else 0.0
        gain = shipped / at_one - 1 if at_one > 0 else None
        found.append(Assumed(name, priors[name], float(best[0]), regret, gain))
    return found


def prior_diagnostics(problem: Problem, rows: list[Assumed], gain: Interval | None) -> list[Diagnostic]:
    """Whether the prior decides more than it may.

    Args:
        rows: `prior_sensitivity`.
        gain: where the gain over γ = 1 lies with κ held; None without draws.
    """
    if not rows or problem.fitted is None:
        return []
    found = _sensitive(rows, gain)
    spread = float(np.sqrt(problem.fitted.covariance[1, 1]))
    if spread > _UNIDENTIFIED:
        detail = (
            "The pilot hardly tells how much pass rates differ between prompts (the fitted prior's concentration is "
            f"known to a factor of {np.exp(spread):.1f}): sample more rollouts per prompt, or prompts nearer to the "
            "model's level."
        )
        found.append(Diagnostic("prior_unidentified", "warning", detail))
    return found


def _sensitive(rows: list[Assumed], gain: Interval | None) -> list[Diagnostic]:
    """What the shipped γ loses under the fitted prior, or a gain outside its interval."""
    for row in rows:
        if row.name != "fitted":  # half and twice the strength are shown; a large pilot may contradict both
            continue
        if row.regret > FLAT_LOSS:
            what = f"the best γ would be {row.gamma:.2f} and the one given here would lose {row.regret:.1%}"
        elif gain and row.gain_over_maxrl is not None and not gain.lower <= row.gain_over_maxrl <= gain.upper:
            what = f"the gain over γ = 1 would be {row.gain_over_maxrl:+.2%}, outside its interval under this κ"
        else:
            continue
        fitted = f"Beta({row.prior.alpha:.3g}, {row.prior.beta:.3g})"
        detail = f"The prior matters: under {fitted}, which fits the pilot best, {what}."
        return [Diagnostic("prior_sensitive", "warning", detail)]
    return []


def other_criterion(problem: Problem, solution: Solution) -> list[Diagnostic]:
    """Where the criterion that was not asked for would choose a γ that loses a share that matters."""
    n = problem.num_rollouts
    other: Criterion
    if isinstance(problem.criterion, RmsGain):
        estimator = Estimator.named("none", n, None, order=problem.estimator.order)
        other = Paper(problem.population, problem.metric, n, ScoreModel.paper(), DEFAULT_VARIANCE_PENALTY)
        label, kappa = f"Eq. 4 (λ = {DEFAULT_VARIANCE_PENALTY:g})", 1.0
    else:
        estimator = problem.estimator
        other = RmsGain(problem.population, problem.metric, n)
        # Eq. 4 has proxies of its own, and no κ.
        label, kappa = "RMS gain", (ScoreModel() if isinstance(problem.criterion, Paper) else problem.scores).kappa
    values = other.combine(other.totals(*estimator.tables(solution.nodes)), kappa)
    best = float(peaks((values @ solution.to_grid)[None], solution.grid)[0][0])
    loss = 1 - solution.interpolant(best) / solution.value if solution.value > 0 else 0.0
    if loss <= FLAT_LOSS:
        return []
    detail = f"Criteria disagree: {label} prefers γ = {best:.2f}, which loses {loss:.1%} of the criterion used here."
    return [Diagnostic("criteria_disagree", "info", detail)]


def second_opinion(problem: Problem, solution: Solution, score_model: ScoreModel | None) -> list[Diagnostic]:
    """Where a γ is predicted to end clearly higher over a training run than the one that is best for the next step."""
    if isinstance(problem.criterion, Lookahead) or problem.num_rollouts == 1:
        return []
    kappa = None if score_model is None or score_model.name == "paper" else score_model
    ends = problem.gamma_min, problem.gamma_max
    lookahead = Lookahead(problem.population, problem.metric, problem.estimator, kappa, *ends)
    values = lookahead.curve(solution.grid)
    height = float(values.max())
    loss = 1 - float(np.interp(solution.gamma, solution.grid, values)) / height if height > 0 else 0.0
    if loss <= _WORTH_SAYING:
        return []
    best = float(peaks(values[None], solution.grid)[0][0])
    detail = (
        f"Over a predicted training run γ = {best:.2f} would end higher; the one given here, best for the next step, "
        f"would lose {loss:.1%} of its gain. See criterion lookahead."
    )
    return [Diagnostic("lookahead_disagrees", "info", detail)]


def corollary_4_2(problem: Problem) -> list[Diagnostic]:
    """B'(1)/B(1) > 2A'(1)/A(1): moving below γ = 1 raises U = A/√B, gain per update length without noise. E28."""
    if not problem.gamma_min < 1 < problem.gamma_max or problem.num_rollouts == 1:
        return []
    points = problem.population.at_means()
    p = points.pass_rates
    length = points.weights * problem.scores.sensitivity(p)
    signal = length * problem.metric.slope(p)
    below, at, above = objective_weight(
        p,
        np.array([[1 - _GAMMA_STEP], [1.0], [1 + _GAMMA_STEP]]),
        problem.num_rollouts,
        problem.estimator.effective_order,
    )
    slope = (above - below) / (2 * _GAMMA_STEP)
    gain, energy = float(signal @ at), float(length @ at**2)
    if not (gain > 0 and energy > 0):
        return []
    left, right = 2 * float(length @ (at * slope)) / energy, 2 * float(signal @ slope) / gain
    if abs(left - right) <= _ALIKE * max(abs(left), abs(right)):
        return []
    where = "below" if left > right else "above"
    detail = (
        f"Corollary 4.2: B'/B = {left:.3g} and 2A'/A = {right:.3g} at γ = 1, so without noise moving {where} 1 helps."
    )
    return [Diagnostic("corollary_4_2", "info", detail)]
