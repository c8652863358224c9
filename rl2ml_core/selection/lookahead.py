"""The lookahead: training curves predicted from the pilot alone, and the γ that ends highest. E37.

A choice is valued by what the metric gains where the path of γ = 1 has closed 10 and 30 % of its pass@1 headroom, as a
share of what the best γ gains there; on average over ρ, by what is judged, and, where κ was not measured, over three
values of κ.

Shapes: G tables, D draws, K values of κ, R values of ρ, H horizons, J+1 points of a path.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from rl2ml_core.checks import Array
from rl2ml_core.objective.baselines import Estimator
from rl2ml_core.objective.population import Population, ScoreModel
from rl2ml_core.selection.chebyshev import grid_and_matrix, nodes, piece_edges
from rl2ml_core.selection.criteria import Tables, Weighted
from rl2ml_core.selection.metrics import Metric, PassAtK
from rl2ml_core.selection.paths import COSINES, STEPS, Point, masses, places, recorded, walk

__all__ = ["CLOSED", "DEGREE", "JUDGED_ON", "KAPPAS", "Lookahead"]

#: How much each of `COSINES` counts: prompts that are trained on gain mostly by their own gradients, held-out ones by
#: what is shared. Chosen on the settings of docs/evidence.md that are not held out, where any within .1 do alike.
JUDGED_ON = {"either": (2 / 3, 1 / 3), "training": (0.9, 0.1), "held_out": (0.1, 0.9)}

#: κ where it was not measured, log-uniform from .01 to 1 in three (docs/decisions.md).
KAPPAS = (0.02, 0.2, 1.0)
#: Shares of the pass@1 headroom that the path of γ = 1 has closed where gains are compared.
CLOSED = (0.1, 0.3)
#: Degree of the interpolant in γ on each piece.
DEGREE = 10
#: Paths go on until they reach the horizons under these κ.
_COVERED = (0.01, 0.1, 1.0)
_TINY = 1e-300
_VALUE = 3  # of a `Point`


class Lookahead:
    """The mean share of the best γ's gain, over κ, ρ and horizons, 1 where one γ is the best in all of them.

    Args:
        population, metric: on which prompts, judged by what.
        estimator: whose noise it is; its table stays as it is along a path.
        score_model: the κ that was measured; None where none was.
        gamma_min, gamma_max: the range whose best γ counts as 1.
        judged_on: a key of `JUDGED_ON`.
        steps: of the paths.
        like: the lookahead whose nodes and ways these prompts share, so that nothing is walked again.
    """

    degrees = (DEGREE, DEGREE)

    def __init__(
        self,
        population: Population,
        metric: Metric,
        estimator: Estimator,
        score_model: ScoreModel | None,
        gamma_min: float,
        gamma_max: float,
        judged_on: str = "either",
        steps: Array = STEPS,
        like: "Lookahead | None" = None,
    ) -> None:
        self._population = population
        self._metric = metric
        self._estimator = estimator
        self._kappas = KAPPAS if score_model is None else (score_model.kappa,)
        self._score_model = score_model
        self._range = gamma_min, gamma_max
        self._where = judged_on
        self._judged_on = np.array(JUDGED_ON[judged_on])
        self._steps = steps
        self._like = like
        self._last: tuple[tuple[bytes, bytes], list[Point]] | None = None
        #: Where the search looks: the interpolation nodes, then the piece edges.
        self.gammas: Array = np.concatenate([nodes(gamma_min, gamma_max, DEGREE), piece_edges(gamma_min, gamma_max)])

    def totals(self, success: Array, failure: Array) -> Array:
        """Points of the paths of G tables [G, N+1]: [terms, G]."""
        return self._terms(self._others(success, failure))

    def under(self, population: Population) -> "Lookahead":
        """The same for other prompts, on the nodes and ways of these."""
        asked = self._metric, self._estimator, self._score_model, *self._range, self._where, self._steps
        return Lookahead(population, *asked, self._like or self)

    def curve(self, gammas: Array) -> Array:
        """The criterion of the estimator at γ within the range, [G]."""
        grid, to_grid = grid_and_matrix(*self._range, DEGREE)
        values = self.combine(self._at_nodes, 1.0) @ to_grid
        return np.asarray(np.interp(gammas, grid, values))

    def shares(self, kappas: Array) -> Array:
        """Shares of the best γ's gain at the interpolation nodes under each κ [K]: [K, R, H, Q]."""
        return np.asarray(np.moveaxis(self._shares(self._at_nodes[:, None], kappas[:, None]), 2, 0))

    @cached_property
    def searched(self) -> Array:
        """Points of the paths of the estimator's tables at `gammas`: [terms, G]."""
        return self._terms(self._searched)

    @property
    def _at_nodes(self) -> Array:
        """The same at the interpolation nodes alone, [terms, Q]."""
        _, to_grid = grid_and_matrix(*self._range, DEGREE)
        return self.searched[:, : len(to_grid)]

    def weighted(self, parts: Sequence[Tables]) -> Weighted:
        """Points for any weights of the cells; ways and horizons stay those of the population."""
        success, failure = (np.concatenate(side) for side in zip(*parts, strict=True))
        per_draw = len(self._searched) * self._searched[0].means.shape[0] * len(success) * len(COSINES)
        return Weighted(self._cells, lambda mass: _terms(self._others(success, failure), mass), per_draw)

    def combine(self, terms: Array, kappa: Array | float) -> Array:
        """Under each κ of an array [..., 1]; under a number, the mean over `KAPPAS`, or under the measured κ."""
        if np.ndim(kappa):
            return self._judged(self._shares(terms, np.asarray(kappa)))
        kappas = np.array(self._kappas).reshape(-1, *(1 for _ in terms.shape[1:]))
        return np.asarray(self._judged(self._shares(terms[:, None], kappas)).mean(axis=0))

    def _judged(self, shares: Array) -> Array:
        """The mean over ρ, by what is judged, and over horizons of [R, H, ...]."""
        return np.asarray(np.tensordot(self._judged_on, shares.mean(axis=1), 1))

    def _shares(self, terms: Array, kappa: Array) -> Array:
        """Gains as shares of the best in the range: [R, H, ..., G]."""
        _, to_grid = grid_and_matrix(*self._range, DEGREE)
        horizons = self._horizons(kappa)
        at_nodes = _gains(_beside(self._at_nodes, kappa), kappa, horizons)
        best = (at_nodes @ to_grid).max(axis=-1, keepdims=True)
        return np.asarray(_gains(terms, kappa, horizons) / np.where(best > 0, best, np.inf))

    def _horizons(self, kappa: Array) -> Array:
        """RMS lengths of updates up to the horizons, as far as all paths searched go: [R, H, ..., 1]."""
        ends = _Path.of(_beside(self.searched, kappa), kappa).length[-1]
        return np.asarray(np.minimum(self._reached(kappa), ends.min(axis=-1, keepdims=True)[:, None]))

    def _reached(self, kappa: Array) -> Array:
        """The same on the path of γ = 1; its end where it closes less."""
        path = _Path.of(_beside(self._reference, kappa), kappa)
        goals = [path.value[0] + share * (1 - path.value[0]) for share in CLOSED]
        per_gain = 1 / np.maximum(path.slope, _TINY)
        return np.stack([_cubic(goal, path.value, path.length, per_gain) for goal in goals], axis=1)

    @cached_property
    def _cells(self) -> Array:
        return masses(self._population, self._places)

    @cached_property
    def _places(self) -> Array:
        return places(self._population) if self._like is None else self._like._places

    @cached_property
    def _mass(self) -> Array:
        weights = self._population.weights
        return np.asarray(weights / weights.sum() @ self._cells)

    @cached_property
    def _reference(self) -> Array:
        """The path of γ = 1 by pass@1, up to the last horizon: [terms, 1]."""
        return self._terms(self._to_reference)

    @cached_property
    def _to_reference(self) -> list[Point]:
        if self._like is not None:
            return self._like._to_reference
        points: list[Point] = []
        for point in walk(self._places, self._mass, *self._estimator.tables(np.ones(1)), PassAtK(1), self._steps):
            points.append(point)
            value, first = point.means[_VALUE], points[0].means[_VALUE]
            if (value >= first + max(CLOSED) * (1 - first)).all():
                break
        return points

    @cached_property
    def _searched(self) -> list[Point]:
        if self._like is not None:
            return self._like._searched
        return self._ways(*self._estimator.tables(self.gammas), self._reached)

    def _others(self, success: Array, failure: Array) -> list[Point]:
        """The ways of any tables, at as many points as those searched have: terms have one length."""
        if self._like is not None:
            return self._like._others(success, failure)
        tables = success.tobytes(), failure.tobytes()
        if self._last is None or self._last[0] != tables:  # the same few are asked about under every prior
            points, wanted = self._ways(success, failure, self._horizons), len(self._searched)
            if len(points) <= wanted:  # beyond its horizons a path stands still
                points += points[-1:] * (wanted - len(points))
            else:
                points = [points[i] for i in np.linspace(0, len(points) - 1, wanted).round().astype(int)]
            self._last = tables, points
        return self._last[1]

    def _ways(self, success: Array, failure: Array, horizons: Callable[[Array], Array]) -> list[Point]:
        """The ways of tables, as far as their horizons under any κ."""
        kappas = np.array(sorted({*_COVERED, *self._kappas}))
        goals = horizons(kappas[:, None]).max(axis=1).T  # [K, R]
        kappas = kappas.reshape(-1, 1, 1)
        points: list[Point] = []
        length: Array | float = 0.0
        before = passed = np.zeros(())
        for point in walk(self._places, self._mass, success, failure, self._metric, self._steps):
            points.append(point)
            _, _, s, signal, noise = recorded([point])[:, 0, :, 0]  # [R, G] each
            pace = _pace(signal, noise, kappas)
            length = length + (s - passed) * (pace + before) / 2
            before, passed = pace, s
            if np.all(length >= goals[..., None]):
                break
        return points

    def _terms(self, ways: list[Point]) -> Array:
        """Of these prompts, [terms, G]."""
        return _terms(ways, None if self._like is None else self._mass[None])[:, 0]


