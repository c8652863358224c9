"""The way that logits of success take under a table's mean gradient, and its pace. E37.

Logits move by dl_x ∝ ρ⟨g⟩ + (1−ρ) g_x/P with g = w(p) p(1−p), ⟨·⟩ the mean over prompts, P the prompts of the training
set and ρ the mean cosine of two prompts' gradients. Neither κ nor noise turns this way; they set its pace, the RMS
length of the updates that a stretch of it takes. So one walk serves every κ.

Shapes: C cells, D distributions of prompts, Q nodes, G tables, N rollouts, R values of ρ, L points of a grid of logits.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy.special import gammaln

from rl2ml_core.checks import Array
from rl2ml_core.objective.population import Population
from rl2ml_core.objective.quadrature import laws, nodes, quadrature_nodes
from rl2ml_core.selection.batches import batch_signal
from rl2ml_core.selection.metrics import Metric

__all__ = ["COSINES", "PROMPTS", "PROMPTS_PER_STEP", "STEPS", "Point", "masses", "places", "recorded", "walk"]

#: Prompts of the training set, P, and of a step, where they are not known.
PROMPTS, PROMPTS_PER_STEP = 256, 32
#: Mean cosines ρ of the gradients of two prompts.
COSINES = (0.0, 0.1)
#: How far each step moves logits, as a root mean square: 12 % further than the last, up to .4; 18 in all.
STEPS: Array = np.minimum(0.02 * 1.12 ** np.arange(64), 0.4)
STEPS.setflags(write=False)

#: Nodes that stand for all prompts: as many, or so many for each logit between the outermost, which are far apart where
#: most prompts never succeed. The γ chosen loses .5 % at most of what it is with 1,000 (nine real pilots, N = 4, 16).
FEWEST_NODES, NODES_PER_LOGIT = 48, 3
_BOTTOM, _TOP = -24.0, 16.0
_STRETCH = 8.0
_TAIL, _MARGIN = 1e-4, 0.01
# Quintic pieces of 1/8 of a logit are exact to some 1e-7 for what varies over a logit, as all that is met here does.
_LOWEST, _SPACING, _NUM_PIECES = -25.0, 0.125, 336
_AROUND = np.arange(-2, 4)
_TO_POWERS = np.linalg.inv(_AROUND[:, None] ** np.arange(6.0)).T  # values at −2..3 → coefficients of their polynomial
_TINY = 1e-300


def places(population: Population, num_nodes: int | None = None) -> Array:
    """Logits of the nodes that stand for a population, [Q]: spread half by prompts, half by logits."""
    logits, cells = _cloud(population)
    order = np.argsort(logits)
    # Points are cells of their own.
    mass = population.weights if cells is None else np.maximum(population.weights @ cells, 0)
    logits, mass = np.clip(logits[order], _BOTTOM, _TOP), mass[order]
    share = (np.cumsum(mass) - mass / 2) / mass.sum()
    low, high = np.interp([_TAIL, 1 - _TAIL], share, logits) + np.array([-_MARGIN, _MARGIN])
    if num_nodes is None:
        num_nodes = max(FEWEST_NODES, math.ceil(NODES_PER_LOGIT * (high - low)))
    within = (logits > low) & (logits < high)
    x = np.concatenate([[low], logits[within], [high]])
    stretched = np.arcsinh(x / _STRETCH)  # even steps in the middle, wider ones far out
    by_logits = (stretched - stretched[0]) / (stretched[-1] - stretched[0])
    by_prompts = np.concatenate([[0.0], share[within], [1.0]])
    return np.asarray(np.interp(np.linspace(0, 1, num_nodes), (by_logits + by_prompts) / 2, x))


def _cloud(population: Population) -> tuple[Array, Array | None]:
    """Logits [L] and each cell's mass there, [C, L]: nodes of a quadrature; or the points, one a cell (None).

    The masses keep every cell's total and mean: what the quadrature, which is exact for p(1−p) times smooth functions,
    leaves to the ends of (0, 1) is put on the outermost nodes.
    """
    a, b = population.shape_success, population.shape_failure
    if population.prior is None:
        with np.errstate(divide="ignore"):
            return np.log(a) - np.log(b), None
    total = a + b
    tilted = Population.trusted(population.successes + 1, population.failures + 1, population.weights, population.prior)
    num_nodes = quadrature_nodes(float(total.max()) + 2)
    sine, cosine, _ = nodes(num_nodes)
    p, q = sine**2, cosine**2
    found = np.empty((a.size, num_nodes))
    for where, law in laws(tilted, num_nodes):
        law *= (a * b / (total * (total + 1)))[where, None] / (p * q)
        at_one = (a / total)[where] - law @ p
        found[where] = law
        found[where, -1] += at_one
        found[where, 0] += 1 - law.sum(axis=1) - at_one
    return 2 * (np.log(sine) - np.log(cosine)), found


def masses(population: Population, places: Array) -> Array:
    """Each cell's mass at the nodes, [C, Q]: shared between neighbors so that pass rates keep their means."""
    logits, cells = _cloud(population)
    logits = np.clip(logits, places[0], places[-1])
    first = np.clip(np.searchsorted(places, logits, side="right") - 1, 0, places.size - 2)
    p, at = 1 / (1 + np.exp(-places)), 1 / (1 + np.exp(-logits))
    upper = (at - p[first]) / (p[first + 1] - p[first])
    rows = np.arange(logits.size)
    shares = np.zeros((logits.size, places.size))
    shares[rows, first], shares[rows, first + 1] = 1 - upper, upper
    return shares if cells is None else np.asarray(cells @ shares)


