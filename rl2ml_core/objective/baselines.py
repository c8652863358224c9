"""Unbiased estimators of one objective: leave-one-out baselines b(m), m successes among the other N−1 rollouts.

All tables with s_{m+1} − t_m = β_m have the same expected gradient w_{γ,N} ∇p; they are exactly
t_m = −b(m), s_{m+1} = β_m − b(m) (docs/equations.md, E9), and differ in noise alone.
"""

from dataclasses import dataclass

import numpy as np

from rl2ml_core.checks import Array, choice
from rl2ml_core.errors import InvalidInput
from rl2ml_core.objective.advantages import AdvantageTable
from rl2ml_core.objective.family import success_weights
from rl2ml_core.objective.population import HasPopulation, Population, ScoreGeometry, as_population

__all__ = ["BASELINES", "Baseline", "expected_pass_rate", "resolve_baseline", "rl2ml_table"]

_UNDERFLOW = 1e-250

#: Each baseline in a sentence.
BASELINES = {
    "none": "b = 0: the paper's direct estimator",
    "score": "b = 1: the paper's control variate",
    "leave_one_out": "b = β_m · m/(N−1): like RLOO, needs no pilot",
    "bayes": "b = β_m · E[p | m successes among N−1]: the pilot's posterior mean; the default with a pilot",
}


def rl2ml_table(
    gamma: float,
    num_rollouts: int,
    baseline: str | None = None,
    population: "Population | HasPopulation | None" = None,
    score_model: ScoreGeometry | None = None,  # noqa: ARG001  (no baseline of today depends on it)
    order: int | None = None,
) -> AdvantageTable:
    """The advantage table that optimises J_{γ,N} (or J_{γ,M}) without bias. Theorem 3.2.

    Args:
        gamma: γ ∈ [0, 20].
        num_rollouts: N.
        baseline: a key of `BASELINES`; "bayes" when a population is given, else "leave_one_out".
        population: a PilotHistogram or Population; needed by "bayes".
        score_model: part of the call for baselines that weigh score noise; none of today's does.
        order: truncation order M ≤ N; N when None.

    Raises:
        InvalidInput: a value outside its range, an unknown baseline, or "bayes" without a population.
    """
    name = resolve_baseline(baseline, population)
    weights = success_weights(gamma, num_rollouts, order)
    people = None if population is None else as_population(population)
    success, failure = Baseline.named(name, num_rollouts, people).tables(weights[None])
    return AdvantageTable(success[0], failure[0])


def resolve_baseline(baseline: str | None, population: object | None) -> str:
    """The baseline's name, with the default filled in."""
    if baseline is None:
        return "leave_one_out" if population is None else "bayes"
    name = choice(baseline, "baseline", BASELINES)
    if name == "bayes" and population is None:
        raise InvalidInput("baseline 'bayes' needs a population (a pilot); got none", field="baseline")
    return name


@dataclass(frozen=True, eq=False)
class Baseline:
    """b(m) = β_m e(m) + c for m = 0..N−1 successes among the others: every baseline here, for any objective."""

    shares: Array  # e(m), [N]
    constant: float = 0.0  # c

    @classmethod
    def named(cls, name: str, num_rollouts: int, population: Population | None) -> "Baseline":
        """The baseline of a key of `BASELINES`."""
        if name == "bayes" and population is not None:
            return cls(expected_pass_rate(population, num_rollouts - 1))
        if name == "leave_one_out":  # 0/0 at N = 1 is taken as 0
            return cls(np.arange(num_rollouts) / max(num_rollouts - 1, 1))
        return cls(np.zeros(num_rollouts), 1.0 if name == "score" else 0.0)

    def tables(self, weights: Array) -> tuple[Array, Array]:
        """Tables s_K, t_K, K = 0..N, of G objectives with success weights [G, N]: two arrays [G, N+1]."""
        baseline = weights * self.shares + self.constant
        success = np.zeros((weights.shape[0], weights.shape[1] + 1))
        failure = np.zeros_like(success)
        success[:, 1:] = weights - baseline
        failure[:, :-1] = -baseline
        return success, failure


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