def _terms(ways: list[Point], mass: Array | None) -> Array:
    """Points of ways for distributions of prompts [D, Q] as terms [terms, D, G]."""
    found = recorded(ways, mass)
    return found.reshape(-1, *found.shape[3:])


def _beside(terms: Array, kappa: Array) -> Array:
    """Terms [terms, G] beside κ [..., 1]: [terms, ..., G]."""
    return terms.reshape(len(terms), *(1 for _ in kappa.shape[:-1]), -1)


def _pace(signal: Array, noise: Array, kappa: Array) -> Array:
    """dτ/ds, τ the RMS length of the updates."""
    return np.asarray(np.sqrt(np.maximum(kappa * signal + noise, _TINY)) / kappa)


@dataclass(frozen=True, eq=False)
class _Path:
    """The metric's mean over the RMS length of the updates, at points: three arrays [J+1, R, ..., G]."""

    length: Array
    value: Array
    slope: Array  # of the value per length

    @classmethod
    def of(cls, terms: Array, kappa: Array) -> "_Path":
        gain, value, s, signal, noise = terms.reshape(5, -1, len(COSINES), *terms.shape[1:])
        pace = _pace(signal, noise, kappa)
        length = np.zeros_like(pace)
        np.cumsum(np.diff(s, axis=0) * (pace[1:] + pace[:-1]) / 2, axis=0, out=length[1:])
        return cls(length, np.broadcast_to(value, pace.shape), gain / pace)


