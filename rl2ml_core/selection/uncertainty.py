"""How sure the answer is: Bayesian bootstrap over prompts, together with what is not known about κ.

Every draw reweighs the prompts (Dirichlet, aggregated to cells) and, where κ is not known, draws κ; the advantage table
that ships is fixed. Sampling noise alone is reported apart: with κ fixed it is far too narrow.

Shapes: D draws, C cells, Q interpolation nodes, R grid points.
"""

import math
from dataclasses import dataclass

import numpy as np

from rl2ml_core.checks import Array
from rl2ml_core.objective.population import LEAST_KAPPA, ScoreModel
from rl2ml_core.selection.criteria import Criterion

__all__ = ["DEFAULT_KAPPA_RANGE", "Draws", "Interval", "NearOptimal", "draw", "kappa_draws", "near_optimal", "peaks"]

#: Where κ is defaulted it is drawn log-uniformly from here: the range met between noisy and clean score models.
DEFAULT_KAPPA_RANGE = (0.01, 1.0)

_WEIGHTS_AT_ONCE = 1 << 20
_NEIGHBORS = np.array([[-1], [0], [1]])
_SMALLEST = 1e-200


@dataclass(frozen=True)
class Interval:
    """A central interval of probability `level` for the best γ."""

    level: float
    lower: float
    upper: float


@dataclass(frozen=True)
class NearOptimal:
    """The γ around the best one whose criterion is within a share `loss` of it: how precise one must be."""

    loss: float
    lower: float
    upper: float

    def rounded(self) -> tuple[float, float]:
        """Both ends to two decimals, rounded so that they stay within the set."""
        return math.ceil(self.lower * 100 - 1e-6) / 100, math.floor(self.upper * 100 + 1e-6) / 100


@dataclass(frozen=True, eq=False)
class Draws:
    """What the draws say of the best γ, of the shipped one, and of the curve."""

    best: Array  # argmax of each draw, [D]
    loss: Array  # what the shipped γ loses of the criterion, [D]
    curves: Array  # each draw's criterion, [D, R]
    height: Array  # and its maximum, [D]

    def interval(self, level: float) -> Interval:
        ordered = np.sort(self.best)
        lower, upper = np.interp([(1 - level) / 2, (1 + level) / 2], np.linspace(0, 1, ordered.size), ordered)
        return Interval(level, float(lower), float(upper))

    @property
    def regret(self) -> float | None:
        """Mean share of the criterion that the shipped γ loses; None where it has no positive maximum to share."""
        if not (self.height > 0).all():
            return None
        return float(np.maximum(self.loss / self.height, 0).mean())

    def band(self, level: float) -> tuple[Array, Array] | None:
        """Pointwise central band of the relative criterion: two arrays [R]."""
        if not (self.height > 0).all():
            return None
        ordered = np.sort(self.curves / self.height[:, None], axis=0)
        last = len(ordered) - 1
        return ordered[round(last * (1 - level) / 2)], ordered[round(last * (1 + level) / 2)]


