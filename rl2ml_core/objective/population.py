"""Who is trained and how their scores behave: the distribution of pass rates and the model of score noise.

Both are frozen values. Shapes: C cells (groups of prompts with equal counts), n the degree of a Bernstein basis
B_m(p) = C(n,m) p^m (1−p)^(n−m), m = 0..n.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Protocol, Self

import numpy as np
import numpy.typing as npt
from scipy.special import betaln

from rl2ml_core.checks import Array, finite_array, finite_number
from rl2ml_core.errors import InvalidInput

__all__ = [
    "DEFAULT_KAPPA",
    "BetaPrior",
    "HasPopulation",
    "MeasuredScores",
    "Population",
    "ScoreGeometry",
    "ScoreModel",
    "as_population",
]

#: Low on purpose: language models' scores are mostly noise about the logit of success (docs/decisions.md).
DEFAULT_KAPPA = 0.1

#: Below it the signal drowns in rounding.
LEAST_KAPPA = 1e-9

_VALUES_PER_BLOCK = 1 << 18
_KEPT_VALUES = 1 << 15  # a quarter of a megabyte per array
_PLAIN_SUMS = 64  # steps that a plain sum takes without loss
_SMALLEST = 5e-324  # stands in for a probability of exactly zero, so that logarithms stay finite


@dataclass(frozen=True)
class BetaPrior:
    """Beta(alpha, beta) prior on a prompt's pass rate: `alpha` pseudo-successes, `beta` pseudo-failures, both > 0."""

    alpha: float = 1.0
    beta: float = 1.0

    def __post_init__(self) -> None:
        for name in ("alpha", "beta"):
            value = finite_number(getattr(self, name), f"prior.{name}", above=0, maximum=1e9)
            object.__setattr__(self, name, value)


