"""All stationary points of an analytic function on an interval, and so its certified global maximum.

The criteria are analytic in γ: a Chebyshev interpolant of moderate degree equals them to rounding, and every stationary
point is a root of its derivative. Shapes: D functions (draws), Q nodes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from rl2ml_core.checks import Array

__all__ = ["Certificate", "Interpolant", "first_degree", "grid_and_matrix", "interpolate", "piece_edges"]

#: Interpolants are refined until their last coefficients are this small against the largest value.
TAIL = 1e-9
_ROUNDING = 1e-12
# The grid for plots, quantiles and draws; peaks between points are refined.
_GRID_PER_UNIT = 60
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
        found = [np.empty(0)]
        derivatives = self._derivatives()
        # |d_0| > Σ|d_i| leaves the derivative no root on the piece; most pieces end here.
        magnitudes = np.abs(derivatives)
        for piece in np.flatnonzero(2 * magnitudes[:, 0] <= magnitudes.sum(axis=1) * (1 + 1e-9)):
            left, right = self.edges[piece : piece + 2]
            # Coefficients below rounding would only add spurious roots and time.
            significant = np.flatnonzero(np.abs(self.coefficients[piece]) > _ROUNDING * self.scale)
            if significant.size and significant[-1] >= 2:  # else constant or linear
                roots = _roots(derivatives[piece, : significant[-1]])
                real = roots.real[(np.abs(roots.imag) < 1e-6) & (np.abs(roots.real) <= 1 + 1e-6)]
                found.append(left + (np.clip(real, -1, 1) + 1) / 2 * (right - left))
        points = np.sort(np.concatenate(found))
        inside = (points > self.edges[0]) & (points < self.edges[-1])
        inside[1:] &= np.diff(points) > 1e-8  # on a piece edge both neighbors find the same root
        return np.asarray(points[inside])

    def slope(self, at: float) -> float:
        """The derivative at a point of the interval; 0 where the interval is one point."""
        piece = min(max(int(np.searchsorted(self.edges, at, side="right")) - 1, 0), len(self.coefficients) - 1)
        left, right = self.edges[piece : piece + 2]
        if left == right:
            return 0.0
        unit = min(max(2 * (at - left) / (right - left) - 1, -1.0), 1.0)
        series = self._derivatives()[piece]
        return float(series @ np.cos(np.arange(series.size) * np.arccos(unit)) * 2 / (right - left))

    def _derivatives(self) -> Array:
        """Chebyshev coefficients of each piece's derivative (by its unit variable), [pieces, max(degree, 1)]."""
        degree = self.degree
        result = np.zeros((len(self.coefficients), max(degree, 1)))
        scaled = 2 * self.coefficients * np.arange(degree + 1)
        # d_k = d_{k+2} + 2(k+1) c_{k+1}: sums of every second coefficient, from the top.
        for first in (degree, degree - 1):
            if first > 0:
                result[:, first - 1 :: -2] = np.cumsum(scaled[:, first:0:-2], axis=1)
        result[:, 0] /= 2
        return result


def _roots(series: Array) -> npt.NDArray[np.complex128]:
    """All roots of a Chebyshev series [n+1], n ≥ 1: eigenvalues of its colleague matrix, scaled towards symmetry."""
    degree = series.size - 1
    if degree == 1:
        return np.array([-series[0] / series[1]], dtype=complex)
    matrix = np.zeros((degree, degree))
    scale = np.full(degree, np.sqrt(0.5))
    scale[0] = 1.0
    off = np.full(degree - 1, 0.5)
    off[0] = np.sqrt(0.5)
    i = np.arange(degree - 1)
    matrix[i, i + 1] = matrix[i + 1, i] = off
    matrix[:, -1] -= series[:-1] / series[-1] * (scale / scale[-1]) * 0.5
    return np.linalg.eigvals(matrix).astype(complex)


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


@lru_cache(maxsize=16)
def _unit_nodes(degree: int) -> tuple[Array, Array]:
    """Chebyshev–Gauss nodes on [−1, 1], [degree+1], and the matrix from values to coefficients."""
    angles = (np.arange(degree + 1) + 0.5) * np.pi / (degree + 1)
    transform = np.cos(np.outer(angles, np.arange(degree + 1))) * (2 / (degree + 1))
    transform[:, 0] /= 2
    return np.cos(angles), transform
