"""The question behind a recommendation and its solution: which γ of a range has the highest criterion.

γ is the family parameter, not a discount factor. Shapes: C cells, G values of γ, Q interpolation nodes, N rollouts.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from rl2ml_core.checks import Array, choice, finite_number, integer
from rl2ml_core.errors import InvalidInput
from rl2ml_core.objective.advantages import AdvantageTable
from rl2ml_core.objective.baselines import Estimator
from rl2ml_core.objective.catalog import KNOWN_TRAINERS, known_table
from rl2ml_core.objective.family import MAX_GAMMA, MAX_ROLLOUTS
from rl2ml_core.objective.objective import Objective
from rl2ml_core.objective.population import BetaPrior, Population, ScoreModel
from rl2ml_core.pilot.histogram import PilotHistogram
from rl2ml_core.pilot.prior import FittedPrior
from rl2ml_core.selection.calibration import LearningRate, calibrate
from rl2ml_core.selection.chebyshev import Interpolant, first_degree, grid_and_matrix, highest, interpolate, piece_edges
from rl2ml_core.selection.criteria import Criterion, Paper, RmsGain, Tables
from rl2ml_core.selection.lookahead import JUDGED_ON, Lookahead
from rl2ml_core.selection.metrics import Metric, parse_metric

__all__ = [
    "ALWAYS_ASSUMED",
    "CRITERIA",
    "DEFAULT_VARIANCE_PENALTY",
    "LOOKAHEAD",
    "Problem",
    "Solution",
    "Trainer",
    "solve",
    "stack",
]

CRITERIA = ("rms_gain", "paper", "lookahead")
#: What every answer rests on, as stable codes.
ALWAYS_ASSUMED = ("pilot_policy_is_current", "binary_rewards", "judged_prompts_resemble_pilot")
#: And what that of criterion "lookahead" does.
LOOKAHEAD = "gains_are_over_a_training_run"

#: λ of Eq. 4 where none is given: the best of the four values measured (docs/decisions.md).
DEFAULT_VARIANCE_PENALTY = 0.01
#: A metric with less expected headroom than this share of its range is saturated on the pilot.
SATURATED_HEADROOM = 1e-3
_RL_AND_MAXRL = np.array([0.0, 1.0])
_VALUES_AT_ONCE = 1 << 18


@dataclass(frozen=True, eq=False)
class Problem:
    """A validated question: what is known, what is judged, what may be chosen."""

    pilot: PilotHistogram | None
    population: Population
    metric: Metric
    num_rollouts: int
    gamma_min: float
    gamma_max: float
    estimator: Estimator  # that ships
    valued: Estimator  # that the criterion values
    scores: ScoreModel
    criterion: Criterion
    fitted: FittedPrior | None  # what the pilot says of its prior; None without a pilot
    prior_is_fitted: bool

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
        order: int | None,
        filter_groups: bool,
        judged_on: str = "either",
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
        choice(judged_on, "judged_on", JUDGED_ON)
        if judged_on != "either" and criterion != "lookahead":
            raise InvalidInput(
                f"judged_on belongs to criterion 'lookahead'; {criterion!r} looks one step ahead, on the prompts of it",
                field="judged_on",
            )
        penalty = DEFAULT_VARIANCE_PENALTY
        if variance_penalty is not None:
            if criterion != "paper":
                raise InvalidInput(
                    f"variance_penalty belongs to criterion 'paper'; {criterion!r} needs none", field="variance_penalty"
                )
            penalty = finite_number(variance_penalty, "variance_penalty", minimum=0, maximum=1e6)
        population = pilot if isinstance(pilot, Population) else pilot.population(prior)
        if score_model is not None and not isinstance(score_model, ScoreModel):
            raise InvalidInput(f"score_model must be a ScoreModel; got {score_model!r:.60}", field="score_model")
        scores = score_model or (ScoreModel.paper() if criterion == "paper" else ScoreModel())
        if criterion == "paper" and scores.kappa_spread:
            raise InvalidInput("criterion 'paper' draws no κ: it takes no kappa_spread", field="score_model")
        if criterion != "paper" and scores.name == "paper":
            raise InvalidInput(
                f"criterion {criterion!r} takes ScoreModel(kappa=…); ScoreModel.paper() serves criterion 'paper'",
                field="score_model",
            )

        shipped = Estimator.named(baseline, n, population, scores, order, filter_groups)

        valued: Criterion
        if criterion == "paper":
            valued = Paper(population, judged, n, scores, penalty)
        elif criterion == "lookahead":
            valued = Lookahead(population, judged, shipped, score_model, low, high, judged_on)
        else:
            valued = RmsGain(population, judged, n)
        if n == 1 and (shipped.filter_groups or shipped.name == "group_centered"):
            what = "a trainer that drops groups of equal rewards" if filter_groups else "baseline 'group_centered'"
            raise InvalidInput(f"{what} needs at least 2 rollouts per prompt; got 1", field="num_rollouts")
        return cls(
            pilot=pilot if isinstance(pilot, PilotHistogram) else None,
            population=population,
            metric=judged,
            num_rollouts=n,
            gamma_min=low,
            gamma_max=high,
            estimator=shipped,
            # Eq. 3 is the variance of the direct estimator.
            valued=Estimator.named("none", n, None, order=order) if criterion == "paper" else shipped,
            scores=scores,
            criterion=valued,
            fitted=pilot.fitted_prior if isinstance(pilot, PilotHistogram) else None,
            prior_is_fitted=isinstance(prior, str) and prior == "empirical_bayes",
        )

    def tables(self, gamma: Array) -> list[Tables]:
        """The valued tables at every γ, in parts that stay within a few megabytes."""
        rows = max(1, _VALUES_AT_ONCE // self.num_rollouts)
        return [self.valued.tables(gamma[start : start + rows]) for start in range(0, gamma.size, rows)]

    def objective(self, gamma: float) -> Objective:
        """A γ with the estimator, population and score model of this question: what an answer ships."""
        return Objective(
            gamma,
            self.estimator.name,
            self.population,
            self.scores,
            self.estimator.effective_order,
            self.num_rollouts,
            filter_groups=self.estimator.filter_groups,
        )

    def learning_rate(self, trainer: "Trainer", rms: float, reference: float | None) -> LearningRate:
        """From the RMS of the advantages, ours and the trainer's in use, over all rollouts. E14, E20."""
        # Where groups are dropped, none of the rollouts that are trained on was counted with zeros.
        kept = self.kept_share**0.5 if self.estimator.filter_groups or trainer.drops_equal_groups else 1.0
        if kept > 0:
            rms /= kept if self.estimator.filter_groups else 1
            reference = reference / kept if reference is not None and trainer.drops_equal_groups else reference
        return calibrate(reference, rms, trainer.label)

    @property
    def kept_share(self) -> float:
        """E[1 − p^N − (1−p)^N]: the share of groups that a trainer which drops equal rewards keeps."""
        people, n = self.population, self.num_rollouts
        equal = sum(
            float(block.weights @ block.bernstein(n).law[:, [0, -1]].sum(axis=1)) for _, block in people.blocks(n + 1)
        )
        return max(1 - equal / float(people.weights.sum()), 0.0)

    def searched(self, gamma: Array) -> Array:
        """The criterion's terms of the valued tables at every γ, [terms, G]."""
        if isinstance(self.criterion, Lookahead) and np.array_equal(gamma, self.criterion.gammas):
            return self.criterion.searched
        return np.concatenate([self.criterion.totals(*part) for part in self.tables(gamma)], axis=-1)

    def under(self, prior: BetaPrior) -> Criterion:
        """The criterion were the prior another."""
        people = self.population
        return self.criterion.under(Population.trusted(people.successes, people.failures, people.weights, prior))

    def terms(self, *tables: AdvantageTable) -> Array:
        """The criterion's terms of any tables, [terms, tables]."""
        return self.criterion.totals(*stack(*tables))

    def values(self, terms: Array) -> Array:
        """The criterion of terms [terms, G] → [G]."""
        return self.criterion.combine(terms, self.scores.kappa)

    def why_uninformative(self) -> str | None:
        """Why no γ can be told from this pilot, or None."""
        occupied = self.population.weights > 0
        if not self.population.successes[occupied].any():
            return "the pilot has no success at all; make the prompts easier, or sample far more rollouts"
        if not self.population.failures[occupied].any():
            return "the pilot has no failure at all: there is nothing left to learn from these prompts"
        rates = self.population.pass_rates[occupied]
        if not (rates * (1 - rates)).any():
            return "no prompt has both successes and failures to learn from under this prior"
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
        elif criterion == "lookahead":
            stated += [LOOKAHEAD] + ["default_kappa"] * (score_model is None)
        elif score_model is None:
            stated.append("default_kappa")
        return stated


