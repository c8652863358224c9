"""What a γ is chosen by, linear in prompts so that one evaluation serves the answer and every bootstrap draw.

A criterion turns G advantage tables into a few terms per cell, [terms, C, G], weights them by prompts and combines them
into one number per table. Shapes: C cells, G tables, D draws of prompt weights, N rollouts.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from rl2ml_core.checks import Array
from rl2ml_core.objective.advantages import energy_moments, gradient_moments, score_lengths
from rl2ml_core.objective.population import Population, ScoreModel
from rl2ml_core.selection.metrics import Metric

__all__ = ["Criterion", "Paper", "RmsGain", "Tables", "Weighted", "table_products"]


_KEPT_VALUES = 1 << 20
_TINY = 1e-300

#: Success and failure advantages of G tables, two arrays [G, N+1].
Tables = tuple[Array, Array]


@dataclass(frozen=True, eq=False)
class Weighted:
    """Terms of G tables for any weights of the cells: one evaluation serves all bootstrap draws."""

    cells: Array  # [C, width]: what is weighed, linear in the terms
    finish: Callable[[Array], Array]  # [D, width] → [terms, D, G]
    per_draw: int = 1  # numbers that `finish` holds for each draw

    def __call__(self, weights: Array) -> Array:
        """Terms [terms, D, G] of weights [D, C]."""
        return self.finish(weights @ self.cells)

    @classmethod
    def of(cls, terms: Array) -> "Weighted":
        """From the terms of every cell, [terms, C, G]."""
        count, _, tables = terms.shape
        cells = np.moveaxis(terms, 0, 1).reshape(-1, count * tables)
        return cls(cells, lambda sums: np.moveaxis(sums.reshape(-1, count, tables), 1, 0))


class Criterion(Protocol):
    """How a choice is valued.

    `degrees` are those that an interpolant in γ starts from and ends at; None for the problem's own, and no end.
    """

    @property
    def degrees(self) -> tuple[int, int] | None: ...

    def totals(self, success: Array, failure: Array) -> Array:
        """Population terms of G tables [G, N+1]: [terms, G]."""
        ...

    def weighted(self, parts: Sequence[Tables]) -> Weighted:
        """The same terms of all parts' tables, for any weights of the cells."""
        ...

    def combine(self, terms: Array, kappa: Array | float) -> Array:
        """The criterion, [..., G], of terms [terms, ..., G] under κ, scalar or [..., 1]."""
        ...

    def under(self, population: Population) -> "Criterion":
        """The same question of other prompts."""
        ...


class RmsGain:
    """A/√V: predicted gain of the metric per root-mean-square length of the update. E11, E12.

    A = E[v' w ℓ] and V = E‖ĝ‖² under the κ-model, per prompt: A = κ Σ_m (s_{m+1} − t_m) a_m with
    a_m = E[v' p²(1−p)² B_m], and V as in `energy_moments`.
    """

    degrees = None

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
        return self._apply(self._total[None], table_products(success, failure))[:, 0]

    def weighted(self, parts: Sequence[Tables]) -> Weighted:
        products = [table_products(*part) for part in parts]
        tables = sum(success.shape[0] for success, _ in parts)
        if len(parts) == 1 and self._width <= 3 * tables:  # whichever leaves fewer numbers per cell to weigh
            coefficients = np.concatenate([block for _, block in self._blocks()])
            return Weighted(coefficients, lambda sums: self._apply(sums, products[0]))
        terms = np.empty((3, self._population.weights.size, tables))
        for where, coefficients in self._blocks():
            terms[:, where] = np.concatenate([self._apply(coefficients, part) for part in products], axis=-1)
        return Weighted.of(terms)

    def combine(self, terms: Array, kappa: Array | float) -> Array:
        gain, noise, coupling = terms
        energy = np.maximum(noise + kappa * coupling, _TINY)  # a table of zeros moves nothing and gains nothing
        return np.asarray(kappa * gain / np.sqrt(energy))

    def under(self, population: Population) -> "RmsGain":
        """The same of other prompts."""
        return RmsGain(population, self._metric, self._num_rollouts)

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
        coefficients = np.empty((block.weights.size, self._width))
        coefficients[:, :n] = self._metric.signal(block, n)
        coefficients[:, n : 2 * n], coefficients[:, 2 * n : 3 * n], coefficients[:, 3 * n :] = energy_moments(block, n)
        return coefficients

    def _apply(self, coefficients: Array, products: tuple[Array, Array, Array]) -> Array:
        """Gain, noise and coupling of G tables for every row of coefficients: [3, rows, G]."""
        n = self._num_rollouts
        parts = coefficients[:, :n], coefficients[:, n : 3 * n], coefficients[:, 3 * n :]
        return np.stack([part @ product for part, product in zip(parts, products, strict=True)])


def table_products(success: Array, failure: Array) -> tuple[Array, Array, Array]:
    """What gain, noise and coupling are linear in, of G tables: [N, G], [2N, G] and [N−1, G]."""
    s, t = success.T[1:], failure.T[:-1]  # s_{m+1} and t_m, m = 0..N−1
    squares = np.concatenate([s, t]) ** 2
    n = len(s)
    return s - t, squares, squares[1:n] - 2 * s[:-1] * t[1:] + squares[n:-1]


class Paper:
    """Eq. 4, for fidelity: U − λ√R at plug-in pass rates, U = A/√B (Eq. 1–2), R = Σ trace Cov ĝ (Eq. 3, Theorem 4.3).

    Sums run over prompts (not means), as in the paper: with P prompts both U and √R grow like √P.
    """

    degrees = None

    def __init__(
        self,
        population: Population,
        metric: Metric,
        num_rollouts: int,
        score_model: ScoreModel,
        variance_penalty: float,
    ) -> None:
        self._points = population.at_means()
        self._metric = metric
        self._num_rollouts = num_rollouts
        self._score_model = score_model
        self._penalty = variance_penalty
        p = self._points.pass_rates
        self._sensitivity = score_model.sensitivity(p)
        self._slope = metric.slope(p)
        self._lengths = score_lengths(score_model, p)

    def totals(self, success: Array, failure: Array) -> Array:
        return np.asarray(np.einsum("c,tcg->tg", self._points.weights, self._per_cell(success, failure)))

    def weighted(self, parts: Sequence[Tables]) -> Weighted:
        return Weighted.of(np.concatenate([self._per_cell(*part) for part in parts], axis=-1))

    def under(self, population: Population) -> "Paper":
        """The same of other prompts."""
        return Paper(population, self._metric, self._num_rollouts, self._score_model, self._penalty)

    def _per_cell(self, success: Array, failure: Array) -> Array:
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
