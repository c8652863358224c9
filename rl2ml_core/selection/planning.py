"""How to spend a budget: the best number of rollouts per prompt and γ together, for a total of rollouts per step.

More rollouts per prompt make each prompt's gradient less noisy; fewer leave more prompts for the step. What is best
depends on κ and on the mean cosine ρ of two prompts' gradients, so a plan shows both. γ is the family parameter, not a
discount factor. Source: docs/equations.md, E38 to E41.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from rl2ml_core.checks import Array, choice, finite_number, integer
from rl2ml_core.errors import InvalidInput
from rl2ml_core.objective.population import BetaPrior, Population, ScoreModel
from rl2ml_core.pilot.diagnostics import set_by_prior
from rl2ml_core.pilot.histogram import PilotHistogram
from rl2ml_core.selection.batches import equal_shares
from rl2ml_core.selection.demands import Demands
from rl2ml_core.selection.frontier import Candidate, Frontier, Scenarios
from rl2ml_core.selection.lookahead import JUDGED_ON, KAPPAS
from rl2ml_core.selection.metrics import Metric
from rl2ml_core.selection.paths import COSINES
from rl2ml_core.selection.plans import BudgetPlan, Planned, Sensitivity, plan_summary
from rl2ml_core.selection.problem import Problem
from rl2ml_core.selection.uncertainty import Interval

__all__ = ["CHOICES", "MOST_ROLLOUTS", "NUM_PROMPTS", "plan_budget"]

#: Rollouts per prompt to choose from, where none are named; and the most that may be.
CHOICES = tuple(range(1, 65))
MOST_ROLLOUTS = 256
#: Prompts of the training set, where they are not known: many steps long, it hardly matters.
NUM_PROMPTS = 10_000
MOST_BUDGET = 10**9

_KAPPAS = (0.01, 0.03, 0.1, 0.3, 1.0)
_COSINES = (0.0, 0.01, 0.03, 0.1, 0.3)
_MOST_DRAWS = 10_000


def plan_budget(
    pilot: PilotHistogram | Population,
    metric: Metric | str,
    rollouts_per_step: int,
    *,
    choices: Sequence[int] | None = None,
    prompt_cost: float = 0.0,
    num_prompts: int = NUM_PROMPTS,
    cosine: float | None = None,
    gamma_min: float = 0.0,
    gamma_max: float = 2.0,
    prior: BetaPrior | str = "empirical_bayes",
    score_model: ScoreModel | None = None,
    baseline: str = "bayes",
    filter_groups: bool = False,
    judged_on: str = "either",
    demands: Demands | None = None,
    bootstrap: int = 200,
    seed: int = 0,
    level: float = 0.9,
) -> BudgetPlan:
    """The best (N, γ) for a budget of rollouts per step, with the whole frontier over N.

    The criterion is one step's: the metric's gain per root-mean-square length of the update of G = ⌊budget/N⌋ prompts,
    as a share of the best (N, γ)'s; where κ or ρ is not given, the mean over those that criterion "lookahead" takes.
    For the γ of a training run ask `recommend` with the plan's `num_rollouts`.

    Args:
        pilot: success counts; or a Population of known pass rates (no ranges).
        metric: what you are judged on.
        rollouts_per_step: the budget, in rollouts.
        choices: rollouts per prompt to choose from, each from 1 to 256; 1 to 64 when None. With 1, baseline
            "group_centered" and `filter_groups` train on nothing: they start at 2.
        prompt_cost: what drawing one more prompt costs, in rollouts: G = ⌊budget/(N + cost)⌋.
        num_prompts: P, prompts of the training set; a step takes each at most once.
        cosine: ρ ∈ [0, 1], the mean cosine of two prompts' gradients, where it was measured.
        gamma_min, gamma_max: the range searched, within [0, 20].
        prior, score_model, baseline, filter_groups: as in `recommend`.
        judged_on: where no cosine is given, the prompts that the metric is read on, as in `recommend`.
        demands: bounds on the missing tail and on α_1, which leave each N a largest γ.
        bootstrap: draws of prompts, κ and ρ for the ranges; 0 for none.
        seed: of the draws.
        level: probability of the ranges.

    Raises:
        InvalidInput: a value outside its range; the message says what was got and what was expected.
    """
    budget = integer(rollouts_per_step, "rollouts_per_step", minimum=1, maximum=MOST_BUDGET)
    sizes = _choices(choices)
    cost = finite_number(prompt_cost, "prompt_cost", minimum=0, maximum=1e6)
    prompts = integer(num_prompts, "num_prompts", minimum=1, maximum=10**12)
    draws = integer(bootstrap, "bootstrap", minimum=0, maximum=_MOST_DRAWS)
    seed = integer(seed, "seed", minimum=0)
    level = finite_number(level, "level", minimum=0.5, maximum=0.999)
    cosines = _cosines(cosine, judged_on)
    if demands is not None and not isinstance(demands, Demands):
        raise InvalidInput(f"demands must be Demands(…); got {demands!r:.60}", field="demands")
    if isinstance(score_model, ScoreModel) and score_model.is_default:
        score_model = None
    problem = Problem.of(
        pilot, metric, max(2, *sizes), gamma_min, gamma_max, "rms_gain", None, prior, score_model, baseline, None,
        filter_groups,
    )  # fmt: skip
    reason = problem.why_uninformative()
    if reason is not None:
        return BudgetPlan.without("uninformative", reason, budget)
    usable = [n for n in sizes if n > 1 or not (filter_groups or baseline == "group_centered")]
    affordable = [n for n in usable if n + cost <= budget]
    if not affordable:
        return BudgetPlan.without("infeasible", _too_small(budget, usable, cost), budget)
    ranges = dict.fromkeys(affordable, problem.gamma_max)
    if demands is not None:
        ranges = _ranges_of_gamma(affordable, problem, demands)
        if not ranges:
            return BudgetPlan.without("infeasible", _unmet(affordable, problem, demands), budget)

    per_step = {n: min(int(budget // (n + cost)), prompts) for n in ranges}
    frontier = Frontier(problem, per_step, ranges, prompts)
    kappas = KAPPAS if score_model is None else (score_model.kappa,)
    scenarios = Scenarios.of(kappas, cosines)
    best = frontier.best_gains(scenarios)
    if not (best > 0).all():
        return BudgetPlan.without("uninformative", "no update gains anything on these prompts", budget)
    gammas, shares = zip(*(frontier.maximum(one, scenarios, best) for one in frontier.candidates), strict=True)
    top = int(np.argmax(shares))
    gains = frontier.draws(gammas, score_model, cosines, draws, seed)
    rows = _rows(frontier, gammas, np.array(shares) / shares[top], gains, cost, level)
    by_kappa, by_cosine = _sensitivity(frontier, frontier.candidates[top], gammas[top], kappas, cosines)
    return BudgetPlan(
        status="planned",
        summary=plan_summary(budget, rows[top], rows) + _caution(problem),
        rollouts_per_step=budget,
        best=rows[top],
        frontier=rows,
        expected_regret=None if gains is None else float((1 - gains[:, top] / gains.max(axis=1)).mean()),
        kappa_sensitivity=by_kappa,
        cosine_sensitivity=by_cosine,
        assumptions=(
            *problem.assumptions("rms_gain", None, score_model),
            *["default_cosine"] * (cosine is None),
            "gains_are_of_one_step",
        ),
    )


def _caution(problem: Problem) -> str:
    """What a summary adds where the pilot says little; mostly nothing."""
    if problem.pilot is None or problem.population.prior is None:
        return ""
    why = set_by_prior(problem.pilot)
    return f" The prior shapes this plan: {why}." if why else ""


def _rows(
    frontier: Frontier, gammas: Sequence[float], relative: Array, gains: Array | None, cost: float, level: float
) -> tuple[Planned, ...]:
    """A row per N from its γ, its gain relative to the best's and its gains in the draws [D, I]."""
    top = int(np.argmax(relative))
    losses = None if gains is None else 1 - gains / gains[:, [top]]
    spent = [one.per_step * (one.num_rollouts + cost) for one in frontier.candidates]
    equal = equal_shares(frontier.population, [one.num_rollouts for one in frontier.candidates])
    return tuple(
        Planned(
            num_rollouts=one.num_rollouts,
            prompts_per_step=one.per_step,
            rollouts_spent=spent[i],
            gamma=gammas[i],
            largest_gamma=one.high,
            relative_gain=float(relative[i]),
            gain_per_rollout=float(relative[i]) * spent[top] / spent[i],
            loss_interval=None if losses is None else Interval.of(losses[:, i], level),
            equal_group_share=equal[i],
        )
        for i, one in enumerate(frontier.candidates)
    )


