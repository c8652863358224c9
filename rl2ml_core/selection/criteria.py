"""What a γ is chosen by, linear in prompts so that one evaluation serves the answer and every bootstrap draw.

A criterion turns G advantage tables into a few terms per cell, [terms, C, G], weights them by prompts and combines them
into one number per table. Shapes: C cells, G tables, D draws of prompt weights, N rollouts.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from rl2ml_core.checks import Array
from rl2ml_core.objective.advantages import gradient_moments, score_lengths
from rl2ml_core.objective.baselines import Baseline
from rl2ml_core.objective.population import Population, ScoreModel
from rl2ml_core.selection.metrics import Metric

__all__ = ["Criterion", "Paper", "PreparedWeights", "RmsGain"]


_KEPT_VALUES = 1 << 23
_TINY = 1e-300


@dataclass(frozen=True, eq=False)
class PreparedWeights:
    """Success weights β of G objectives, [G, N], with the products that energies are quadratic forms of."""

    values: Array
    squares: Array  # β_m²
    neighbors: Array  # β_{m−1} β_m, [G, N−1]

    @classmethod
    def of(cls, weights: Array) -> "PreparedWeights":
        return cls(weights, weights**2, weights[:, :-1] * weights[:, 1:])


class Criterion(Protocol):
    """How a choice is valued."""

    def totals(self, success: Array, failure: Array) -> Array:
        """Population terms of G tables [G, N+1]: [terms, G]."""
        ...

    def per_cell(self, success: Array, failure: Array) -> Array:
        """The same terms for every cell, [terms, C, G]: weighted by prompts they add up to any bootstrap draw's."""
        ...

    def family_totals(self, weights: PreparedWeights, baseline: Baseline) -> Array:
        """`totals` of the tables that a baseline makes of G success weights."""
        ...

    def family_per_cell(self, weights: PreparedWeights, baseline: Baseline) -> Array:
        """`per_cell` of them."""
        ...

    def combine(self, terms: Array, kappa: Array | float) -> Array:
        """The criterion, [..., G], of terms [terms, ..., G] under κ, scalar or [..., 1]."""
        ...


class RmsGain:
    """A/√V: predicted gain of the metric per root-mean-square length of the update. E11, E12.

    A = E[v' w ℓ] and V = E‖ĝ‖² under the κ-model, per prompt:
    A = κ Σ_m (s_{m+1} − t_m) a_m,
    V = Σ_m (S_m s²_{m+1} + F_m t²_m) + κ Σ_{m=1}^{N−1} e_m (s²_{m+1} − 2 s_m t_m + t²_{m−1})
    with S_m = E[p B_m]/N, F_m = E[(1−p) B_m]/N, e_m = (m/N) E[p(1−p)² B_m], a_m = E[v' p²(1−p)² B_m].
    """

    def __init__(self, population: Population, metric: Metric, num_rollouts: int) -> None:
        self._population = population
        self._metric = metric
        self._num_rollouts = num_rollouts
        # Kept for the draws where they are small; recomputed otherwise.
        self._kept: list[tuple[slice, Array]] = []
        keep = population.weights.size * self._width <= _KEPT_VALUES
        total = np.zeros(self._width)
        for where, coefficients in self._blocks():
            if keep:
                self._kept.append((where, coefficients))
            total += population.weights[where] @ coefficients
        self._total = total / population.weights.sum()

    def totals(self, success: Array, failure: Array) -> Array:
        return self._apply(self._total[None], success, failure)[:, 0]

    def family_totals(self, weights: PreparedWeights, baseline: Baseline) -> Array:
        return self._apply_family(self._total[None], weights, baseline)[:, 0]

    def family_per_cell(self, weights: PreparedWeights, baseline: Baseline) -> Array:
        terms = np.zeros((3, self._population.weights.size, weights.values.shape[0]))
        for where, coefficients in self._blocks():
            terms[:, where] = self._apply_family(coefficients, weights, baseline)
        return terms

    def per_cell(self, success: Array, failure: Array) -> Array:
        terms = np.zeros((3, self._population.weights.size, success.shape[0]))
        for where, coefficients in self._blocks():
            terms[:, where] = self._apply(coefficients, success, failure)
        return terms

    def combine(self, terms: Array, kappa: Array | float) -> Array:
        gain, noise, coupling = terms
        energy = np.maximum(noise + kappa * coupling, _TINY)  # a table of zeros moves nothing and gains nothing
        return np.asarray(kappa * gain / np.sqrt(energy))

    def advantage_rms(self, terms: Array) -> float:
        """Root mean square of a table's advantages from its terms [3, 1]: their noise is E[Σ A²]/N²."""
        return float(np.sqrt(self._num_rollouts * terms[1, 0]))

    @property
    def _width(self) -> int:
        return 4 * self._num_rollouts - 1

    def _blocks(self) -> Iterator[tuple[slice, Array]]:
        if self._kept:
            yield from list(self._kept)
            return
        for where, block in self._population.blocks(self._num_rollouts):
            yield where, self._coefficients(block)

    def _coefficients(self, block: Population) -> Array:
        """a [N], S [N], F [N] and e [N−1] of every cell, side by side: [C, 4N−1]."""
        n = self._num_rollouts
        moments = block.bernstein(n - 1)
        success = moments(1, 0)
        coefficients = np.empty((block.weights.size, self._width))
        coefficients[:, :n] = self._metric.signal(block, n)
        coefficients[:, n : 2 * n] = success / n
        coefficients[:, 2 * n : 3 * n] = (moments.law - success) / n
        coefficients[:, 3 * n :] = (moments.failed(success, 1, 2) * (np.arange(n) / n))[:, 1:]
        return coefficients

    def _apply(self, coefficients: Array, success: Array, failure: Array) -> Array:
        """Gain, noise and coupling of G tables for every row of coefficients: [3, rows, G]."""
        n = self._num_rollouts
        s, t = success[:, 1:], failure[:, :-1]  # s_{m+1} and t_m, m = 0..N−1
        gain = coefficients[:, :n] @ (s - t).T
        noise = coefficients[:, n : 3 * n] @ np.concatenate([s**2, t**2], axis=1).T
        pairs = s[:, 1:] ** 2 - 2 * s[:, :-1] * t[:, 1:] + t[:, :-1] ** 2
        return np.stack([gain, noise, coefficients[:, 3 * n :] @ pairs.T])

    def _apply_family(self, coefficients: Array, weights: PreparedWeights, baseline: Baseline) -> Array:
        """The same of a baseline's tables, [3, rows, G], without building them while γ is searched.

        With s_{m+1} = β_m(1−e_m) − c and t_m = −β_m e_m − c the energy is a tridiagonal quadratic form in β.
        """
        n = self._num_rollouts
        signal, s, f = (coefficients[:, i * n : (i + 1) * n] for i in range(3))
        coupled = coefficients[:, 3 * n :]
        lost, c = baseline.shares, baseline.constant
        kept = 1 - lost
        diagonal = np.zeros((coefficients.shape[0], n))
        diagonal[:, 1:] = coupled * kept[1:] ** 2
        diagonal[:, :-1] += coupled * lost[:-1] ** 2
        terms = np.empty((3, coefficients.shape[0], weights.values.shape[0]))
        terms[0] = signal @ weights.values.T
        terms[1] = (s * kept**2 + f * lost**2) @ weights.squares.T
        terms[2] = diagonal @ weights.squares.T + (coupled * (2 * kept[:-1] * lost[1:])) @ weights.neighbors.T
        if c:
            steps = weights.values[:, :-1] - weights.values[:, 1:]
            linear = (f * lost - s * kept) @ weights.values.T
            terms[1] += 2 * c * linear + c**2 * (s + f).sum(axis=1, keepdims=True)
            terms[2] += 2 * c * (coupled @ steps.T)
        return terms