def _gains(terms: Array, kappa: Array, horizons: Array) -> Array:
    """What the metric gains up to horizons [R, H, ..., 1]: [R, H, ..., G]."""
    path = _Path.of(terms, kappa)
    values = [_cubic(horizon, path.length, path.value, path.slope) for horizon in np.moveaxis(horizons, 1, 0)]
    return np.asarray(np.stack(values, axis=1) - path.value[0][:, None])


def _cubic(at: Array, x: Array, y: Array, slope: Array) -> Array:
    """y at x = `at` by cubic Hermite interpolation between points [J+1, ...] of increasing x; the ends' beyond them."""
    first = np.minimum(np.maximum((x <= at).sum(axis=0) - 1, 0), max(len(x) - 2, 0))
    last = np.minimum(first + 1, len(x) - 1)
    (x0, y0, d0), (x1, y1, d1) = (
        [np.take_along_axis(series, place[None], axis=0)[0] for series in (x, y, slope)] for place in (first, last)
    )
    width = x1 - x0
    t = np.minimum(np.maximum((at - x0) / np.where(width > 0, width, np.inf), 0), 1)
    u = 1 - t
    return np.asarray(u**2 * ((1 + 2 * t) * y0 + t * width * d0) + t**2 * ((1 + 2 * u) * y1 - u * width * d1))
