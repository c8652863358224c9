"""From counts to a distribution of pass rates: never raw k/n, unless asked by name.

Given a prior Beta(a, b), a prompt's k successes in n rollouts are beta-binomial. `fit_prior` finds the prior under
which a pilot's counts are most probable, held by a weak hyperprior so that every pilot has one: `docs/equations.md`,
E21. Shapes: C cells; θ = (logit of the mean a/(a+b), log of the concentration a+b), [2].
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from rl2ml_core.checks import Array
from rl2ml_core.objective.population import BetaPrior

__all__ = [
    "LARGEST_SHAPE",
    "LEAST_SHAPE",
    "BetaPrior",
    "FittedPrior",
    "coordinates_of",
    "fit_prior",
    "hyperprior",
    "log_law",
    "log_likelihood",
    "prior_at",
    "scores_at",
]

#: The hyperprior of θ: normal, its center the uniform prior Beta(1, 1).
HYPERPRIOR_CENTER: Final = (0.0, math.log(2))
#: Two standard deviations are mean pass rates from .0025 to .9975 and concentrations from .1 to 40; of nine real pilots
#: one lies outside, a selection of the hardest prompts. Weak: on those pilots it pulls at the mean like a quarter of a
#: prompt and at the concentration like one or two.
HYPERPRIOR_SPREAD: Final = (3.0, 1.5)

#: Shapes that a fit may return: below, a Beta law is two points to every digit; above, one point.
LEAST_SHAPE, LARGEST_SHAPE = 1e-9, 1e9

# Counts up to it are summed term by term: a few microseconds, no cancellation. Beyond, Stirling's series with the terms
# written below is exact to 1e-15 of the result.
_HEAD = 256
_STEPS = 100  # pilots take 4 to 10; a trillion equal prompts take 30
_HALVINGS = 30  # of a step of three: the last is 3e-9 long, less than a trillion prompts can tell
_LONGEST_STEP = 3.0  # in either coordinate: a factor of 20 in odds or concentration, where Newton's model is no guide
_ROUNDING = 1e-15  # of a sum, relative to the sizes of its parts
_CONVERGED = 1e-10  # twice the last gain: 1e-5 standard deviations away, and Newton's last step squares that
_NARROW = math.log(1000)  # the concentration of a law far narrower than the hyperprior's
_PRECISION = (HYPERPRIOR_SPREAD[0] ** -2, HYPERPRIOR_SPREAD[1] ** -2)


@dataclass(frozen=True, eq=False)
class FittedPrior:
    """The prior that fits a pilot best, and how well the pilot tells it.

    Near the fit the penalized log-likelihood is that of θ̂ less half of (θ−θ̂)ᵀ `curvature` (θ−θ̂): inverted, the
    curvature is θ's covariance given the pilot. Other weights w_c of the cells move θ̂ by curvature⁻¹ Σ (change in
    w_c) `scores`[c], to first order.
    """

    prior: BetaPrior  # at θ̂, its shapes clipped as `prior_at` says
    coordinates: Array  # θ̂ = (logit mean, log concentration), [2]
    curvature: Array  # −∇² of the penalized log-likelihood at θ̂, positive definite, [2, 2]
    penalty: Array  # the hyperprior's share of it, diagonal, [2, 2]
    scores: Array  # ∇ log-likelihood of one prompt of each cell at θ̂, [C, 2]
    log_likelihood: float  # of all prompts at θ̂, without the penalty

    @cached_property
    def covariance(self) -> Array:
        """Of θ given the pilot, [2, 2]: the inverse of the curvature."""
        return np.asarray(np.linalg.inv(self.curvature))


class Counts(Protocol):
    """Cells of a pilot: `num_prompts` prompts had `num_successes` of `num_rollouts`; arrays [C]."""

    @property
    def num_rollouts(self) -> npt.NDArray[np.int64]: ...

    @property
    def num_successes(self) -> npt.NDArray[np.int64]: ...

    @property
    def num_prompts(self) -> Array: ...


def fit_prior(pilot: Counts) -> FittedPrior:
    """The maximum over θ of Σ_c w_c log P(k_c | n_c, θ) + log hyperprior(θ): penalized empirical Bayes. E21.

    Newton's method; where the curvature is not positive definite its eigenvalues' absolute values take their place, so
    that every step is uphill, and it is halved until the objective does not fall. Every pilot has a fit: what it does
    not tell (the concentration, with one rollout per prompt) stays at the hyperprior's center. Weights are numbers of
    prompts.
    """
    k, n, weights = pilot.num_successes, pilot.num_rollouts, pilot.num_prompts
    cells = _Cells.of(k, n - k, weights)
    at = _climb(cells, float(weights @ (k / n)), float(weights @ ((n - k) / n)), HYPERPRIOR_CENTER[1])
    if n[0] != n[-1]:
        # Prompts of few and of many rollouts may each ask for a law of their own; the second summit, where there is
        # one, is the narrower law that fits the many.
        other = _climb(cells, float(weights @ k), float(weights @ (n - k)), _NARROW)
        at = max(at, other, key=lambda point: point.value)
    coordinates = np.array([at.logit, at.log_concentration])
    return FittedPrior(
        prior=prior_at(coordinates),
        coordinates=coordinates,
        curvature=at.curvature(),
        penalty=np.diag(_PRECISION),
        scores=at.scores(),
        log_likelihood=at.log_likelihood,
    )


def _climb(cells: "_Cells", successes: float, failures: float, log_concentration: float) -> "_Point":
    """The summit of the penalized log-likelihood uphill from a start, whose odds are those of the two masses."""
    at, gain = _Point.of(cells, math.log((successes + 1) / (failures + 1)), log_concentration), math.inf
    for _ in range(_STEPS):
        before = gain
        step, gain = at.newton_step()
        start, at = at, _Point.of(cells, at.logit + step[0], at.log_concentration + step[1])
        if gain > start.rounding:
            for _ in range(_HALVINGS):
                if at.value >= start.value - start.rounding:
                    break
                step = step[0] / 2, step[1] / 2
                at = _Point.of(cells, start.logit + step[0], start.log_concentration + step[1])
            else:
                return start
        elif gain > before / 10:  # Newton's steps shrink faster, so these are rounding's
            break
        if gain <= _CONVERGED:
            break
    return at


def prior_at(coordinates: npt.ArrayLike) -> BetaPrior:
    """The prior at θ = (logit mean, log concentration), its shapes clipped to [1e-9, 1e9]."""
    logit, log_concentration = np.asarray(coordinates, float).tolist()
    mean, rest = _expit(logit), _expit(-logit)
    concentration = math.exp(min(log_concentration, math.log(LARGEST_SHAPE)))
    return BetaPrior(max(concentration * mean, LEAST_SHAPE), max(concentration * rest, LEAST_SHAPE))


def coordinates_of(prior: BetaPrior) -> Array:
    """θ of a prior, [2]: the inverse of `prior_at`."""
    return np.array([math.log(prior.alpha) - math.log(prior.beta), math.log(prior.alpha + prior.beta)])


def hyperprior(coordinates: Array) -> tuple[Array, Array]:
    """∇ and −∇² of the log-hyperprior at θ [..., 2]: what it pulls by, [..., 2], and its penalty, [2, 2]."""
    penalty = np.diag(_PRECISION)
    return (np.array(HYPERPRIOR_CENTER) - coordinates) @ penalty, penalty


def scores_at(coordinates: Array, successes: npt.NDArray[np.int64], failures: npt.NDArray[np.int64]) -> Array:
    """∇ log P(k | n, θ) at any θ for k successes and n−k failures [C]: [C, 2]."""
    logit, log_concentration = coordinates.tolist()
    return _Point.of(_Cells.of(successes, failures, np.ones(successes.shape)), logit, log_concentration).scores()


def log_likelihood(pilot: Counts, prior: BetaPrior) -> float:
    """Σ_c w_c log P(k_c | n_c) under a prior: the log-probability of a pilot's counts, prompts by weight."""
    laws = log_law(pilot.num_successes, pilot.num_rollouts - pilot.num_successes, prior)
    return float(laws @ pilot.num_prompts)


