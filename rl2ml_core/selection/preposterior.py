"""What may be true of a population's pass rates, pilots that would be seen then, and what is known after them. E41.

Shapes: C cells, D draws, A atoms (prompts of the pilot), K components of a truth.
"""

import math
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import numpy.typing as npt

from rl2ml_core.checks import Array
from rl2ml_core.objective.population import BetaPrior, Population
from rl2ml_core.pilot.histogram import PilotHistogram
from rl2ml_core.pilot.prior import coordinates_of, hyperprior, log_law, prior_at, scores_at

__all__ = ["Knowledge", "Truths"]

_Counts = npt.NDArray[np.int64]

#: Prompts drawn apart; of larger pilots one stands for several, which then matter to no digit.
_MOST_ATOMS = 4000
#: Logits of the points that stand for drawn pass rates; p² is kept to .4 % between them.
_LOGITS = np.arange(-16, 14.0625, 0.125)
_TINY = 1e-300


def _shapes(theta: Array) -> tuple[Array, Array]:
    """α and β of priors at θ [D, 2], within what a prior may have."""
    mean, concentration = 1 / (1 + np.exp(-theta[:, 0])), np.exp(np.minimum(theta[:, 1], 20.0))
    return np.maximum(concentration * mean, 1e-9), np.maximum(concentration * (1 - mean), 1e-9)


@dataclass(frozen=True, eq=False)
class Truths:
    """D populations that may be the true one, as mixtures of the same components."""

    components: Population  # of weight one each: points, or the guess itself
    weights: Array  # [D, K]
    rates: Array  # of the pilot's prompts, [D, A]; none of a guess
    cell: npt.NDArray[np.intp]  # of each atom, [A]
    prompts: Array  # that each atom stands for, [A]

    @classmethod
    def of_pilot(cls, pilot: PilotHistogram, num_draws: int, rng: np.random.Generator) -> Self:
        """From the posterior: θ, each prompt's pass rate given θ and its counts, and Dirichlet weights of prompts."""
        fitted = pilot.fitted_prior
        theta = rng.multivariate_normal(fitted.coordinates, fitted.covariance, num_draws, method="cholesky")
        alpha, beta = (shape[:, None] for shape in _shapes(theta))
        share = max(pilot.total_prompts / _MOST_ATOMS, 1.0)
        atoms = np.maximum(np.rint(pilot.num_prompts / share), 1).astype(np.int64)
        cell = np.repeat(np.arange(atoms.size), atoms)
        prompts = (pilot.num_prompts / atoms)[cell]
        k, n = pilot.num_successes[cell], pilot.num_rollouts[cell]
        successes = rng.standard_gamma(k + alpha)
        failures = rng.standard_gamma(n - k + beta)
        logits = np.log(np.maximum(successes, _TINY)) - np.log(np.maximum(failures, _TINY))
        logits = np.clip(logits, _LOGITS[0], _LOGITS[-1])
        rates, points = 1 / (1 + np.exp(-logits)), 1 / (1 + np.exp(-_LOGITS))
        # Each stands on the two points around it, with its own mean.
        first = np.minimum(((logits - _LOGITS[0]) / (_LOGITS[1] - _LOGITS[0])).astype(np.intp), _LOGITS.size - 2)
        upper = (rates - points[first]) / (points[first + 1] - points[first])
        drawn = rng.standard_gamma(prompts, size=logits.shape)
        drawn /= np.maximum(drawn.sum(axis=1, keepdims=True), _TINY)
        place = first + _LOGITS.size * np.arange(num_draws)[:, None]
        size = num_draws * _LOGITS.size
        mass = np.bincount(place.ravel(), (drawn * (1 - upper)).ravel(), size)
        mass += np.bincount(place.ravel() + 1, (drawn * upper).ravel(), size)
        components = Population.trusted(points, 1 - points, np.ones(points.shape), None)
        return cls(components, mass.reshape(num_draws, -1), rates, cell, prompts)

    @classmethod
    def of_guess(cls, prior: BetaPrior, num_draws: int) -> Self:
        """The guess, throughout."""
        nothing = np.zeros(1)
        components = Population.trusted(nothing, nothing.copy(), np.ones(1), prior)
        return cls(components, np.ones((num_draws, 1)), np.zeros((num_draws, 0)), np.zeros(0, np.intp), np.zeros(0))

    def new_prompts(self, prompts: int, rollouts: int, rng: np.random.Generator) -> Array:
        """Prompts by successes of so many rollouts, in a sample of each population: [D, rollouts+1]."""
        chances = self.weights @ self.components.bernstein(rollouts).law
        return rng.multinomial(prompts, chances / chances.sum(axis=1, keepdims=True)).astype(float)