def stack(*tables: AdvantageTable) -> Tables:
    """Several tables as two arrays [tables, N+1]."""
    return np.array([table.success for table in tables]), np.array([table.failure for table in tables])


@dataclass(frozen=True, eq=False)
class Trainer:
    """The trainer in use."""

    label: str  # as the answer names it
    spoken: str  # as a sentence names it
    table: AdvantageTable | None  # as the criterion values it
    trained: AdvantageTable | None = None  # that its learning rate was tuned under, where another
    drops_equal_groups: bool = False
    why_undefined: str = ""

    def rms(self, population: Population) -> float | None:
        """RMS of the advantages that its learning rate was tuned under; None where it has none."""
        used = self.trained or self.table
        return None if used is None else used.rms(population)

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
            return cls(
                f"gamma={gamma:g}",
                f"your γ={gamma:g}",
                problem.valued.table(gamma),
                problem.estimator.table(gamma),
                problem.estimator.filter_groups,
            )
        name = choice(current, "current", KNOWN_TRAINERS)
        spoken = f"your {KNOWN_TRAINERS[name].label}"
        try:
            return cls(name, spoken, known_table(name, n), None, KNOWN_TRAINERS[name].drops_equal_groups)
        except InvalidInput as error:
            why = f"{str(error).partition(';')[0]}: there is nothing to compare with."
            return cls(name, spoken, None, why_undefined=why)