def log_law(successes: npt.NDArray[np.int64], failures: npt.NDArray[np.int64], prior: BetaPrior) -> Array:
    """log P(k | n) of the beta-binomial law, for k successes [C] and n−k failures [C] → [C].

    (a)_k/k! · (b)_{n−k}/(n−k)! / ((a+b)_n/n!), with an absolute error below 1e-12 for shapes up to 100 and n ≤ 10^7,
    and 1e-15 n or so for larger ones.
    """
    shapes = np.array([prior.alpha, prior.beta, prior.alpha + prior.beta])
    logs = _Cells.of(successes, failures, np.ones(successes.shape)).sums(shapes, rows=1)[0]
    law: Array = logs[0] + logs[1] - logs[2]
    return law


@dataclass(frozen=True, eq=False)
class _Cells:
    """k, n−k and n of each cell, split into what is summed term by term and what Stirling's series takes over."""

    head: npt.NDArray[np.int64]  # the counts, at most H, as indices into flattened [3, H+1]; [3, C]
    counts: Array | None  # [3, C]; None where all are at most H
    steps: Array  # 0 … H−1, [H]
    weights: Array  # prompts, [C]

    @classmethod
    def of(cls, successes: npt.NDArray[np.int64], failures: npt.NDArray[np.int64], weights: Array) -> "_Cells":
        counts = np.stack([successes, failures, successes + failures])
        most = int(counts[2].max())
        length = min(most, _HEAD)
        head = counts if most == length else np.minimum(counts, length)
        return cls(
            head=head + np.array([[0], [1], [2]]) * (length + 1),
            counts=None if most == length else counts.astype(np.float64),
            steps=np.arange(float(length)),
            weights=weights,
        )

    def sums(self, shapes: Array, rows: int = 5) -> Array:
        """Sums over i < count of five functions of i and a shape x; the first `rows` of them, [rows, 3, C].

        log((x+i)/(1+i)), s, r, s² and s r with s = x/(x+i), r = i/(x+i): the log-likelihood and its first and second
        derivatives with respect to log x are made of them. s + r = 1, but where x is large or small one of them would
        be lost in the difference.
        """
        x, i = shapes[:, None], self.steps
        table = np.zeros((rows, 3, i.size + 1))
        terms = table[:, :, 1:]
        np.log1p((x - 1) / (1 + i), out=terms[0])
        np.log(shapes, out=terms[0, :, 0])  # x − 1 would round a small x away
        if rows > 1:
            inverse = 1 / (x + i)
            np.multiply(x, inverse, out=terms[1])
            np.multiply(i, inverse, out=terms[2])
            np.multiply(terms[1], terms[1:3], out=terms[3:5])
        np.cumsum(terms, axis=2, out=terms)
        sums: Array = table.reshape(rows, -1)[:, self.head]
        if self.counts is not None:
            sums += _beyond(x, self.counts, float(i.size), rows)
        return sums


