"""The question behind a recommendation and its solution: which γ of a range has the highest criterion.

γ is the family parameter, not a discount factor. Shapes: C cells, G values of γ, Q interpolation nodes, N rollouts.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from rl2ml_core.checks import Array, choice, finite_number, integer
from rl2ml_core.errors import InvalidInput
from rl2ml_core.objective.advantages import AdvantageTable
from rl2ml_core.objective.baselines import Baseline, resolve_baseline
from rl2ml_core.objective.catalog import KNOWN_TRAINERS, known_table
from rl2ml_core.objective.family import MAX_GAMMA, MAX_ROLLOUTS, success_weights
from rl2ml_core.objective.population import BetaPrior, Population, ScoreModel
from rl2ml_core.pilot.histogram import PilotHistogram
from rl2ml_core.pilot.prior import posterior
from rl2ml_core.selection.chebyshev import Interpolant, first_degree, interpolate, piece_edges
from rl2ml_core.selection.criteria import Criterion, Paper, PreparedWeights, RmsGain
from rl2ml_core.selection.metrics import Metric, parse_metric

__all__ = ["ALWAYS_ASSUMED", "CRITERIA", "DEFAULT_VARIANCE_PENALTY", "Problem", "Solution", "Trainer", "solve"]

CRITERIA = ("rms_gain", "paper")
#: What every answer rests on, as stable codes.
ALWAYS_ASSUMED = ("pilot_policy_is_current", "binary_rewards", "judged_prompts_resemble_pilot")

#: λ of Eq. 4 where none is given: the best of the four values measured (docs/decisions.md).
DEFAULT_VARIANCE_PENALTY = 0.01
#: A metric with less expected headroom than this share of its range is saturated on the pilot.
SATURATED_HEADROOM = 1e-3
_RL_AND_MAXRL = np.array([0.0, 1.0])
_KEPT_WEIGHTS = 1 << 17  # a megabyte at most for each range and N
_VALUES_AT_ONCE = 1 << 20


@dataclass(frozen=True, eq=False)
class Problem:
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
    ) -> "Problem":
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

    def assumptions(self, criterion: str, variance_penalty: float | None, score_model: ScoreModel | None) -> list[str]:
        """What the answer rests on, as stable codes."""
        stated = list(ALWAYS_ASSUMED)
        if self.pilot is None:
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
class Trainer:
    """The trainer in use."""

    label: str  # as the answer names it
    spoken: str  # as a sentence names it
    table: AdvantageTable | None
    why_undefined: str = ""

    @classmethod
    def of(cls, current: str | float | AdvantageTable, problem: Problem) -> "Trainer":
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
class Solution:
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


def solve(problem: Problem, trainer: Trainer) -> Solution:
    """The global maximum of the criterion on the problem's range, with its certificate. E16."""
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
    return Solution(
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
