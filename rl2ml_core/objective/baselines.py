"""Unbiased estimators of one objective: leave-one-out baselines b(m), m successes among the other N−1 rollouts.

All tables with s_{m+1} − t_m = β_m have the same expected gradient w_{γ,N} ∇p; they are exactly
t_m = −b(m), s_{m+1} = β_m − b(m) (docs/equations.md, E9), and differ in noise alone. Shapes: G values of γ, N rollouts.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.linalg.lapack import dpttrf, dpttrs

from rl2ml_core.checks import Array, choice, finite_number, integer
from rl2ml_core.errors import InvalidInput
from rl2ml_core.objective.advantages import AdvantageTable, energy_moments, score_lengths
from rl2ml_core.objective.family import MAX_GAMMA, MAX_ROLLOUTS, success_weights
from rl2ml_core.objective.population import HasPopulation, Population, ScoreGeometry, ScoreModel, as_population

__all__ = ["BASELINES", "Estimator", "energy_form", "expected_pass_rate", "resolve_baseline", "rl2ml_table"]

_UNDERFLOW = 1e-250
_KEPT_WEIGHTS = 1 << 17  # a megabyte at most for each set of γ

#: Each baseline in a sentence.
BASELINES = {
    "none": "b = 0: the paper's direct estimator",
    "score": "b = 1: the paper's control variate",
    "leave_one_out": "b = β_m · m/(N−1): like RLOO, needs no pilot",
    "bayes": "b = β_m · E[p | m successes among N−1]: the pilot's posterior mean; the default with a pilot",
    "minimum_variance": "the b of least variance on the pilot under its score model: never noisier than the others",
    "group_centered": "(α_K/r̄)(r − r̄), zero in groups of equal rewards: optimizes J_{γ,N−1}, one order less",
}
_NEED_POPULATION = ("bayes", "minimum_variance")


def rl2ml_table(
    gamma: float,
    num_rollouts: int,
    baseline: str | None = None,
    population: "Population | HasPopulation | None" = None,
    score_model: ScoreGeometry | None = None,
    order: int | None = None,
    *,
    filter_groups: bool = False,
) -> AdvantageTable:
    """The advantage table that optimizes J_{γ,N} (or J_{γ,M}) without bias. Theorem 3.2.

    Args:
        gamma: γ ∈ [0, 20].
        num_rollouts: N.
        baseline: a key of `BASELINES`; "bayes" when a population is given, else "leave_one_out". "group_centered"
            optimizes J_{γ,N−1} (or J_{γ,M}, M ≤ N−1), which at N = 1 is nothing: a table of zeros.
        population: a PilotHistogram or Population; needed by "bayes" and "minimum_variance".
        score_model: what "minimum_variance" weighs score noise by; `ScoreModel()` when None. The κ-model is integrated
            over the population exactly, any other geometry taken at the cells' mean pass rates.
        order: truncation order M ≤ N; N when None.
        filter_groups: for trainers that drop groups of equal rewards (DAPO, verl's filter_groups): b(0) = 0 and
            b(N−1) = β_{N−1}, so that such groups have no advantage to lose and the objective stays the same (E20).
            At N = 1 every group is dropped: a table of zeros.

    Raises:
        InvalidInput: a value outside its range, an unknown baseline, one that needs a population without one, or a
            score model that is not finite or has negative noise.
    """
    people = None if population is None else as_population(population)
    return Estimator.named(baseline, num_rollouts, people, score_model, order, filter_groups).table(gamma)


def resolve_baseline(baseline: str | None, population: object | None) -> str:
    """The baseline's name, with the default filled in."""
    if baseline is None:
        return "leave_one_out" if population is None else "bayes"
    name = choice(baseline, "baseline", BASELINES)
    if name in _NEED_POPULATION and population is None:
        raise InvalidInput(f"baseline {name!r} needs a population (a pilot); got none", field="baseline")
    return name


@dataclass(frozen=True, eq=False)
class Estimator:
    """An unbiased estimator for groups of N: from any γ to its advantage table.

    A group of one has nothing to center on, and always equal rewards: where either is asked for, its table is zeros.
    """

    name: str  # a key of BASELINES
    num_rollouts: int
    order: int | None
    filter_groups: bool
    baseline: Callable[[Array], Array] | None  # success weights [G, N] → b [G, N]; None for "group_centered"

    @classmethod
    def named(
        cls,
        baseline: str | None,
        num_rollouts: int,
        population: Population | None,
        score_model: ScoreGeometry | None = None,
        order: int | None = None,
        filter_groups: bool = False,
    ) -> "Estimator":
        """The estimator of a key of `BASELINES`; arguments and errors as `rl2ml_table`."""
        name = resolve_baseline(baseline, population)
        num_rollouts = integer(num_rollouts, "num_rollouts", minimum=1, maximum=MAX_ROLLOUTS)
        if order is not None:
            order = integer(order, "order", minimum=1, maximum=num_rollouts)
        return cls(
            name,
            num_rollouts,
            order,
            filter_groups,
            _baseline(name, num_rollouts, population, score_model or ScoreModel(), filter_groups),
        )

    @property
    def effective_order(self) -> int:
        """M of the objective that its tables optimize: N − 1 at most where the group is centered."""
        largest = self.num_rollouts - (self.name == "group_centered")
        return max(min(self.order or largest, largest), 1)

    def tables(self, gamma: Array) -> tuple[Array, Array]:
        """Tables s_K, t_K, K = 0..N, of every γ [G]: two arrays [G, N+1]."""
        success = np.zeros((gamma.size, self.num_rollouts + 1))
        failure = np.zeros_like(success)
        if self.num_rollouts == 1 and (self.filter_groups or self.baseline is None):
            return success, failure
        if self.baseline is None:
            self._center(gamma, success, failure)
            return success, failure
        weights = _weights(gamma, self.num_rollouts, self.order)
        b = self.baseline(weights)
        if self.filter_groups:
            b[:, 0], b[:, -1] = 0, weights[:, -1]
        np.subtract(weights, b, out=success[:, 1:])
        np.negative(b, out=failure[:, :-1])
        return success, failure

    def table(self, gamma: float) -> AdvantageTable:
        """The table of one γ."""
        success, failure = self.tables(np.array([finite_number(gamma, "gamma", minimum=0, maximum=MAX_GAMMA)]))
        return AdvantageTable.trusted(success[0], failure[0])

    def _center(self, gamma: Array, success: Array, failure: Array) -> None:
        """A = (α_K/r̄)(r − r̄) with the update scales of J_{γ,N−1}. E19."""
        n = self.num_rollouts
        others = np.arange(1, n) / (n - 1)
        # α_K = (K/(N−1)) β_{K−1} of N−1 rollouts, K = 1..N−1.
        scales = _weights(gamma, n - 1, None if self.order is None else min(self.order, n - 1)) * others
        success[:, 1:n] = scales * (n / np.arange(1, n) - 1)
        failure[:, 1:n] = -scales


def _weights(gamma: Array, num_rollouts: int, order: int | None) -> Array:
    """Success weights [G, N], kept where they fit: the γ that are searched are the same for any pilot."""
    if gamma.size * num_rollouts <= _KEPT_WEIGHTS:
        return _kept_weights(gamma.tobytes(), num_rollouts, order)
    return success_weights(gamma, num_rollouts, order)


@lru_cache(maxsize=64)
def _kept_weights(gamma: bytes, num_rollouts: int, order: int | None) -> Array:
    weights = success_weights(np.frombuffer(gamma), num_rollouts, order)
    weights.setflags(write=False)
    return weights


def _baseline(
    name: str, num_rollouts: int, population: Population | None, scores: ScoreGeometry, filter_groups: bool
) -> Callable[[Array], Array] | None:
    """b(m) of success weights, [G, N] → [G, N]."""
    if name == "group_centered":
        return None
    if name == "minimum_variance" and population is not None:
        return _least_variance(population, num_rollouts, scores, filter_groups)
    if name == "score":
        return np.ones_like
    shares = np.zeros(num_rollouts)
    if name == "bayes" and population is not None:
        shares = expected_pass_rate(population, num_rollouts - 1)
    elif name == "leave_one_out":  # 0/0 at N = 1 is taken as 0
        shares = np.arange(num_rollouts) / max(num_rollouts - 1, 1)
    return lambda weights: weights * shares


def _least_variance(
    population: Population, num_rollouts: int, scores: ScoreGeometry, filter_groups: bool
) -> Callable[[Array], Array]:
    """The b that minimizes the population's E‖ĝ‖², a quadratic form with a tridiagonal matrix of its own: O(N). E18."""
    success, failure, crossed = energy_form(population, num_rollouts, scores)
    diagonal = success + failure
    possible = 0 <= diagonal.min() <= diagonal.max() < np.inf
    # Counts that never occur say nothing about b there; the posterior mean fills in.
    fixed = diagonal <= _UNDERFLOW
    shares = expected_pass_rate(population, num_rollouts - 1) if fixed.any() else np.zeros(num_rollouts)
    if filter_groups:
        fixed[[0, -1]] = True
        shares[[0, -1]] = 0, 1
    any_fixed = bool(fixed.any())
    beside = np.where(fixed[1:] | fixed[:-1], 0.0, -crossed) if num_rollouts > 1 else np.zeros(1)  # LAPACK wants one
    pivots, ratios, failed = dpttrf(np.where(fixed, 1.0, diagonal), beside)
    if failed or not possible:  # the matrix of real scores is diagonally dominant
        raise InvalidInput("score_model must be finite and its noise not negative", field="score_model")

    def solve(weights: Array) -> Array:
        right = success * weights
        right[:, 1:] -= crossed * weights[:, :-1]
        if any_fixed:
            known = np.where(fixed, weights * shares, 0.0)
            right[:, 1:] += crossed * known[:, :-1]
            right[:, :-1] += crossed * known[:, 1:]
            right = np.where(fixed, known, right)
        found, _ = dpttrs(pivots, ratios, right.T, overwrite_b=True)
        return np.asarray(found.T)

    return solve


def energy_form(population: Population, num_rollouts: int, scores: ScoreGeometry) -> tuple[Array, Array, Array]:
    """E‖ĝ‖² of a population as a quadratic form in tables: Σ A s²_{m+1} + Σ D t²_m − 2 Σ_{K=1}^{N−1} X s_K t_K. E18.

    Returns:
        A [N], D [N] and X [N−1], per prompt.
    """
    n = num_rollouts
    form = np.zeros(3 * n - 1)
    success, failure, crossed = form[:n], form[n : 2 * n], form[2 * n :]
    if isinstance(scores, ScoreModel) and scores.name == "kappa":
        for where, block in population.blocks(n):
            weights = population.weights[where]
            noise_of_success, noise_of_failure, coupling = (weights @ part for part in energy_moments(block, n))
            success += noise_of_success
            failure += noise_of_failure
            crossed += scores.kappa * coupling
        success[1:] += crossed
        failure[:-1] += crossed
    else:
        points = population.at_means()
        lengths = score_lengths(scores, points.pass_rates)
        k = np.arange(n + 1.0)
        for where, block in points.blocks(n + 1):
            mu, nu, noise_success, noise_failure = lengths[:, where]
            law = block.bernstein(n).law
            of = [
                (points.weights[where] * part) @ law for part in (mu**2, noise_success, nu**2, noise_failure, mu * nu)
            ]
            success += (of[0] * k**2 + of[1] * k)[1:] / n**2
            failure += (of[2] * (n - k) ** 2 + of[3] * (n - k))[:-1] / n**2
            crossed += (of[4] * k * (n - k))[1:-1] / n**2
    form /= population.weights.sum()
    return success, failure, crossed


def expected_pass_rate(population: Population, num_others: int) -> Array:
    """E[p | m successes among n rollouts], m = 0..n, [n+1], for a prompt drawn from the population. E10."""
    evidence = np.zeros(num_others + 1)  # P(m), up to the weights' sum
    successes = np.zeros(num_others + 1)  # E[p; m]
    for where, block in population.blocks(num_others + 1):
        moments = block.bernstein(num_others)
        evidence += population.weights[where] @ moments.law
        successes += population.weights[where] @ (moments.law * block.posterior_means(num_others))
    if evidence.min() > _UNDERFLOW:
        return np.asarray(np.minimum(successes / evidence, 1.0))
    return _expected_pass_rate_by_logs(population, num_others)


def _expected_pass_rate_by_logs(population: Population, num_others: int) -> Array:
    """The same where some m are too unlikely for floating point, such as many successes in an all-fail pilot."""
    evidence = np.full(num_others + 1, -np.inf)
    successes = np.full(num_others + 1, -np.inf)
    for _, block in population.blocks(num_others + 1):
        occupied = block.weights > 0
        logs = block.log_bernstein(num_others)[occupied] + np.log(block.weights[occupied])[:, None]
        with np.errstate(divide="ignore"):  # a point mass at 0
            log_means = np.log(block.posterior_means(num_others)[occupied])
        evidence = np.logaddexp(evidence, np.logaddexp.reduce(logs, axis=0))
        successes = np.logaddexp(successes, np.logaddexp.reduce(logs + log_means, axis=0))
    return np.asarray(np.minimum(np.exp(successes - evidence), 1.0))