def _beyond(x: Array, counts: Array, head: float, rows: int) -> Array:
    """The sums of `_Cells.sums` over `head` ≤ i < count, 0 where there is no such i."""
    count = np.maximum(counts, head)
    rest = count - head
    low, high = x + head, x + count
    # log (x)_j/j! by Stirling's series of four log-gammas, in which the large parts cancel on paper.
    logs = (
        (x - 1) * np.log1p(rest / low)
        + (count + 0.5) * np.log1p((x - 1) / (count + 1))
        - (head + 0.5) * np.log1p((x - 1) / (head + 1))
        + (_stirling_tail(high) - _stirling_tail(low))
        - (_stirling_tail(count + 1) - _stirling_tail(head + 1))
    )
    if rows == 1:
        one: Array = logs[None]
        return one
    # Differences of the series of ψ and ψ' at x + head and x + count; u − v = rest · u v.
    u, v = 1 / low, 1 / high
    gap, both, squares = rest * u * v, u + v, u * u + v * v
    first = x * (np.log1p(rest * u) + gap * (0.5 + both * (1 / 12 - squares / 120)))
    cubes = squares + u * v
    fifths = squares * (squares + u * v) - (u * v) ** 2
    second = x * x * gap * (1 + 0.5 * both + cubes / 6 - fifths / 30)
    sums: Array = np.stack([logs, first, rest - first, second, first - second])
    return sums


