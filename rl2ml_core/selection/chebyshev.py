"""All stationary points of an analytic function on an interval, and so its certified global maximum.

The criteria are analytic in γ: a Chebyshev interpolant of moderate degree equals them to rounding, and every stationary
point is a root of its derivative. Shapes: D functions (draws), Q nodes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from rl2ml_core.checks import Array

__all__ = ["Certificate", "Interpolant", "first_degree", "grid_and_matrix", "interpolate", "piece_edges"]

#: Interpolants are refined until their last coefficients are this small against the largest value.
TAIL = 1e-9
_ROUNDING = 1e-12
_NARROWEST = 1e-8  # of a piece [−1, 1] that is still halved in search of roots
# The grid for plots, quantiles and draws; peaks between points are refined.
_GRID_PER_UNIT = 40
_LEAST_GRID = 40
_HIGHEST_DEGREE = 256
#: Narrow pieces of low degree cost less than wide ones: the roots of degree n cost n³.
_WIDEST_PIECE = 1.0


@dataclass(frozen=True)
class Certificate:
    """Why the maximum is global: the interpolant's degree, its relative tail, and all stationary points inside."""

    degree: int
    tail: float
    stationary_points: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class Interpolant:
    """A function on [lower, upper] as Chebyshev series on equal pieces.

    Args:
        edges: piece boundaries, [pieces+1].
        coefficients: [pieces, degree+1].
        scale: largest absolute value at the nodes.
    """

    edges: Array
    coefficients: Array
    scale: float

    @property
    def degree(self) -> int:
        return int(self.coefficients.shape[1] - 1)

    @property
    def tail(self) -> float:
        """Size of the last three coefficients (odd and even) relative to the largest value."""
        if self.scale == 0 or self.degree == 0:
            return 0.0
        return float(np.abs(self.coefficients[:, -3:]).sum(axis=1).max() / self.scale)

    def stationary_points(self) -> Array:
        """Every root of the derivative strictly inside the interval, sorted."""
        derivatives = _derivative(self.coefficients)
        # Coefficients below rounding would only add spurious roots.
        floor = _ROUNDING * self.scale
        found = [
            left + (root + 1) / 2 * (right - left)
            for left, right, series, derivative in zip(
                self.edges[:-1], self.edges[1:], self.coefficients, derivatives, strict=True
            )
            if np.abs(series[1:]).max(initial=0.0) > floor
            for root in _roots(derivative)
        ]
        points = np.sort(np.array(found))
        inside = (points > self.edges[0]) & (points < self.edges[-1])
        inside[1:] &= np.diff(points) > 1e-7  # on a piece edge both neighbors find the same root
        return np.asarray(points[inside])

    def __call__(self, points: Array) -> Array:
        """The interpolant at points of the interval, [...] → [...]."""
        piece = np.clip(np.searchsorted(self.edges, points, side="right") - 1, 0, len(self.coefficients) - 1)
        left, right = self.edges[piece], self.edges[piece + 1]
        unit = np.clip(2 * (points - left) / np.where(right > left, right - left, 1) - 1, -1, 1)
        basis = np.cos(np.arccos(unit)[..., None] * np.arange(self.degree + 1))
        return np.asarray(np.einsum("...k,...k->...", basis, self.coefficients[piece]))

    def slope(self, at: float) -> float:
        """The derivative at a point of the interval; 0 where the interval is one point."""
        piece = min(max(int(np.searchsorted(self.edges, at, side="right")) - 1, 0), len(self.coefficients) - 1)
        left, right = self.edges[piece : piece + 2]
        if left == right:
            return 0.0
        unit = min(max(2 * (at - left) / (right - left) - 1, -1.0), 1.0)
        series = _derivative(self.coefficients[piece])
        return float(series @ np.cos(np.arange(series.size) * np.arccos(unit)) * 2 / (right - left))


def _derivative(series: Array) -> Array:
    """Chebyshev coefficients of the derivative, [..., n+1] → [..., max(n, 1)]."""
    degree = series.shape[-1] - 1
    result = np.zeros((*series.shape[:-1], max(degree, 1)))
    scaled = 2 * series * np.arange(degree + 1)
    # d_k = d_{k+2} + 2(k+1) c_{k+1}: sums of every second coefficient, from the top.
    for first in (degree, degree - 1):
        if first > 0:
            result[..., first - 1 :: -2] = np.cumsum(scaled[..., first:0:-2], axis=-1)
    result[..., 0] /= 2
    return result


def _roots(series: Array) -> list[float]:
    """All roots of a Chebyshev series [n+1] on [−1, 1], none missed.

    |d_0| > Σ|d_i| leaves no root. The same of the derivative leaves the series monotone: one root where the ends differ
    in sign. Otherwise both halves are looked at, down to intervals as small as rounding (double roots end there).
    """
    found: list[float] = []
    noise = 1e-11 * float(np.abs(series).sum())
    left, right = _halving(series.size)
    parts = [(series, -1.0, 1.0)]
    while parts:
        part, low, high = parts.pop()
        magnitudes = np.abs(part)
        if 2 * magnitudes[0] > magnitudes.sum() + noise:
            continue
        slope = _derivative(part)
        magnitudes = np.abs(slope)
        if 2 * magnitudes[0] > magnitudes.sum():
            if (root := _monotone_root(part, noise)) is not None:
                found.append(low + (root + 1) / 2 * (high - low))
        elif high - low < _NARROWEST:
            found.append((low + high) / 2)
        else:
            middle = (low + high) / 2
            parts += [(part @ left, low, middle), (part @ right, middle, high)]
    return found


