"""How sure the answer is: Bayesian bootstrap over prompts, together with what is not known about κ and the prior.

Every draw reweighs the prompts (Dirichlet, aggregated to cells), has a prior of its own and, where κ is not known, a κ
of its own; the advantage table that ships is fixed. Sampling noise alone is reported apart: it is far too narrow.

Shapes: D draws, C cells, Q interpolation nodes, R grid points, T fixed tables, J neighboring priors.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from rl2ml_core.checks import Array
from rl2ml_core.objective.population import LEAST_KAPPA, BetaPrior, ScoreModel
from rl2ml_core.pilot.prior import LARGEST_SHAPE, LEAST_SHAPE, FittedPrior, prior_at
from rl2ml_core.selection.criteria import Criterion, Weighted

__all__ = [
    "DEFAULT_KAPPA_RANGE",
    "Draws",
    "Interval",
    "NearOptimal",
    "PriorSpread",
    "draw",
    "kappa_draws",
    "near_optimal",
    "peaks",
    "scaled",
    "spread_of_fit",
    "spread_of_strength",
]

#: Where κ is defaulted it is drawn log-uniformly from here: the range met between noisy and clean score models.
DEFAULT_KAPPA_RANGE = (0.01, 1.0)

#: A stated prior's strength (its pseudo-counts) is uncertain by this factor either way: Beta(1, 1) lies between
#: Jeffreys' Beta(½, ½) and Beta(2, 2).
STRENGTH_FACTOR = 2.0
#: Standard deviations from a fitted prior at which its neighbors stand; draws beyond them are pulled in.
_NEIGHBORS_AT = 3.0

_WEIGHTS_AT_ONCE = 1 << 20
_NEIGHBORS = np.array([[-1], [0], [1]])
_SMALLEST = 1e-200


@dataclass(frozen=True)
class Interval:
    """A central interval of probability `level`."""

    level: float
    lower: float
    upper: float

    @classmethod
    def of(cls, values: Array, level: float) -> "Interval":
        """Quantiles of draws [D]."""
        ordered = np.sort(values)
        lower, upper = np.interp([(1 - level) / 2, (1 + level) / 2], np.linspace(0, 1, ordered.size), ordered)
        return cls(level, float(lower), float(upper))


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
class PriorSpread:
    """Priors around the point estimate's, and how much of each neighbor a draw takes.

    A draw's distribution of pass rates is a convex combination of those under the point estimate's prior and under its
    neighbors, so it is a distribution whatever the draw, and linear in what has been evaluated once.
    """

    neighbors: tuple[BetaPrior, ...]
    shares: Callable[[Array, slice], Array]  # the draws' weights of the cells [d, C] and their place → [d, J]


def scaled(prior: BetaPrior, factor: float) -> BetaPrior:
    """The prior of the same mean with `factor` times its pseudo-counts, within what a prior may have."""
    return BetaPrior(*(min(max(shape * factor, LEAST_SHAPE), LARGEST_SHAPE) for shape in (prior.alpha, prior.beta)))


def spread_of_strength(prior: BetaPrior, num_draws: int, rng: np.random.Generator) -> PriorSpread:
    """Of a stated prior: its strength log-uniform within `STRENGTH_FACTOR`, its mean as stated. E22."""
    position = 2 * _stratified(num_draws, rng) - 1
    shares = np.stack([np.maximum(-position, 0), np.maximum(position, 0)], axis=1)
    neighbors = scaled(prior, 1 / STRENGTH_FACTOR), scaled(prior, STRENGTH_FACTOR)
    return PriorSpread(neighbors, lambda _, where: shares[where])


def spread_of_fit(fitted: FittedPrior, num_prompts: Array, num_draws: int, rng: np.random.Generator) -> PriorSpread:
    """Of a fitted prior: refitted to each draw's prompts by one Newton step, with the hyperprior's pull redrawn. E22.

    The refit varies with the prompts as the fit itself would; what the pilot does not tell stays as wide as the
    hyperprior. Together the draws have about the covariance H⁻¹ of the fit.
    """
    spreads, axes = np.linalg.eigh(fitted.covariance)
    steps = _NEIGHBORS_AT * np.sqrt(spreads) * axes  # columns: the neighbors' distance along each axis
    to_axes = fitted.covariance @ axes / (_NEIGHBORS_AT * np.sqrt(spreads))
    pull = rng.standard_normal((num_draws, 2)) * np.sqrt(np.diag(fitted.penalty))
    neighbors = tuple(prior_at(fitted.coordinates + side * step) for step in steps.T for side in (-1, 1))

    def shares(weights: Array, where: slice) -> Array:
        change = (weights * num_prompts.sum() - num_prompts) @ fitted.scores + pull[where]
        along = change @ to_axes
        along /= np.maximum(np.abs(along).sum(axis=1, keepdims=True), 1)
        return np.stack([np.maximum(side * along[:, i], 0) for i in (0, 1) for side in (-1, 1)], axis=1)

    return PriorSpread(neighbors, shares)


@dataclass(frozen=True, eq=False)
class Draws:
    """What the draws say of the best γ, of the fixed tables, and of the curve."""

    best: Array  # argmax of each draw, [D]
    curves: Array  # each draw's criterion, [D, R]
    height: Array  # and its maximum, [D]
    fixed: Array  # each draw's criterion of the fixed tables, [D, T]; the shipped one is the first
    fixed_at_kappa: Array  # the same with κ held at the point estimate's, [D, T]

    def interval(self, level: float) -> Interval:
        """Where the best γ lies."""
        return Interval.of(self.best, level)

    def gain_over(self, table: int, level: float, *, at_kappa: bool = False) -> Interval | None:
        """Where the shipped table's relative gain over another fixed one lies; None where that may have none.

        With `at_kappa`, were κ known.
        """
        fixed = self.fixed_at_kappa if at_kappa else self.fixed
        other = fixed[:, table]
        return Interval.of(fixed[:, 0] / other - 1, level) if (other > 0).all() else None

    @property
    def regret(self) -> float | None:
        """Mean share of the criterion that the shipped γ loses; None where it has no positive maximum to share."""
        if not (self.height > 0).all():
            return None
        return float(np.maximum(1 - self.fixed[:, 0] / self.height, 0).mean())

    def band(self, level: float) -> tuple[Array, Array] | None:
        """Pointwise central band of the relative criterion: two arrays [R]."""
        if not (self.height > 0).all():
            return None
        ordered = np.sort(self.curves / self.height[:, None], axis=0)
        last = len(ordered) - 1
        return ordered[round(last * (1 - level) / 2)], ordered[round(last * (1 + level) / 2)]


def draw(
    criterion: Criterion,
    weighted: Weighted,
    under_neighbors: Sequence[Weighted],
    spread: PriorSpread | None,
    to_grid: Array,
    grid: Array,
    num_prompts: Array,
    kappa: float,
    kappas: Array | None,
    num_draws: int,
    rng: np.random.Generator,
) -> tuple[Draws, Draws]:
    """Bootstrap draws with prompts alone uncertain, and with κ and the prior uncertain too, on the same prompt weights.

    Args:
        criterion: the criterion of the point estimate.
        weighted: its terms at the interpolation nodes, then at the fixed tables, Q+T in all.
        under_neighbors: the same under the neighboring priors of `spread`.
        spread: how the prior varies; None where there is none.
        to_grid: interpolation matrix, [Q, R].
        grid: γ, [R].
        num_prompts: prompts by cell, [C]: the Dirichlet's counts.
        kappa: κ of the point estimate.
        kappas: κ of every draw, [D]; None where it is known.
        num_draws: D.
        rng: the source of randomness of the weights; they depend on it and on the cells alone.
    """
    nodes = to_grid.shape[0]
    alone: list[Array] = []
    together: list[Array] = []
    held: list[Array] = []
    rows = max(1, _WEIGHTS_AT_ONCE // max(num_prompts.size, weighted.per_draw))
    for start in range(0, num_draws, rows):
        block = slice(start, min(start + rows, num_draws))
        # A sum of Dirichlet(1, …, 1) weights over the prompts of a cell is a gamma variable with that many prompts.
        weights = rng.standard_gamma(num_prompts, size=(block.stop - block.start, num_prompts.size))
        sums = weights.sum(axis=1, keepdims=True)
        if sums.min() > 0:
            weights /= sums
        else:  # with far less than one prompt in all a draw may underflow: then it says what the pilot says
            weights = np.where(sums > 0, weights / np.where(sums > 0, sums, 1), num_prompts / num_prompts.sum())
        moments = weights @ weighted.cells
        terms = weighted.finish(moments)
        values = criterion.combine(terms, kappa)
        alone.append(values)
        if spread is not None:
            shares = spread.shares(weights, block)
            moments = (1 - shares.sum(axis=1, keepdims=True)) * moments
            for share, neighbor in zip(shares.T, under_neighbors, strict=True):
                moments += share[:, None] * (weights @ neighbor.cells)
            terms = weighted.finish(moments)
            values = criterion.combine(terms, kappa)
        held.append(values[:, nodes:])
        together.append(values if kappas is None else criterion.combine(terms, kappas[block, None]))
    only = _summarize(np.concatenate(alone), to_grid, grid)
    return only, replace(_summarize(np.concatenate(together), to_grid, grid), fixed_at_kappa=np.concatenate(held))


def kappa_draws(score_model: ScoreModel | None, num_draws: int) -> Array | None:
    """κ of every draw, [D]: log-uniform where only defaulted, log-normal by its spread; None where it is known.

    The middles of D equally likely parts, in order: the weights are random, so κ need not be, and pilots that are drawn
    as often (groups of prompts) share κ draw by draw.
    """
    position = (np.arange(num_draws) + 0.5) / num_draws
    if score_model is None:
        low, high = np.log(DEFAULT_KAPPA_RANGE)
        return np.asarray(np.exp(low + (high - low) * position))
    if not score_model.kappa_spread:
        return None
    from scipy.special import ndtri

    return np.asarray(np.clip(score_model.kappa * np.exp(score_model.kappa_spread * ndtri(position)), LEAST_KAPPA, 1.0))


def _stratified(num_draws: int, rng: np.random.Generator) -> Array:
    """Uniform on (0, 1), one draw from every D-th of it, shuffled: few draws cover it."""
    return np.asarray((rng.permutation(num_draws) + rng.random(num_draws)) / num_draws)


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
    # γ may stand out from the whole grid where the criterion is all but noise.
    within = 0 <= inside < grid.size and values[inside] >= floor
    x, y = (grid[inside], values[inside]) if within else (gamma, value)
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
    nodes = to_grid.shape[0]
    curves = values[:, :nodes] @ to_grid
    best, height = peaks(curves, grid)
    fixed = values[:, nodes:].copy()  # a view would keep all of them
    return Draws(best, curves, height, fixed, fixed)