def draw(
    criterion: Criterion,
    per_cell: Array,
    to_grid: Array,
    grid: Array,
    num_prompts: Array,
    kappas: list[Array],
    num_draws: int,
    rng: np.random.Generator,
) -> list[Draws]:
    """Bootstrap draws under each of several κ scenarios, on the same prompt weights.

    Args:
        criterion: the criterion of the point estimate.
        per_cell: the criterion's terms at the interpolation nodes and, last, at the shipped γ, [terms, C, Q+1].
        to_grid: interpolation matrix, [Q, R].
        grid: γ, [R].
        num_prompts: prompts by cell, [C]: the Dirichlet's counts.
        kappas: κ of every draw, one array [D] per scenario.
        num_draws: D.
        rng: the source of randomness; draws depend on it and on the cells alone.
    """
    values: list[list[Array]] = [[] for _ in kappas]
    rows = max(1, _WEIGHTS_AT_ONCE // num_prompts.size)
    for start in range(0, num_draws, rows):
        block = slice(start, min(start + rows, num_draws))
        # A sum of Dirichlet(1, …, 1) weights over the prompts of a cell is a gamma variable with that many prompts.
        weights = rng.standard_gamma(num_prompts, size=(block.stop - block.start, num_prompts.size))
        sums = weights.sum(axis=1, keepdims=True)
        if sums.min() > 0:
            weights /= sums
        else:  # with far less than one prompt in all a draw may underflow: then it says what the pilot says
            weights = np.where(sums > 0, weights / np.where(sums > 0, sums, 1), num_prompts / num_prompts.sum())
        terms = weights @ per_cell
        for scenario, kappa in zip(values, kappas, strict=True):
            scenario.append(criterion.combine(terms, kappa[block, None]))
    return [_summarize(np.concatenate(scenario), to_grid, grid) for scenario in values]


def kappa_draws(score_model: ScoreModel | None, num_draws: int, rng: np.random.Generator) -> Array | None:
    """κ of every draw, [D]: log-uniform where only defaulted, log-normal by its spread; None where it is known."""
    # Stratified: one draw from every D-th of the distribution, so that few draws cover it.
    uniform = (rng.permutation(num_draws) + rng.random(num_draws)) / num_draws
    if score_model is None:
        low, high = np.log(DEFAULT_KAPPA_RANGE)
        return np.asarray(np.exp(low + (high - low) * uniform))
    if not score_model.kappa_spread:
        return None
    from scipy.special import ndtri

    return np.asarray(np.clip(score_model.kappa * np.exp(score_model.kappa_spread * ndtri(uniform)), LEAST_KAPPA, 1.0))


def near_optimal(grid: Array, values: Array, gamma: float, value: float, loss: float = 0.01) -> NearOptimal:
    """The run of γ around `gamma` with values of at least (1 − loss) times `value`; ends by linear interpolation."""
    floor = value - loss * abs(value)
    at = int(np.searchsorted(grid, gamma, side="right")) - 1
    below = values < floor
    outside = np.flatnonzero(below[: at + 1])
    lower, upper = float(grid[0]), float(grid[-1])
    if outside.size:
        lower = _crossing(int(outside[-1]), 1, grid, values, floor, gamma, value)
    outside = np.flatnonzero(below[at + 1 :])
    if outside.size:
        upper = _crossing(at + 1 + int(outside[0]), -1, grid, values, floor, gamma, value)
    return NearOptimal(loss, min(lower, gamma), max(upper, gamma))


def _crossing(outside: int, step: int, grid: Array, values: Array, floor: float, gamma: float, value: float) -> float:
    """Where the curve crosses the floor between a point below it and its neighbor above it (or γ itself)."""
    inside = outside + step
    x, y = (grid[inside], values[inside]) if values[inside] >= floor else (gamma, value)
    if y == values[outside]:
        return float(x)
    return float(x + (grid[outside] - x) * (y - floor) / (y - values[outside]))


def peaks(values: Array, grid: Array) -> tuple[Array, Array]:
    """Position and height of each row's maximum, refined by the parabola through its neighbors: [D, R] → [D], [D]."""
    rows = np.arange(len(values))
    top = values.argmax(axis=1)
    if grid.size < 3:
        return grid[top], values[rows, top]
    center = np.minimum(np.maximum(top, 1), grid.size - 2)
    before, middle, after = values[rows, center + _NEIGHBORS]
    curvature = before - 2 * middle + after
    # At an end of the grid, or where the parabola opens upwards, the peak is at the neighbor: an offset of ±1.
    offset = (before - after) / np.minimum(2 * curvature, -_SMALLEST)
    offset = np.minimum(np.maximum(offset, -1), 1)
    height = middle + offset * ((after - before) + offset * curvature) / 2
    return grid[center] + offset * (grid[1] - grid[0]), np.maximum(height, values[rows, top])


def _summarize(values: Array, to_grid: Array, grid: Array) -> Draws:
    curves = values[:, :-1] @ to_grid
    best, height = peaks(curves, grid)
    return Draws(best, height - values[:, -1], curves, height)