def _monotone_root(series: Array, noise: float) -> float | None:
    """The root of a monotone Chebyshev series on [−1, 1] by the Illinois form of regula falsi; None without one."""
    coefficients = series.tolist()
    low, high = -1.0, 1.0
    at_low, at_high = _clenshaw(coefficients, low), _clenshaw(coefficients, high)
    # With a root on an end, rounding may give the end either sign.
    if min(abs(at_low), abs(at_high)) <= noise:
        return low if abs(at_low) <= abs(at_high) else high
    if at_low * at_high > 0:
        return None
    root, last_side = low, 0
    for _ in range(60):
        previous, root = root, (low * at_high - high * at_low) / (at_high - at_low)
        if abs(root - previous) < 1e-15:
            break
        value = _clenshaw(coefficients, root)
        if value * at_high > 0:
            high, at_high = root, value
            at_low *= 0.5 if last_side == 1 else 1
            last_side = 1
        else:
            low, at_low = root, value
            at_high *= 0.5 if last_side == -1 else 1
            last_side = -1
    return root


def _clenshaw(coefficients: list[float], x: float) -> float:
    after = beyond = 0.0
    for c in reversed(coefficients[1:]):
        after, beyond = c + 2 * x * after - beyond, after
    return coefficients[0] + x * after - beyond


def interpolate(
    function: Callable[[Array], Array], lower: float, upper: float, degree: int
) -> tuple[Interpolant, Array]:
    """The interpolant of `function` on [lower, upper], refined until its tail is below `TAIL`, and its node values.

    Args:
        function: vectorized, [Q] → [Q].
        lower, upper: the interval; a single point gives a constant.
        degree: degree to start from.
    """
    if lower == upper:
        value = function(np.array([lower]))
        return Interpolant(np.array([lower, upper]), value[None], float(np.abs(value).max())), value
    edges = piece_edges(lower, upper)
    while True:
        unit, transform = _unit_nodes(degree)
        nodes = edges[:-1, None] + (unit + 1) / 2 * np.diff(edges)[:, None]
        values = function(nodes.ravel())
        series = values.reshape(-1, degree + 1) @ transform
        found = Interpolant(edges, series, float(np.abs(values).max()))
        if found.tail <= TAIL or degree >= _HIGHEST_DEGREE:
            return found, values
        degree += degree // 2


def first_degree(num_rollouts: int) -> int:
    """A degree that usually meets `TAIL` on a piece of width 1 for N rollouts (docs/decisions.md)."""
    for largest, degree in ((16, 18), (64, 22), (1024, 28)):
        if num_rollouts <= largest:
            return degree
    return 40


@lru_cache(maxsize=32)
def grid_and_matrix(lower: float, upper: float, degree: int) -> tuple[Array, Array]:
    """An even grid [R] over the interval and the matrix [nodes, R] from values at the nodes to the interpolant there.

    `lower`, `upper` and `degree` are those of an interpolant from `interpolate`.
    """
    if lower == upper:
        return np.array([lower]), np.ones((1, 1))
    _, transform = _unit_nodes(degree)
    edges = piece_edges(lower, upper)
    grid = np.linspace(lower, upper, max(_LEAST_GRID, int(np.ceil((upper - lower) * _GRID_PER_UNIT))) + 1)
    piece = np.clip(np.searchsorted(edges, grid, side="right") - 1, 0, edges.size - 2)
    unit = np.clip(2 * (grid - edges[piece]) / np.diff(edges)[piece] - 1, -1, 1)
    matrix = np.zeros((edges.size - 1, degree + 1, grid.size))
    matrix[piece, :, np.arange(grid.size)] = (transform @ np.cos(np.outer(np.arange(degree + 1), np.arccos(unit)))).T
    flat = matrix.reshape(-1, grid.size)
    for array in (grid, flat):
        array.setflags(write=False)
    return grid, flat


def piece_edges(lower: float, upper: float) -> Array:
    """Boundaries of equal pieces no wider than `_WIDEST_PIECE`; both ends of a single point."""
    return np.linspace(lower, upper, max(1, int(np.ceil((upper - lower) / _WIDEST_PIECE))) + 1)


@lru_cache(maxsize=64)
def _halving(size: int) -> tuple[Array, Array]:
    """Matrices [n+1, n+1] from a Chebyshev series to that of its left and of its right half."""
    unit, transform = _unit_nodes(size - 1)
    powers = np.arange(size)
    left, right = (np.cos(np.outer(powers, np.arccos((unit + shift) / 2))) @ transform for shift in (-1, 1))
    return left, right


@lru_cache(maxsize=64)
def _unit_nodes(degree: int) -> tuple[Array, Array]:
    """Chebyshev–Gauss nodes on [−1, 1], [degree+1], and the matrix from values to coefficients."""
    angles = (np.arange(degree + 1) + 0.5) * np.pi / (degree + 1)
    transform = np.cos(np.outer(angles, np.arange(degree + 1))) * (2 / (degree + 1))
    transform[:, 0] /= 2
    return np.cos(angles), transform