def _stirling_tail(z: Array | float) -> Array | float:
    return (1 / 12 - 1 / (360 * z * z)) / z


@dataclass(frozen=True, eq=False)
class _Point:
    """The penalized log-likelihood and its derivatives at one θ."""

    logit: float
    log_concentration: float
    mean: float
    rest: float  # 1 − mean
    sums: Array  # [5, 3, C]
    log_likelihood: float
    value: float  # with the penalty
    rounding: float  # of the value
    gradient: tuple[float, float]  # of the value
    hessian: tuple[float, float, float]  # of the value: twice by the first coordinate, by both, twice by the second

    @classmethod
    def of(cls, cells: _Cells, logit: float, log_concentration: float) -> "_Point":
        mean, rest, concentration = _expit(logit), _expit(-logit), math.exp(log_concentration)
        sums = cells.sums(np.array([concentration * mean, concentration * rest, concentration]))
        logs, s, r, ss, sr = (sums @ cells.weights).tolist()
        by_mean = rest * s[0] - mean * s[1]
        # One and the same; the smaller terms lose less.
        by_concentration = s[0] + s[1] - s[2] if s[2] < r[2] else r[2] - r[0] - r[1]
        likelihood = logs[0] + logs[1] - logs[2]
        away = logit - HYPERPRIOR_CENTER[0], log_concentration - HYPERPRIOR_CENTER[1]
        pull = away[0] * _PRECISION[0], away[1] * _PRECISION[1]
        return cls(
            logit=logit,
            log_concentration=log_concentration,
            mean=mean,
            rest=rest,
            sums=sums,
            log_likelihood=likelihood,
            value=likelihood - (away[0] * pull[0] + away[1] * pull[1]) / 2,
            rounding=_ROUNDING * (abs(logs[0]) + abs(logs[1]) + abs(logs[2])),
            gradient=(by_mean - pull[0], by_concentration - pull[1]),
            hessian=(
                (rest - mean) * by_mean - rest * rest * ss[0] - mean * mean * ss[1] - _PRECISION[0],
                by_mean - (rest * ss[0] - mean * ss[1]),
                sr[0] + sr[1] - sr[2] - _PRECISION[1],
            ),
        )

    def scores(self) -> Array:
        """∇ log P(k | n, θ) of each cell, [C, 2]."""
        (sa, sb, sc), (ra, rb, rc) = self.sums[1:3]
        return np.stack([self.rest * sa - self.mean * sb, np.where(sc < rc, sa + sb - sc, rc - ra - rb)], axis=1)

    def curvature(self) -> Array:
        """−∇², made positive definite where it is not by its eigenvalues' absolute values, [2, 2]."""
        p, q, r = self.hessian
        curvature = np.array([[-p, -q], [-q, -r]])
        if p < 0 and p * r > q * q:
            return curvature
        values, axes = np.linalg.eigh(curvature)
        bent: Array = axes * np.maximum(np.abs(values), min(_PRECISION)) @ axes.T
        return bent

    def newton_step(self) -> tuple[tuple[float, float], float]:
        """curvature⁻¹ gradient, no longer than `_LONGEST_STEP`, and twice the gain that it promises."""
        (p, q), (_, r) = self.curvature().tolist()
        u, v = self.gradient
        determinant = p * r - q * q
        first, second = (r * u - q * v) / determinant, (p * v - q * u) / determinant
        share = min(1, _LONGEST_STEP / max(abs(first), abs(second), 1e-300))
        return (first * share, second * share), (u * first + v * second) * share


def _expit(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x > 0 else math.exp(x) / (1 + math.exp(x))
