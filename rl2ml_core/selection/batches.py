"""What a training step gains per length of its update, for every number of rollouts per prompt at once. E38, E39.

A step draws G of P training prompts, each with N rollouts; gradients of two prompts have the mean cosine ρ. Everything
is made of moments E[f(p) B_m(p)] of Bernstein polynomials, and those of a lower degree are weighted means of neighbors:
all N cost what the largest one does.

Shapes: C cells, G tables, N rollouts, m successes among the other N−1.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.special import gammaln

from rl2ml_core.checks import Array
from rl2ml_core.objective.population import Population
from rl2ml_core.objective.quadrature import expectations
from rl2ml_core.selection.criteria import table_products
from rl2ml_core.selection.metrics import Metric

__all__ = ["BatchMoments", "MomentsOfN", "batch_signal", "equal_shares", "gain_per_length", "slopes"]

_TINY = 1e-300


def batch_signal(
    mean: Array, square: Array, coupling: Array, cosine: Array | float, prompts: float, per_step: Array | float
) -> Array:
    """The part of E‖u‖² that is in proportion to κ, per κ; the rest of it is noise/G. E38.

    Args:
        mean, square: ⟨g⟩ and ⟨g²⟩ over prompts, g = w(p) p(1−p).
        coupling: of the energy E‖ĝ‖² (E12).
        cosine: ρ.
        prompts, per_step: P and G, at most P.
    """
    common = cosine * mean**2 + (1 - cosine) / prompts * square
    f = (prompts - per_step) / (max(prompts - 1, 1) * per_step)
    return np.asarray(common + f * (square - common) + (coupling - square) / per_step)


def gain_per_length(
    terms: Array,
    slope: Array | float,
    kappa: Array | float,
    cosine: Array | float,
    prompts: float,
    per_step: Array | float,
) -> Array:
    """A/√E‖u‖²: the metric's gain per root-mean-square length of a step's update. E38.

    Args:
        terms: gain, noise and coupling as in `RmsGain`, then ⟨g⟩ and ⟨g²⟩: [5, ...].
        slope: ⟨v'(p) p(1−p)⟩, the mean of `slopes`.
        kappa, cosine, prompts, per_step: κ, ρ, P and G; they broadcast with the terms.
    """
    gain, noise, coupling, mean, square = terms
    ahead = kappa * (cosine * slope * mean + (1 - cosine) / prompts * gain)
    energy = kappa * batch_signal(mean, square, coupling, cosine, prompts, per_step) + noise / per_step
    return np.asarray(ahead / np.sqrt(np.maximum(energy, _TINY)))


def slopes(population: Population, metric: Metric) -> Array:
    """E[v'(p) p(1−p)] per cell, [C]: how fast the metric rises with what all prompts share."""
    logs, tilted = population.raised(1, 1)
    if population.prior is None:
        return np.asarray(np.exp(logs) * metric.slope(population.pass_rates))
    return np.asarray(np.exp(logs) * expectations(tilted, lambda p, _: metric.slope(p), 0)[:, 0])


def equal_shares(population: Population, num_rollouts: Collection[int]) -> list[float]:
    """E[p^N + (1−p)^N], the share of groups with equal rewards, for each N."""
    shares = population.weights / population.weights.sum()
    found = []
    for n in num_rollouts:
        with np.errstate(under="ignore"):
            found.append(float(sum(shares @ np.exp(population.raised(*powers)[0]) for powers in ((n, 0), (0, n)))))
    return found


@dataclass(frozen=True, eq=False)
class MomentsOfN:
    """Moments for groups of N, for R rows of cells or means over them."""

    linear: Array  # E[f B_m], f = v'p²q², p, q, pq² and pq, degree N−1: [5, R, N]
    squared: Array  # E[p²q² B_j] of degree 2N−2: [R, 2N−1]

    def terms(self, success: Array, failure: Array) -> Array:
        """Gain, noise, coupling, ⟨g⟩ and ⟨g²⟩ of tables [G, N+1]: [5, R, G]."""
        signal, of_success, of_failure, crossed, mean = self.linear
        n = signal.shape[-1]
        contrasts, squares, coupled = table_products(success, failure)
        noise = (np.concatenate([of_success, of_failure], axis=1) / n) @ squares
        coupling = (crossed[:, 1:] * (np.arange(1, n) / n)) @ coupled
        return np.stack([signal @ contrasts, noise, coupling, mean @ contrasts, self._square(contrasts)])

    def _square(self, contrasts: Array) -> Array:
        """E[p²q² w²] of weights w = Σ d_m B_m, d [N, G], as B_m B_j = share · B_{m+j}: [R, G]. E39."""
        n, tables = contrasts.shape
        shares = _product_shares(n)
        if len(self.squared) == 1:
            form = shares * np.lib.stride_tricks.sliding_window_view(self.squared[0], n)
            return np.asarray(((form @ contrasts) * contrasts).sum(axis=0, keepdims=True))
        of_square = np.zeros((2 * n - 1, tables))  # coefficients of w²
        for m in range(n):
            of_square[m : m + n] += shares[m][:, None] * contrasts[m] * contrasts
        return np.asarray(self.squared @ of_square)


@dataclass(frozen=True, eq=False)
class BatchMoments:
    """Moments for groups of the largest N: of every cell, or their mean over prompts (one row)."""

    largest: MomentsOfN

    @classmethod
    def of_cells(cls, population: Population, metric: Metric, num_rollouts: int) -> "BatchMoments":
        """Of every cell of a population."""
        moments = population.bernstein(num_rollouts - 1)
        p = moments(1, 0)
        linear = np.stack(
            [
                metric.signal(population, num_rollouts),
                p,
                moments.law - p,
                moments.failed(p, 1, 2),
                moments.failed(p, 1, 1),
            ]
        )
        return cls(MomentsOfN(linear, population.bernstein(2 * num_rollouts - 2)(2, 2)))

    @classmethod
    def of_population(cls, population: Population, metric: Metric, num_rollouts: int) -> "BatchMoments":
        """Their mean over prompts."""
        linear, squared = np.zeros((5, 1, num_rollouts)), np.zeros((1, 2 * num_rollouts - 1))
        for where, block in population.blocks(5 * num_rollouts):
            found, weights = cls.of_cells(block, metric, num_rollouts).largest, population.weights[where]
            linear[:, 0] += weights @ found.linear
            squared[0] += weights @ found.squared
        total = population.weights.sum()
        return cls(MomentsOfN(linear / total, squared / total))

    def down_to(self, least: int) -> Iterator[tuple[int, MomentsOfN]]:
        """N and its moments, from the largest N to the least."""
        linear, squared = self.largest.linear, self.largest.squared
        for n in range(linear.shape[-1], least - 1, -1):
            yield n, MomentsOfN(linear, squared)
            if n > least:
                linear, squared = _lowered(linear), _lowered(_lowered(squared))


def _lowered(moments: Array) -> Array:
    """E[f B_m] of one degree less: [..., n+1] → [..., n]; B_m = ((n−m) B_m + (m+1) B_{m+1})/n. E39."""
    n = moments.shape[-1] - 1
    m = np.arange(n)
    return np.asarray(moments[..., :-1] * ((n - m) / n) + moments[..., 1:] * ((m + 1) / n))


@lru_cache(maxsize=256)
def _product_shares(num_rollouts: int) -> Array:
    """C(n,m) C(n,j)/C(2n,m+j) for m, j = 0..n = N−1, [N, N]."""
    n = num_rollouts - 1
    m = np.arange(num_rollouts)
    logs = gammaln(n + 1) - gammaln(m + 1) - gammaln(n - m + 1)
    both = m[:, None] + m
    of_both = gammaln(2 * n + 1) - gammaln(both + 1) - gammaln(2 * n - both + 1)
    return np.asarray(np.exp(logs[:, None] + logs - of_both))