@lru_cache(maxsize=1)
def _grid() -> Population:
    """Points at even logits, [L]: the ends of the pieces, and two more on either side."""
    logits = _LOWEST + _SPACING * np.arange(_AROUND[0], _NUM_PIECES + _AROUND[-1])
    return Population.trusted(1 / (1 + np.exp(-logits)), 1 / (1 + np.exp(logits)), np.ones(logits.size), None)


def _expected(columns: Array) -> Array:
    """E[x_m] at the grid's points, m ~ Binomial(N−1, p), of columns x_m: [N, F] → [L, F]."""
    return np.stack([law @ columns[where] for where, law in _laws(len(columns) - 1)])


@lru_cache(maxsize=8)
def _laws(degree: int) -> list[tuple[slice, Array]]:
    """The binomial law at every point where it is not negligible: within 12 standard deviations and 40 counts."""
    found = []
    for p, q in zip(_grid().successes.tolist(), _grid().failures.tolist(), strict=True):
        reach = 12 * math.sqrt(degree * p * q) + 40
        first, last = max(math.floor(degree * p - reach), 0), min(math.ceil(degree * p + reach), degree)
        m = np.arange(first, last + 1.0)
        logs = m * math.log(p) + (degree - m) * math.log(q) - gammaln(m + 1) - gammaln(degree - m + 1)
        law = np.exp(logs - logs.max())
        found.append((slice(first, last + 1), law / law.sum()))
    return found


@dataclass(frozen=True, eq=False)
class Point:
    """Where W = R · G ways have come to.

    Known at each node and its mean are, in order: g, noise and coupling of its energy (E12); the metric's v and dv/dl;
    g², g dv/dl, |g| and g|g|.
    """

    known: Array  # [9, W, Q]
    means: Array  # over the prompts that the ways were walked for, [9, W]
    passed: Array  # s, [W]


def recorded(points: Sequence[Point], mass: Array | None = None) -> Array:
    """What there is to know of ways at J+1 points, for D distributions of prompts [D, Q]: [5, J+1, R, D, G].

    The five are the metric's mean V and its slope dV/ds along the way; s itself; and a and b of the pace: from s to
    s + ds goes an RMS length of the updates of ds √(κa + b)/κ.

    For prompts other than those they were walked for, the ways of the logits are held, and s alone is theirs: it goes
    forward as |g| weighs it. That is exact for ρ = 0; for others logits move together but for a small part each. None
    for the prompts that they were walked for.
    """
    passed = np.stack([point.passed for point in points])[..., None]
    walked = np.stack([point.means for point in points])[..., None]
    means = walked if mass is None else np.stack([point.known @ mass.T for point in points])
    kinds, tables = len(COSINES), passed.shape[1] // len(COSINES)
    together = np.repeat(COSINES, tables)[:, None]
    apart = (1 - together) / PROMPTS
    g, noise, coupling, value, slope, square, crossed, size, signed = np.moveaxis(means, 1, 0)
    if mass is not None:
        ahead, theirs = (together * of * size + apart * signed for of in (walked[:, 0], g))
        per_s = np.divide(ahead, theirs, out=np.ones_like(theirs), where=theirs != 0)
        forward = np.diff(passed, axis=0) * (per_s[1:] + per_s[:-1]) / 2
        passed = np.concatenate([np.zeros_like(per_s[:1]), np.cumsum(forward, axis=0)])
    signal = batch_signal(g, square, coupling, together, PROMPTS, PROMPTS_PER_STEP)  # noise/G is the rest of E‖u‖²
    gain = together * g * slope + apart * crossed
    found = np.stack([gain, value, passed, signal, noise / PROMPTS_PER_STEP])
    return np.asarray(np.swapaxes(found.reshape(*found.shape[:2], kinds, tables, -1), 3, 4))