def _sensitivity(
    frontier: Frontier, planned: Candidate, gamma: float, kappas: Sequence[float], cosines: dict[float, float]
) -> tuple[tuple[Sensitivity, ...], tuple[Sensitivity, ...]]:
    """The plan were κ known, and were ρ."""
    cases = [Scenarios.of([kappa], cosines) for kappa in _KAPPAS]
    cases += [Scenarios.of(kappas, {rho: 1.0}) for rho in _COSINES]
    found = frontier.elsewhere(cases, planned, gamma)
    rows = [Sensitivity(value, *other) for value, other in zip(_KAPPAS + _COSINES, found, strict=True)]
    return tuple(rows[: len(_KAPPAS)]), tuple(rows[len(_KAPPAS) :])


def _choices(choices: Sequence[int] | None) -> tuple[int, ...]:
    if choices is None:
        return CHOICES
    found = tuple(sorted({integer(n, "choices", minimum=1, maximum=MOST_ROLLOUTS) for n in choices}))
    if not found:
        raise InvalidInput("choices must name at least one number of rollouts per prompt; got none", field="choices")
    return found


def _cosines(cosine: float | None, judged_on: str) -> dict[float, float]:
    """Values of ρ with their weights."""
    choice(judged_on, "judged_on", JUDGED_ON)
    if cosine is None:
        return dict(zip(COSINES, JUDGED_ON[judged_on], strict=True))
    if judged_on != "either":
        raise InvalidInput("judged_on stands in for a cosine that is not known; got both", field="judged_on")
    return {finite_number(cosine, "cosine", minimum=0, maximum=1): 1.0}