class Paper:
    """Eq. 4, for fidelity: U − λ√R at plug-in pass rates, U = A/√B (Eq. 1–2), R = Σ trace Cov ĝ (Eq. 3, Theorem 4.3).

    Sums run over prompts (not means), as in the paper: with P prompts both U and √R grow like √P.
    """

    def __init__(
        self,
        population: Population,
        metric: Metric,
        num_rollouts: int,
        score_model: ScoreModel,
        variance_penalty: float,
    ) -> None:
        self._points = population.at_means()
        self._num_rollouts = num_rollouts
        self._penalty = variance_penalty
        p = self._points.pass_rates
        self._sensitivity = score_model.sensitivity(p)
        self._slope = metric.slope(p)
        self._lengths = score_lengths(score_model, p)

    def totals(self, success: Array, failure: Array) -> Array:
        return np.asarray(np.einsum("c,tcg->tg", self._points.weights, self.per_cell(success, failure)))

    def family_totals(self, weights: PreparedWeights, baseline: Baseline) -> Array:
        return self.totals(*baseline.tables(weights.values))

    def family_per_cell(self, weights: PreparedWeights, baseline: Baseline) -> Array:
        return self.per_cell(*baseline.tables(weights.values))

    def per_cell(self, success: Array, failure: Array) -> Array:
        terms = np.zeros((3, self._points.weights.size, success.shape[0]))
        for where, block in self._points.blocks(self._num_rollouts + 1):
            law = block.bernstein(self._num_rollouts).law
            weight = block.bernstein(self._num_rollouts - 1).law @ (success[:, 1:] - failure[:, :-1]).T
            mean, second = gradient_moments(law, self._lengths[:, where], success, failure)
            sensitivity = self._sensitivity[where, None]
            gain = self._slope[where, None] * sensitivity * weight
            terms[:, where] = gain, sensitivity * weight**2, second - mean**2
        return terms

    def combine(self, terms: Array, kappa: Array | float) -> Array:  # noqa: ARG002  (Eq. 4 has its own proxies)
        gain, length, variance = terms
        moving = length > 0
        value: Array = np.where(moving, gain / np.sqrt(np.where(moving, length, 1)), 0)
        return np.asarray(value - self._penalty * np.sqrt(np.maximum(variance, 0)))