@dataclass(frozen=True, eq=False)
class _Terrain:
    """What a walk needs to know at a logit, as quintic pieces; beyond the grid as at its ends.

    In order: of each table g = w p(1−p), noise and coupling of its energy (E12); then the metric's v and dv/dl.
    """

    pieces: Array  # [(3G + 2) · pieces, 6]

    @classmethod
    def of(cls, success: Array, failure: Array, metric: Metric, places: Array, mass: Array) -> "_Terrain":
        """Of G tables [G, N+1], each divided by its RMS g over `mass`: a table's scale changes neither way nor pace."""
        s, t = success.T[1:], failure.T[:-1]
        n, tables = s.shape
        coupled = np.zeros_like(s)
        coupled[1:] = (s[1:] ** 2 - 2 * s[:-1] * t[1:] + t[:-1] ** 2) * (np.arange(1, n) / n)[:, None]
        columns = np.concatenate([s - t, s**2 / n, t**2 / n, coupled], axis=1)
        p, q = _grid().successes[:, None], _grid().failures[:, None]
        sums = _expected(columns)
        weight, of_success, of_failure, coupling = (sums[:, i * tables : (i + 1) * tables] for i in range(4))
        parts = [p * q * weight, p * of_success + q * of_failure, p * q**2 * coupling]
        of_tables = _pieces(np.concatenate(parts, axis=1)).reshape(3, tables, _NUM_PIECES, _AROUND.size)
        piece, x = _place(places)
        size = np.sqrt(np.maximum(_horner(of_tables[0][:, piece], x) ** 2 @ mass, _TINY))
        of_tables /= np.stack([size, size**2, size**2])[:, :, None, None]
        value = _pieces(metric.value(_grid().successes)[:, None])
        slope = np.zeros_like(value)
        slope[..., :-1] = value[..., 1:] * np.arange(1, _AROUND.size) / _SPACING
        flat = [part.reshape(-1, _AROUND.size) for part in (of_tables, value, slope)]
        return cls(np.concatenate(flat))

    def at(self, pieces: npt.NDArray[np.intp], x: Array) -> Array:
        """Values at places within pieces, both of one shape."""
        return _horner(self.pieces.take(pieces, axis=0), x)


def _pieces(values: Array) -> Array:
    """Polynomials through values on the grid, [L, F] → [F, pieces, 6]."""
    windows = np.lib.stride_tricks.sliding_window_view(values, _AROUND.size, axis=0)
    return np.ascontiguousarray(np.moveaxis(windows @ _TO_POWERS, 1, 0))


def _place(logits: Array) -> tuple[npt.NDArray[np.intp], Array]:
    """The piece of each logit and where in it."""
    position = np.minimum(np.maximum((logits - _LOWEST) / _SPACING, 0), _NUM_PIECES)
    piece = np.minimum(position.astype(np.intp), _NUM_PIECES - 1)
    return piece, position - piece


def _horner(coefficients: Array, x: Array) -> Array:
    value = coefficients[..., -1] * x
    for power in range(_AROUND.size - 2, 0, -1):
        value += coefficients[..., power]
        value *= x
    value += coefficients[..., 0]
    return np.asarray(value)


def walk(
    places: Array, mass: Array, success: Array, failure: Array, metric: Metric, steps: Array = STEPS
) -> Iterator[Point]:
    """The ways of G tables, point by point: before each step and after the last.

    Steps follow the midpoint rule and move logits by `steps`, as a root mean square over prompts weighed by |g|.

    Args:
        mass: of the nodes, [Q].
        success, failure: tables, [G, N+1].
        metric: what is recorded.
        steps: how far each step goes.
    """
    terrain = _Terrain.of(success, failure, metric, places, mass)
    tables, kinds = len(success), len(COSINES)
    ways = kinds * tables
    # Rows of the terrain: g, noise and coupling of each way's table, then v and dv/dl for all.
    rows = np.empty((5, ways, 1), np.intp)
    rows[:3, :, 0] = np.arange(3)[:, None] * tables + np.tile(np.arange(tables), kinds)
    rows[3:, :, 0] = 3 * tables + np.arange(2)[:, None]
    rows *= _NUM_PIECES
    together = np.repeat(COSINES, tables)
    apart = (1 - together) / PROMPTS
    logits = np.broadcast_to(places, (ways, places.size))
    passed = np.zeros(ways)
    for length in [*steps.tolist(), 0.0]:
        piece, x = _place(logits)
        known = np.empty((9, ways, places.size))
        known[:5] = terrain.at(piece + rows, x)
        g, slope, size = known[0], known[4], np.abs(known[0])
        known[5:] = g**2, g * slope, size, g * size
        means = known @ mass
        yield Point(known, means, passed)
        if length:
            way = (together * means[0])[:, None] + apart[:, None] * g
            speed = np.sqrt(np.maximum((size * way**2) @ mass, 0) / np.maximum(means[7], _TINY))
            ds = length / np.where(speed > 0, speed, np.inf)
            piece, x = _place(logits + (ds / 2)[:, None] * way)
            g = terrain.at(piece + rows[0], x)
            way = (together * (g @ mass))[:, None] + apart[:, None] * g
            logits = logits + ds[:, None] * way
            passed = passed + ds