def _too_small(budget: int, usable: Sequence[int], cost: float) -> str:
    if not usable:
        return "this estimator needs at least 2 rollouts per prompt, and choices allow only 1"
    least = min(usable) + cost
    fewer = int(budget - cost)
    beside = f", or allow {fewer} rollouts per prompt" if 1 <= fewer < min(usable) else ""
    return (
        f"{budget:,} rollouts per step do not buy one group of {min(usable)}, which costs {least:,g}; raise "
        f"rollouts_per_step to {int(np.ceil(least)):,}{beside}"
    )


def _orders(sizes: Sequence[int], problem: Problem) -> npt.NDArray[np.int64]:
    return np.asarray(np.maximum(np.array(sizes) - (problem.estimator.name == "group_centered"), 1))


def _ranges_of_gamma(sizes: Sequence[int], problem: Problem, demands: Demands) -> dict[int, float]:
    """The largest γ of each N that meets the demands; N that meet them nowhere are left out."""
    low, high = problem.gamma_min, problem.gamma_max
    most = demands.largest_gamma(np.array(sizes), _orders(sizes, problem), low, high)
    return {n: float(g) for n, g in zip(sizes, most, strict=True) if not np.isnan(g)}


def _unmet(sizes: Sequence[int], problem: Problem, demands: Demands) -> str:
    low = problem.gamma_min
    ways = demands.what_to_relax(np.array(sizes), _orders(sizes, problem), low, problem.gamma_max)
    return f"with {min(sizes)} to {max(sizes)} rollouts per prompt no γ from {low:g} meets the demands; {ways}"