@dataclass(frozen=True, eq=False)
class Solution:
    """The certified maximum and the values that it is compared with."""

    gamma: float
    value: float
    table: AdvantageTable  # that the criterion values at the best γ
    stationary: Array
    interpolant: Interpolant
    gammas: Array  # all that were searched: the Q interpolation nodes and the piece edges
    node_values: Array  # [Q]
    node_terms: Array  # [terms, Q]
    fixed_terms: Array  # of the fixed tables, [terms, T]
    grid: Array  # an even grid over the range, [R]
    to_grid: Array  # from values at the nodes to the interpolant there, [Q, R]
    fixed: dict[str, AdvantageTable]  # "shipped" (as the criterion values it), "rl", "maxrl", "current" and others
    values: dict[str, float]  # the criterion of each

    @property
    def nodes(self) -> Array:
        """γ at the interpolation nodes, [Q]."""
        return self.gammas[: self.node_values.size]

    @property
    def curve(self) -> Array:
        """The criterion on the grid, [R]."""
        return np.asarray(self.node_values @ self.to_grid)

    def place(self, name: str) -> int | None:
        """Where a fixed table stands among them."""
        return list(self.fixed).index(name) if name in self.fixed else None

    def gain_over(self, name: str) -> float | None:
        """The relative gain over one of them; None where it gains nothing, or is not there."""
        other = self.values.get(name, 0.0)
        return self.value / other - 1 if other > 0 else None

    def valued_tables(self, problem: Problem) -> list[Tables]:
        """The tables at the nodes, then the fixed ones, in one part where they are small."""
        parts = [*problem.tables(self.nodes), stack(*self.fixed.values())]
        if len(parts) > 2:
            return parts
        success, failure = zip(*parts, strict=True)
        return [(np.concatenate(success), np.concatenate(failure))]


def solve(problem: Problem, trainers: Mapping[str, AdvantageTable]) -> Solution:
    """The global maximum of the criterion on the problem's range, with its certificate, and its value elsewhere. E16.

    Args:
        problem: the question.
        trainers: tables to compare with, by name, such as "current".
    """
    edges = piece_edges(problem.gamma_min, problem.gamma_max)
    searched: dict[str, Array] = {}

    def evaluate(nodes: Array) -> Array:
        """The criterion at the nodes; on the way at the piece edges."""
        gammas = np.concatenate([nodes, edges])
        terms = problem.searched(gammas)
        values = problem.values(terms)
        searched.update(gammas=gammas, terms=terms, values=values)
        return values[: nodes.size]

    degrees = problem.criterion.degrees or (first_degree(problem.num_rollouts),)
    found, node_values = interpolate(evaluate, problem.gamma_min, problem.gamma_max, *degrees)
    gammas, terms, values = searched["gammas"], searched["terms"], searched["values"]
    nodes = node_values.size
    stationary = found.stationary_points()
    gamma, _ = highest(found, stationary, values[nodes : nodes + edges.size])
    # Exact values: of the answer, and of what it is compared with.
    table = problem.valued.table(gamma)
    rl, maxrl = map(problem.valued.table, _RL_AND_MAXRL.tolist())
    fixed = {"shipped": table, "rl": rl, "maxrl": maxrl, **trainers}
    exact_terms = problem.terms(*fixed.values())
    exact = problem.values(exact_terms).tolist()
    grid, to_grid = grid_and_matrix(problem.gamma_min, problem.gamma_max, found.degree)
    return Solution(
        gamma=gamma,
        value=exact[0],
        table=table,
        stationary=stationary,
        interpolant=found,
        gammas=gammas,
        node_values=node_values,
        node_terms=terms[:, :nodes],
        fixed_terms=exact_terms,
        grid=grid,
        to_grid=to_grid,
        fixed=fixed,
        values=dict(zip(fixed, exact, strict=True)),
    )