@dataclass(frozen=True, eq=False)
class Knowledge:
    """Cells, and what the pilots of D draws say: their counts, and the prior refitted to each by one Newton step."""

    successes: _Counts  # [C]
    failures: _Counts
    counts: Array  # prompts in each draw, [D, C]
    theta: Array  # of the present pilot, or of the guess, [2]
    curvature: Array  # there
    pull: Array  # ∇ there of all but the counts: of the hyperprior

    @classmethod
    def of_pilot(cls, pilot: PilotHistogram, num_draws: int) -> Self:
        """The present pilot, in all draws."""
        fitted, k = pilot.fitted_prior, pilot.num_successes
        counts = np.tile(pilot.num_prompts, (num_draws, 1))
        pull, _ = hyperprior(fitted.coordinates)
        return cls(k, pilot.num_rollouts - k, counts, fitted.coordinates, fitted.curvature, pull)

    @classmethod
    def of_guess(cls, prior: BetaPrior, num_draws: int) -> Self:
        """Nothing seen."""
        theta, none = coordinates_of(prior), np.zeros(0, np.int64)
        pull, penalty = hyperprior(theta)
        return cls(none, none, np.zeros((num_draws, 0)), theta, penalty, pull)

    @property
    def population(self) -> Population:
        """Every cell under the prior at θ, of weight one."""
        k, f = self.successes.astype(float), self.failures.astype(float)
        return Population.trusted(k, f, np.ones(k.shape), prior_at(self.theta))

    @property
    def moved(self) -> Array:
        """θ refitted in each draw, less the present one: [D, 2]."""
        scores = scores_at(self.theta, self.successes, self.failures)
        return (self.counts @ scores + self.pull) @ np.linalg.inv(self.curvature)

    def with_prompts(self, truths: Truths, prompts: int, rollouts: int, rng: np.random.Generator) -> Self:
        """After further prompts."""
        k = np.arange(rollouts + 1)
        new = truths.new_prompts(prompts, rollouts, rng)
        return replace(
            self,
            successes=np.concatenate([self.successes, k]),
            failures=np.concatenate([self.failures, rollouts - k]),
            counts=np.concatenate([self.counts, new], axis=1),
            curvature=self.curvature + prompts * self._information(rollouts),
        )

    def with_rollouts(self, truths: Truths, rollouts: int, rng: np.random.Generator) -> Self:
        """After further rollouts of every prompt."""
        more = rng.binomial(rollouts, truths.rates)
        k, f = self.successes[truths.cell] + more, self.failures[truths.cell] + rollouts - more
        most = int((self.successes + self.failures).max()) + rollouts + 1
        cells, where = np.unique(k * most + f, return_inverse=True)
        size = len(more) * cells.size
        places = where.reshape(more.shape) + cells.size * np.arange(len(more))[:, None]
        weights = np.broadcast_to(truths.prompts, more.shape)
        before = self.successes + self.failures
        gained = [count * (self._information(n + rollouts) - self._information(n)) for n, count in _tally(before, self.counts[0])]
        return replace(
            self,
            successes=cells // most,
            failures=cells % most,
            counts=np.bincount(places.ravel(), weights.ravel(), size).reshape(len(more), -1),
            curvature=self.curvature + np.sum(gained, axis=0),
        )

    def _information(self, rollouts: int) -> Array:
        """Of a prompt's counts about θ, by the prior's own law: E[scores scoresᵀ], [2, 2]."""
        k = np.arange(rollouts + 1)
        scores = scores_at(self.theta, k, rollouts - k)
        law = np.exp(log_law(k, rollouts - k, prior_at(self.theta)))
        return np.asarray((scores * law[:, None]).T @ scores)


def _tally(rollouts: _Counts, counts: Array) -> list[tuple[int, float]]:
    """Each number of rollouts with its prompts."""
    different, where = np.unique(rollouts, return_inverse=True)
    return list(zip(different.tolist(), np.bincount(where, counts).tolist(), strict=True))
