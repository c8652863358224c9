"""The γ that each rule chooses for a question, from the true pass rates or from a sampled pilot.

A rule is a criterion, what it knows of the pass rates, and what it knows of κ. What it cannot tell (`recommend` would
answer "uninformative") leaves γ = 1. Shapes: G values of γ, S seeds.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import product

import numpy as np

import rl2ml_core as rl2ml
from benchmarks.evidence.difficulties import draw_pilot, draw_rates
from benchmarks.evidence.settings import Design, Question
from benchmarks.evidence.simulate import METRICS
from rl2ml_core.checks import Array
from rl2ml_core.objective.population import LEAST_KAPPA, Population
from rl2ml_core.selection.chebyshev import grid_and_matrix
from rl2ml_core.selection.lookahead import DEGREE, JUDGED_ON, Lookahead
from rl2ml_core.selection.lookahead import KAPPAS as LOOKAHEAD_KAPPAS
from rl2ml_core.selection.problem import Problem

#: Up with every change of what a rule means.
VERSION = 5

TRUE = "true"
#: Prompts × rollouts of the pilots.
PILOTS = {"16x8": (16, 8), "64x8": (64, 8), "256x8": (256, 8), "16x64": (16, 64)}
#: λ of Eq. 4.
PENALTIES = {f"paper λ={penalty:g}": penalty for penalty in (0.0, 0.01, 0.1, 1.0)}
#: κ as multiples of the true one; not measured (the default) when None.
KAPPAS = {"measured": 1.0, "default": None, "/10": 0.1, "/3": 1 / 3, "x3": 3.0, "x10": 10.0}
#: Laws of κ that a criterion averages over, each κ by its share of the best gain: log-uniform between two ends.
SPREADS = {"0.01–1": (0.01, 1.0), "0.003–0.3": (0.003, 0.3), "0.003–1": (0.003, 1.0), "0.03–1": (0.03, 1.0)}
_KAPPAS_OF_SPREAD = 9
#: Baselines whose γ is chosen; "bayes_recent" takes that of "bayes".
BASELINES = tuple(rl2ml.BASELINES)

#: The lookahead by what it is told of where the metric is read, and as it was before: with both ρ alike.
LOOKAHEADS = {"lookahead" if where == "either" else f"lookahead {where}": by for where, by in JUDGED_ON.items()}
LOOKAHEADS["lookahead even"] = (0.5, 0.5)
#: Whose γ the lookahead chooses; other baselines take it over.
DEFAULT_BASELINE = "bayes"

#: Finer than any near-optimal set by far.
GRID = np.linspace(0, 2, 81)
#: Quantiles that stand for the true pass rates of all seeds.
_QUANTILES = 400
_UNTOLD = 1.0


@dataclass(frozen=True)
class Rule:
    """A criterion and what it knows."""

    criterion: str
    knowledge: str  # TRUE or a key of PILOTS
    kappa: str = ""  # a key of KAPPAS or SPREADS; "" where the criterion has none

    @property
    def name(self) -> str:
        """Readable and unique."""
        return " ".join(filter(None, (self.criterion, self.knowledge, self.kappa and f"κ {self.kappa}")))


#: What the pass rates are known by.
Source = Population | rl2ml.PilotHistogram
#: (criterion, κ) of a rule, and the γ it chooses.
Choices = Iterator[tuple[tuple[str, str], float]]


def _rms_gain(source: Source, metric: str, num_rollouts: int, baseline: str, kappa: float) -> Choices:
    """The default criterion. Baselines are those of the arms, made under the default κ."""
    problem = _problem(source, metric, num_rollouts, "rms_gain", baseline)
    if problem.why_uninformative() is not None:
        return
    terms = problem.criterion.totals(*problem.estimator.tables(GRID))
    for name, factor in KAPPAS.items():
        assumed = problem.scores.kappa if factor is None else float(np.clip(kappa * factor, LEAST_KAPPA, 1))
        yield ("rms_gain", name), float(GRID[problem.criterion.combine(terms, assumed).argmax()])
    for name, ends in SPREADS.items():
        values = np.array([problem.criterion.combine(terms, at) for at in np.geomspace(*ends, _KAPPAS_OF_SPREAD)])
        shares = values / values.max(axis=1, keepdims=True)
        yield ("rms_gain", name), float(GRID[shares.mean(axis=0).argmax()])


def _paper(source: Source, metric: str, num_rollouts: int, baseline: str, kappa: float) -> Choices:  # noqa: ARG001
    """Eq. 4, which values the direct estimator by proxies of its own, whatever the baseline and κ."""
    problem = _problem(source, metric, num_rollouts, "paper", baseline)
    if problem.why_uninformative() is not None:
        return
    gain, length, variance = problem.criterion.totals(*problem.valued.tables(GRID))
    for name, penalty in PENALTIES.items():
        yield (name, ""), float(GRID[(gain / np.sqrt(length) - penalty * np.sqrt(variance)).argmax()])


def _lookahead(
    known: tuple[str, ...], source: Source, metric: str, num_rollouts: int, baseline: str, kappa: float
) -> Choices:
    """A predicted training run, under what is known of κ."""
    problem = _problem(source, metric, num_rollouts, "lookahead", baseline)
    if problem.why_uninformative() is not None:
        return
    lookahead = problem.criterion
    assert isinstance(lookahead, Lookahead)
    low, high = GRID[[0, -1]]
    grid, to_grid = grid_and_matrix(low, high, DEGREE)
    for name in known:
        factor = KAPPAS[name]
        kappas = LOOKAHEAD_KAPPAS if factor is None else (float(np.clip(kappa * factor, LEAST_KAPPA, 1)),)
        shares = lookahead.shares(np.array(kappas)) @ to_grid  # [K, R, H, grid]
        for label, by in LOOKAHEADS.items():
            yield (label, name), float(grid[(by @ shares.mean(axis=(0, 2))).argmax()])


@dataclass(frozen=True)
class Criterion:
    """How rules of one kind choose."""

    labels: tuple[tuple[str, str], ...]  # (criterion, κ) of each rule
    choose: Callable[[Source, str, int, str, float], Choices]  # of a source, metric, N, baseline and the true κ
    baselines: tuple[str, ...] = BASELINES  # it is asked for; the answer for a single one serves all
    knowledge: tuple[str, ...] = (TRUE, *PILOTS)


#: All are asked every question. One more criterion is one more entry, and `VERSION` goes up.
CRITERIA = (
    Criterion(tuple(("rms_gain", kappa) for kappa in (*KAPPAS, *SPREADS)), _rms_gain),
    Criterion(tuple((name, "") for name in PENALTIES), _paper, baselines=("none",)),
    *(
        Criterion(
            tuple((label, name) for name in known for label in LOOKAHEADS),
            partial(_lookahead, known),
            baselines=(DEFAULT_BASELINE,),
            knowledge=knowledge,
        )
        # A wrong κ is shown from the true rates alone: every κ is a walk of its own.
        for known, knowledge in (((*KAPPAS,), (TRUE,)), (("measured", "default"), (*PILOTS,)))
    ),
)

RULES = tuple(
    Rule(name, knowledge, kappa)
    for criterion in CRITERIA
    for knowledge in criterion.knowledge
    for name, kappa in criterion.labels
)


def choose(question: Question, design: Design, kappa: float) -> Array:
    """γ of every rule, [rules, baselines, metrics, S]; κ is the environment's true one."""
    place = {(rule.knowledge, rule.criterion, rule.kappa): i for i, rule in enumerate(RULES)}
    chosen = np.full((len(RULES), len(BASELINES), len(METRICS), design.seeds), _UNTOLD)
    for criterion, knowledge in ((one, known) for one in CRITERIA for known in one.knowledge):
        asked = product(_sources(question.difficulty, design, knowledge), enumerate(METRICS), criterion.baselines)
        for (seeds, source), (j, metric), baseline in asked:
            served = BASELINES.index(baseline) if len(criterion.baselines) > 1 else slice(None)
            for label, gamma in criterion.choose(source, metric, question.num_rollouts, baseline, kappa):
                chosen[place[knowledge, *label], served, j, seeds] = gamma
    return chosen


def _sources(difficulty: str, design: Design, knowledge: str) -> Iterator[tuple[slice | int, Source]]:
    """What is known, and of which seeds: a pilot for each, the true rates of all."""
    if knowledge == TRUE:
        rates = np.concatenate([draw_rates(difficulty, seed, design.num_train) for seed in range(design.seeds)])
        levels = (np.arange(_QUANTILES) + 0.5) / _QUANTILES
        yield slice(None), Population.from_pass_rates(np.quantile(rates, levels))
        return
    prompts, rollouts = PILOTS[knowledge]
    for seed in range(design.seeds):
        yield seed, draw_pilot(difficulty, seed, draw_rates(difficulty, seed, prompts), rollouts)


def _problem(source: Source, metric: str, num_rollouts: int, criterion: str, baseline: str) -> Problem:
    low, high = GRID[[0, -1]]
    return Problem.of(
        source, metric, num_rollouts, low, high, criterion, None, "empirical_bayes", None, baseline, None, False
    )