@dataclass(frozen=True, eq=False)
class Population:
    """A distribution of pass rates over prompts: one component per cell, with non-negative weights.

    With a prior, a cell of k successes and n−k failures is the posterior Beta(k + alpha, n−k + beta). Without one it is
    the point k/n (and `successes`, `failures` may be any non-negative masses).

    Args:
        successes: k, [C].
        failures: n−k, [C].
        weights: prompts that each cell stands for, [C]; not all zero.
        prior: the Beta prior, or None for point masses.

    Raises:
        InvalidInput: shapes that differ, negative or non-finite values, no weight, or a point mass without any count.
    """

    successes: Array
    failures: Array
    weights: Array
    prior: BetaPrior | None = field(default_factory=BetaPrior)

    def __post_init__(self) -> None:
        for name in ("successes", "failures", "weights"):
            array = finite_array(getattr(self, name), f"population.{name}", minimum=0).copy()
            array.setflags(write=False)
            object.__setattr__(self, name, array)
        shapes = {self.successes.shape, self.failures.shape, self.weights.shape}
        if len(shapes) != 1 or self.successes.ndim != 1:
            raise InvalidInput(f"a population needs three one-dimensional arrays of one length; got shapes {shapes}")
        if not self.weights.sum() > 0:
            raise InvalidInput("a population needs at least one prompt with positive weight; got none")
        if self.prior is None and not np.all(self.successes + self.failures > 0):
            raise InvalidInput("a point mass needs a pass rate: successes + failures must be positive without a prior")

    @classmethod
    def trusted(cls, successes: Array, failures: Array, weights: Array, prior: BetaPrior | None) -> Self:
        """From parts known to be valid (such as a histogram's): no second check."""
        for array in (successes, failures, weights):
            array.setflags(write=False)
        population = object.__new__(cls)
        vars(population).update(successes=successes, failures=failures, weights=weights, prior=prior)
        return population

    @classmethod
    def from_pass_rates(cls, pass_rates: npt.ArrayLike, weights: npt.ArrayLike | None = None) -> Self:
        """Point masses at known pass rates [C], each of weight 1 unless `weights` [C] says otherwise."""
        p = np.atleast_1d(finite_array(pass_rates, "pass_rates", minimum=0, maximum=1))
        return cls(p, 1 - p, np.ones(p.shape) if weights is None else np.asarray(weights, float), prior=None)

    @property
    def shape_success(self) -> Array:
        """First shape parameter of each component (its mass, for points), [C]."""
        return self.successes + (self.prior.alpha if self.prior else 0)

    @property
    def shape_failure(self) -> Array:
        """Second shape parameter of each component (its mass, for points), [C]."""
        return self.failures + (self.prior.beta if self.prior else 0)

    @property
    def pass_rates(self) -> Array:
        """Mean pass rate of each cell, (k+alpha)/(n+alpha+beta), [C]."""
        return self.shape_success / (self.shape_success + self.shape_failure)

    def at_means(self) -> "Population":
        """The same cells as point masses at their means: the paper's plug-in p̂ (App. B.3)."""
        return self.trusted(self.shape_success, self.shape_failure, self.weights, None)

    def blocks(self, width: int) -> "Iterator[tuple[slice, Population]]":
        """Runs of cells small enough that arrays [cells, width] stay within a few megabytes."""
        rows = max(1, _VALUES_PER_BLOCK // width)
        if self.weights.size <= rows:
            yield slice(0, self.weights.size), self
            return
        for start in range(0, self.weights.size, rows):
            block = slice(start, start + rows)
            yield block, self.trusted(self.successes[block], self.failures[block], self.weights[block], self.prior)

    def log_bernstein(self, degree: int) -> Array:
        """log E[B_m(p)] for m = 0..degree per cell, [C, degree+1]: a (beta-)binomial law, kept in logs.

        Built from the ratios of neighboring terms and normalized (the terms of a law add to one), so that neither
        factorials nor underflow limit its accuracy.
        """
        return self.bernstein(degree).logs

    def bernstein(self, degree: int) -> "BernsteinMoments":
        """E[p^i (1−p)^j B_m(p)] per cell for small i and j, from one evaluation.

        Laws depend on a cell's counts alone, not on how many prompts it stands for: pilots with the same cells, such as
        the windows of one training run, share them.
        """
        if self.weights.size * (degree + 1) <= _KEPT_VALUES:
            return _kept_moments(self.successes.tobytes(), self.failures.tobytes(), self.prior, degree)
        return _moments(self.successes, self.failures, self.prior, degree)

    def posterior_means(self, degree: int) -> Array:
        """E[p | m successes in `degree` further rollouts] per cell, [C, degree+1] (one column for points)."""
        if self.prior is None:
            return self.pass_rates[:, None]
        means: Array = (self.shape_success[:, None] + np.arange(degree + 1)) / (
            self.shape_success + self.shape_failure + degree
        )[:, None]
        return means

    def raised(self, i: int, j: int) -> tuple[Array, "Population"]:
        """log E[p^i (1−p)^j] per cell [C], and the population of each cell tilted by p^i (1−p)^j."""
        if self.prior is None:
            p, q = np.maximum(self.pass_rates, _SMALLEST), np.maximum(self._failure_rates, _SMALLEST)
            return i * np.log(p) + j * np.log(q), self
        a, b = self.shape_success, self.shape_failure
        logs: Array = betaln(a + i, b + j) - betaln(a, b)
        return logs, self.trusted(self.successes + i, self.failures + j, self.weights, self.prior)

    @property
    def _failure_rates(self) -> Array:
        return self.shape_failure / (self.shape_success + self.shape_failure)


@dataclass(frozen=True, eq=False)
class BernsteinMoments:
    """Moments of a Bernstein basis per cell; `moments(i, j)` is E[p^i (1−p)^j B_m], [C, degree+1]."""

    logs: Array  # log E[B_m]
    law: Array  # E[B_m]
    success: Array  # a+m, or p for points
    failure: Array  # b+degree−m, or 1−p for points
    total: Array | None  # a+b+degree; None for points

    def __call__(self, i: int, j: int) -> Array:
        value = self.law
        for step in range(i):
            value = value * (self.success if self.total is None else (self.success + step) / (self.total + step))
        return self.failed(value, i, j)

    def failed(self, value: Array, i: int, j: int) -> Array:
        """E[p^i (1−p)^j B_m] from `value` = E[p^i B_m]."""
        for step in range(j):
            value = value * (self.failure if self.total is None else (self.failure + step) / (self.total + (i + step)))
        return value


@lru_cache(maxsize=32)
def _kept_moments(successes: bytes, failures: bytes, prior: BetaPrior | None, degree: int) -> BernsteinMoments:
    return _moments(np.frombuffer(successes), np.frombuffer(failures), prior, degree)


def _moments(successes: Array, failures: Array, prior: BetaPrior | None, degree: int) -> BernsteinMoments:
    m, m_left, ratios = _binomial_ratios(degree)
    a, b = successes[:, None], failures[:, None]
    if prior is None:
        p, q = a / (a + b), b / (a + b)
        success, failure, total = p, q, None
        steps = np.log(ratios) + (np.log(np.maximum(p, _SMALLEST)) - np.log(np.maximum(q, _SMALLEST)))
    else:
        a, b = a + prior.alpha, b + prior.beta
        success, failure, total = a + np.arange(degree + 1), b + np.arange(degree, -1, -1), a + b + degree
        steps = np.log(ratios * (a + m) / (b + m_left))
    logs = _centered_cumulative_sum(steps)
    law = np.exp(logs)
    sums = np.add.reduce(law, axis=1, keepdims=True)
    law /= sums
    logs -= np.log(sums)
    for array in (logs, law):
        array.setflags(write=False)
    return BernsteinMoments(logs, law, success, failure, total)


@lru_cache(maxsize=16)
def _binomial_ratios(degree: int) -> tuple[Array, Array, Array]:
    """m, degree−1−m and C(degree, m+1)/C(degree, m) for m = 0..degree−1."""
    m = np.arange(float(degree))
    return m, (degree - 1) - m, (degree - m) / (m + 1)


def _centered_cumulative_sum(steps: Array) -> Array:
    """Sums of the first 0, 1, … steps along the last axis, less their largest."""
    rows, length = steps.shape
    sums = np.zeros((rows, length + 1))
    np.cumsum(steps, axis=1, out=sums[:, 1:])
    if length <= _PLAIN_SUMS:
        sums -= sums.max(axis=1, keepdims=True)
        return sums
    # At degree 65,536 partial sums reach 45,000 and lose 1e-11 between neighbors near the peak. Knuth's two-sum gives
    # the rounding error of every addition exactly; they are put back after the large parts have canceled.
    before = sums[:, :-1]
    added = sums[:, 1:] - before
    errors = np.zeros_like(sums)
    np.cumsum((before - (sums[:, 1:] - added)) + (steps - added), axis=1, out=errors[:, 1:])
    peak = np.argmax(sums, axis=1)[:, None]
    centered: Array = (sums - np.take_along_axis(sums, peak, 1)) + (errors - np.take_along_axis(errors, peak, 1))
    return centered


class HasPopulation(Protocol):
    """Anything that stands for a population, such as a pilot histogram."""

    def population(self) -> Population: ...


def as_population(source: "Population | HasPopulation") -> Population:
    """The population itself, or the one that a pilot stands for."""
    return source if isinstance(source, Population) else source.population()


class ScoreGeometry(Protocol):
    """Second moments of a response's score S as functions of the pass rate p, each [...] → [...].

    μ and Σ are the mean and covariance of S given success, ν and Σ_f given failure. E[S] = 0 makes ν = −p μ/(1−p), so
    only lengths are needed, signed along μ.
    """

    def success_mean(self, p: Array) -> Array: ...  # ‖μ‖
    def failure_mean(self, p: Array) -> Array: ...  # ‖ν‖
    def success_noise(self, p: Array) -> Array: ...  # tr Σ
    def failure_noise(self, p: Array) -> Array: ...  # tr Σ_f
    def sensitivity(self, p: Array) -> Array: ...  # ℓ = ‖∇p‖²


@dataclass(frozen=True)
class ScoreModel:
    """The κ-model of scores: unit score energy for success and failure alike, a share κ of it about success.

    ‖μ‖² = κ(1−p)², ‖ν‖² = κp², tr Σ = 1−κ(1−p)², tr Σ_f = 1−κp², ℓ = κp²(1−p)²; κ = ‖μ−ν‖²/E‖S‖² ∈ (0, 1].

    Args:
        kappa: κ. Measure it where you can; see docs/equations.md, E8.
        kappa_spread: log-standard-deviation of a measured κ. None means known, unless κ is the default 0.1: that one
            stands for "not measured", and intervals draw κ from [0.01, 1]. Say 0 for a κ known to be just 0.1.
        name: "kappa", or "paper" by `ScoreModel.paper()`: Eq. 4's own proxies ‖μ‖² = tr Σ = tr Σ_f = 1,
            ℓ = p(1−p), which are not consistent with one another and serve `criterion="paper"` only.
    """

    kappa: float = DEFAULT_KAPPA
    kappa_spread: float | None = None
    name: str = "kappa"

    def __post_init__(self) -> None:
        kappa = finite_number(self.kappa, "score_model.kappa", minimum=LEAST_KAPPA, maximum=1)
        object.__setattr__(self, "kappa", kappa)
        if self.kappa_spread is not None:
            spread = finite_number(self.kappa_spread, "score_model.kappa_spread", minimum=0, maximum=10)
            object.__setattr__(self, "kappa_spread", spread)
        if self.name not in ("kappa", "paper"):
            raise InvalidInput(
                f"score_model.name must be kappa or paper; got {self.name!r:.60}", field="score_model.name"
            )

    @classmethod
    def paper(cls) -> Self:
        """The proxies of the paper's Eq. 4."""
        return cls(name="paper")

    @property
    def is_default(self) -> bool:
        """Whether κ was left at its default, not measured."""
        return self == ScoreModel()

    def success_mean(self, p: Array) -> Array:
        return np.ones_like(p) if self.name == "paper" else np.sqrt(self.kappa) * (1 - p)

    def failure_mean(self, p: Array) -> Array:
        return _odds(p) if self.name == "paper" else np.sqrt(self.kappa) * p

    def success_noise(self, p: Array) -> Array:
        return np.ones_like(p) if self.name == "paper" else 1 - self.kappa * (1 - p) ** 2

    def failure_noise(self, p: Array) -> Array:
        return np.ones_like(p) if self.name == "paper" else 1 - self.kappa * p**2

    def sensitivity(self, p: Array) -> Array:
        return p * (1 - p) if self.name == "paper" else self.kappa * (p * (1 - p)) ** 2

    def to_dict(self) -> dict[str, Any]:
        if self.name == "paper":
            return {"name": "paper"}
        spread = {} if self.kappa_spread is None else {"kappa_spread": self.kappa_spread}
        return {"kappa": self.kappa, **spread}


def _odds(p: Array) -> Array:
    """p/(1−p), and 0 at p = 1, where no failure exists to have a score."""
    certain = p == 1
    odds: Array = np.where(certain, 0, p / np.where(certain, 1, 1 - p))
    return odds


@dataclass(frozen=True)
class MeasuredScores:
    """Score geometry measured at given pass rates: ‖μ‖, tr Σ and tr Σ_f, scalars or arrays that broadcast with p."""

    mean: Array | float
    noise: Array | float
    noise_of_failures: Array | float

    def success_mean(self, p: Array) -> Array:
        return np.broadcast_to(self.mean, p.shape)

    def failure_mean(self, p: Array) -> Array:
        return np.asarray(self.mean * _odds(p))

    def success_noise(self, p: Array) -> Array:
        return np.broadcast_to(self.noise, p.shape)

    def failure_noise(self, p: Array) -> Array:
        return np.broadcast_to(self.noise_of_failures, p.shape)

    def sensitivity(self, p: Array) -> Array:
        return np.asarray((p * self.mean) ** 2)
