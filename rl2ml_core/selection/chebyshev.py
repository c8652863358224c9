"""All stationary points of an analytic function on an interval, and so its certified global maximum.

The criteria are analytic in γ: a Chebyshev interpolant of moderate degree equals them to rounding, and every stationary
point is a root of its derivative. Shapes: Q nodes, R grid points.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from rl2ml_core.checks import Array

__all__ = [
    "Certificate",
    "Interpolant",
    "first_degree",
    "grid_and_matrix",
    "highest",
    "interpolate",
    "nodes",
    "piece_edges",
]

#: Interpolants are refined until their last coefficients are this small against the largest value.
TAIL = 1e-9
_ROUNDING = 1e-12
_NARROWEST = 1e-8  # of a piece [−1, 1] that is still halved in search of roots
# The grid for plots, quantiles and draws; peaks between points are refined.
_GRID_PER_UNIT = 40
_LEAST_GRID = 40
_HIGHEST_DEGREE = 256
#: Narrow pieces of low degree cost less than wide ones, and most of them show at once that they hold no root.
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
        edges = self.edges.tolist()
        derivatives = _derivative(self.coefficients)
        # Coefficients below rounding would only add spurious roots.
        constant = np.abs(self.coefficients[:, 1:]).max(axis=1, initial=0.0) <= _ROUNDING * self.scale
        found: list[float] = []
        for piece in np.flatnonzero(~constant).tolist():
            left, right = edges[piece], edges[piece + 1]
            for root in sorted(_roots(derivatives[piece])):
                point = left + (root + 1) / 2 * (right - left)
                # On a piece edge both neighbors find the same root.
                if edges[0] < point < edges[-1] and not (found and point - found[-1] < 1e-7):
                    found.append(point)
        return np.array(found)

    def __call__(self, gamma: float) -> float:
        """The interpolant at a point of the interval."""
        piece, unit, _ = self._locate(gamma)
        return _clenshaw(self.coefficients[piece].tolist(), unit)

    def slope(self, gamma: float) -> float:
        """Its derivative there; 0 where the interval is one point."""
        piece, unit, scale = self._locate(gamma)
        return _clenshaw(_derivative(self.coefficients[piece]).tolist(), unit) * scale

    def _locate(self, gamma: float) -> tuple[int, float, float]:
        """The piece of a point, the point's unit variable in it, and d unit / dγ."""
        piece = min(max(int(np.searchsorted(self.edges, gamma, side="right")) - 1, 0), len(self.coefficients) - 1)
        left, right = float(self.edges[piece]), float(self.edges[piece + 1])
        if left == right:
            return piece, 0.0, 0.0
        return piece, min(max(2 * (gamma - left) / (right - left) - 1, -1.0), 1.0), 2 / (right - left)


def _derivative(series: Array) -> Array:
    """Chebyshev coefficients of the derivative, [..., n+1] → [..., max(n, 1)]."""
    return np.asarray(series @ _differentiation(series.shape[-1]))


@lru_cache(maxsize=128)
def _differentiation(size: int) -> Array:
    """The matrix [n+1, max(n, 1)] from a Chebyshev series to its derivative's: d_k = 2 Σ_{j>k, j−k odd} j c_j."""
    j, k = np.arange(size)[:, None], np.arange(max(size - 1, 1))
    matrix = np.where((j > k) & ((j - k) % 2 == 1), 2.0 * j, 0.0)
    matrix[:, 0] /= 2
    return matrix


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
        if 2 * magnitudes[0] > np.add.reduce(magnitudes) + noise:
            continue
        magnitudes = np.abs(_derivative(part))
        if 2 * magnitudes[0] > np.add.reduce(magnitudes):
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
        if at_low == at_high:  # both underflowed
            break
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
    function: Callable[[Array], Array], lower: float, upper: float, degree: int, most: int = _HIGHEST_DEGREE
) -> tuple[Interpolant, Array]:
    """The interpolant of `function` on [lower, upper], refined until its tail is below `TAIL`, and its node values.

    Args:
        function: vectorized, [Q] → [Q].
        lower, upper: the interval; a single point gives a constant.
        degree: degree to start from.
        most: degree to stop at, whatever the tail.
    """
    if lower == upper:
        value = function(np.array([lower]))
        return Interpolant(np.array([lower, upper]), value[None], float(np.abs(value).max())), value
    edges = piece_edges(lower, upper)
    while True:
        _, transform = _unit_nodes(degree)
        values = function(nodes(lower, upper, degree))
        series = values.reshape(-1, degree + 1) @ transform
        found = Interpolant(edges, series, float(np.abs(values).max()))
        if found.tail <= TAIL or degree >= most:
            return found, values
        degree += degree // 2


def highest(found: Interpolant, stationary: Array, at_edges: Array) -> tuple[float, float]:
    """Position and height of the global maximum: an edge of a piece, by its own value, or a stationary point."""
    best = int(np.argmax(at_edges))
    point, height = float(found.edges[best]), float(at_edges[best])
    for other in stationary.tolist():
        if (value := found(other)) > height:
            point, height = other, value
    return point, height


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
    # An even number of steps: every second point, as curves and draws take them, ends at the upper end too.
    steps = max(_LEAST_GRID, 2 * int(np.ceil((upper - lower) * _GRID_PER_UNIT / 2)))
    grid = np.linspace(lower, upper, steps + 1)
    piece = np.clip(np.searchsorted(edges, grid, side="right") - 1, 0, edges.size - 2)
    unit = np.clip(2 * (grid - edges[piece]) / np.diff(edges)[piece] - 1, -1, 1)
    matrix = np.zeros((edges.size - 1, degree + 1, grid.size))
    matrix[piece, :, np.arange(grid.size)] = (transform @ np.cos(np.outer(np.arange(degree + 1), np.arccos(unit)))).T
    flat = matrix.reshape(-1, grid.size)
    for array in (grid, flat):
        array.setflags(write=False)
    return grid, flat


@lru_cache(maxsize=32)
def piece_edges(lower: float, upper: float) -> Array:
    """Boundaries of equal pieces no wider than `_WIDEST_PIECE`; both ends of a single point."""
    edges = np.linspace(lower, upper, max(1, int(np.ceil((upper - lower) / _WIDEST_PIECE))) + 1)
    edges.setflags(write=False)
    return edges


@lru_cache(maxsize=32)
def nodes(lower: float, upper: float, degree: int) -> Array:
    """The interpolation nodes of all pieces, [pieces · (degree+1)]; the point itself where the interval is one."""
    edges = piece_edges(lower, upper)
    if lower == upper:
        return edges[:1]
    found: Array = (edges[:-1, None] + (_unit_nodes(degree)[0] + 1) / 2 * np.diff(edges)[:, None]).ravel()
    found.setflags(write=False)
    return found


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
