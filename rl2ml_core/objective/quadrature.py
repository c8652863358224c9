"""Expectations over pass rates that have no closed form, by a midpoint rule with crowded ends. E13.

p = sin²(θ/2), midpoints in t ∈ (0, π), θ = t − sin(2t)/2: the nodes depend on their number alone, so that all cells of
a population share them. Shapes: C cells, Q nodes, B_m(p) = C(n,m) p^m (1−p)^(n−m), m = 0..n the degree.
"""

import math
from collections.abc import Callable, Iterator
from functools import lru_cache

import numpy as np

from rl2ml_core.checks import Array
from rl2ml_core.objective.population import Population

__all__ = ["expectations", "laws", "mixture", "nodes", "quadrature_nodes"]

_VALUES_AT_ONCE = 1 << 20  # 8 MB; a Bernstein basis up to this size is kept between calls


def quadrature_nodes(narrowest: float) -> int:
    """Points that resolve a law of p as narrow as after so many rollouts (pilot, prior and training together). E13."""
    return 64 * math.ceil(max(320, 8 * math.sqrt(narrowest)) / 64)


@lru_cache(maxsize=8)
def nodes(num_nodes: int) -> tuple[Array, Array, Array]:
    """sin(θ/2), cos(θ/2) and log dθ/dt at the midpoints, each [Q]; p and 1−p are the squares of the first two."""
    t = (np.arange(num_nodes) + 0.5) * (np.pi / num_nodes)
    near = np.minimum(t, np.pi - t)  # by symmetry, so that the small one of p and 1−p keeps its digits
    half = (near - np.sin(2 * near) / 2) / 2
    lower, upper = np.sin(half), np.cos(half)
    past = t > np.pi / 2
    return np.where(past, upper, lower), np.where(past, lower, upper), 2 * np.log(np.sin(t))


def laws(population: Population, num_nodes: int) -> Iterator[tuple[slice, Array]]:
    """Probabilities of each cell's Beta law at the nodes, [cells, Q], by runs of cells; each row adds to one.

    Exact to rounding where both shapes are 2 or more and the nodes resolve the law; a shape a below it costs an error
    of the order Q^(−6a).
    """
    sine, cosine, log_jacobian = nodes(num_nodes)
    # Beta(a, b) has the density p^(a−½) q^(b−½) over θ, up to a constant that normalizing removes.
    exponents = np.stack([2 * population.shape_success - 1, 2 * population.shape_failure - 1], axis=1)
    log_density = np.stack([np.log(sine), np.log(cosine)])
    rows = max(1, _VALUES_AT_ONCE // num_nodes)
    for start in range(0, len(exponents), rows):
        where = slice(start, start + rows)
        logs = exponents[where] @ log_density + log_jacobian
        law = np.exp(logs - logs.max(axis=1, keepdims=True))
        law /= law.sum(axis=1, keepdims=True)
        yield where, law


def expectations(population: Population, function: Callable[[Array, Array], Array], degree: int) -> Array:
    """E[f(p, 1−p) B_m(p)] per cell of Beta laws, [C, degree+1]. E13."""
    num_nodes = _enough_nodes(population, degree)
    sine, cosine, _ = nodes(num_nodes)
    values = function(sine**2, cosine**2)
    found = np.empty((population.weights.size, degree + 1))
    for where, law in laws(population, num_nodes):
        law *= values
        found[where] = _times_basis(law, sine, cosine, degree)
    return found


def mixture(population: Population, tilt: tuple[int, int] = (0, 0), degree: int = 0) -> tuple[Array, Array, Array]:
    """A population as points: p, 1−p and masses with E[p^i (1−p)^j f(p)] = Σ mass · f(p), three arrays [Q].

    E is the mean over prompts. A population of points keeps its own; Beta laws share the nodes, tilted by p^i (1−p)^j
    first, which also removes what the ends of small shapes would cost.

    Args:
        population: any.
        tilt: the powers (i, j).
        degree: of the polynomial that f holds, which narrows what the nodes must resolve.
    """
    i, j = tilt
    a, b = population.shape_success, population.shape_failure
    shares = population.weights / population.weights.sum() * population.bernstein(0)(i, j)[:, 0]
    if population.prior is None:
        return a / (a + b), b / (a + b), shares
    tilted = Population.trusted(population.successes + i, population.failures + j, shares, population.prior)
    num_nodes = _enough_nodes(tilted, degree)
    sine, cosine, _ = nodes(num_nodes)
    mass = np.zeros(num_nodes)
    for where, law in laws(tilted, num_nodes):
        mass += shares[where] @ law
    return sine**2, cosine**2, mass


def _enough_nodes(population: Population, degree: int) -> int:
    return quadrature_nodes(float((population.shape_success + population.shape_failure).max()) + degree)


def _times_basis(law: Array, sine: Array, cosine: Array, degree: int) -> Array:
    """law [C, Q] times B_m at the nodes [Q, degree+1]."""
    if sine.size * (degree + 1) <= _VALUES_AT_ONCE:
        return np.asarray(law @ _basis(sine.size, degree))
    columns = max(1, _VALUES_AT_ONCE // (degree + 1))
    parts = [slice(start, start + columns) for start in range(0, sine.size, columns)]
    return np.asarray(sum(law[:, part] @ _basis_at(sine[part], cosine[part], degree) for part in parts))


@lru_cache(maxsize=8)
def _basis(num_nodes: int, degree: int) -> Array:
    sine, cosine, _ = nodes(num_nodes)
    return _basis_at(sine, cosine, degree)


def _basis_at(sine: Array, cosine: Array, degree: int) -> Array:
    """B_m at p = sine², [Q, degree+1]."""
    points = Population(sine**2, cosine**2, np.ones(sine.size), prior=None)
    return points.bernstein(degree).law
