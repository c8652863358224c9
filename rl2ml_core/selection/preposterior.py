"""What may be true of a population's pass rates, pilots that would be seen then, and what is known after them. E42.

Shapes: C cells, D draws, J neighboring priors.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import numpy as np
import numpy.typing as npt
from scipy.special import psi

from rl2ml_core.checks import Array
from rl2ml_core.objective.population import BetaPrior, Population
from rl2ml_core.pilot.histogram import PilotHistogram
from rl2ml_core.pilot.prior import coordinates_of, hyperprior, log_law, prior_at, scores_at

__all__ = ["Mixtures", "Pilots", "truths_of"]

_Counts = npt.NDArray[np.int64]

#: Standard deviations at which neighboring priors stand, as in `selection.uncertainty`.
_NEIGHBORS_AT = 3.0
_LEAST_SPREAD = 1e-12
#: Counts in all draws up to which priors are refitted by further steps; how long the first and the others may be.
_REFITTED, _MORE_STEPS = 100_000, 2
_LONGEST_FIRST, _LONGEST_STEP = 3.0, 1.0
_TINY = 1e-300


@dataclass(frozen=True, eq=False)
class Mixtures:
    """D distributions of pass rates: weights of cells, and a prior that lies between a few."""

    successes: _Counts  # [C]
    failures: _Counts
    weights: Array  # [D, C], positive sums
    priors: tuple[BetaPrior, ...]  # [J]
    shares: Array  # [D, J], rows add to one

    @classmethod
    def near(cls, successes: _Counts, failures: _Counts, weights: Array, theta: Array, moved: Array) -> Self:
        """With the prior at θ + `moved` [D, 2] in each draw: means of neighbors of θ, as in E22."""
        spreads, axes = np.linalg.eigh(np.cov(moved.T) + _LEAST_SPREAD * np.eye(2))
        reach = _NEIGHBORS_AT * np.sqrt(spreads)
        along = (moved @ axes) / reach
        along /= np.maximum(np.abs(along).sum(axis=1, keepdims=True), 1)
        sides = [(i, side) for i in (0, 1) for side in (-1, 1)]
        around = [prior_at(theta + side * reach[i] * axes[:, i]) for i, side in sides]
        shares = [1 - np.abs(along).sum(axis=1), *(np.maximum(side * along[:, i], 0) for i, side in sides)]
        return cls(successes, failures, weights, (prior_at(theta), *around), np.stack(shares, axis=1))

    @property
    def populations(self) -> list[Population]:
        """Every cell, of weight one, under each of the priors."""
        k, f, ones = self.successes.astype(float), self.failures.astype(float), np.ones(self.successes.size)
        return [Population.trusted(k.copy(), f.copy(), ones.copy(), prior) for prior in self.priors]

    def laws(self, rollouts: int) -> Array:
        """P(k of so many rollouts) of every cell under each prior, [J, C, rollouts+1]."""
        return np.stack([people.bernstein(rollouts).law for people in self.populations])


def truths_of(known: PilotHistogram | BetaPrior, num_draws: int, rng: np.random.Generator) -> Mixtures:
    """What may be true given a pilot, prompts and prior drawn as for intervals (E17, E22); or a guess itself."""
    if isinstance(known, BetaPrior):
        none = np.zeros(1, np.int64)
        return Mixtures(none, none, np.ones((num_draws, 1)), (known,), np.ones((num_draws, 1)))
    fitted, counts, k = known.fitted_prior, known.num_prompts, known.num_successes
    weights = rng.standard_gamma(counts, size=(num_draws, counts.size))
    weights *= counts.sum() / np.maximum(weights.sum(axis=1, keepdims=True), _TINY)
    pull = rng.standard_normal((num_draws, 2)) * np.sqrt(np.diag(fitted.penalty))
    moved = ((weights - counts) @ fitted.scores + pull) @ fitted.covariance
    return Mixtures.near(k, known.num_rollouts - k, weights, fitted.coordinates, moved)


@dataclass(frozen=True, eq=False)
class Pilots:
    """A pilot in each of D draws, on the same cells; the prior is refitted to each."""

    successes: _Counts  # [C]
    failures: _Counts
    counts: Array  # prompts, [D, C]
    theta: Array  # of the present pilot's prior, or of the guess, [2]
    curvature: Array  # of the penalized log-likelihood there, with all that was sampled

    @classmethod
    def present(cls, known: PilotHistogram | BetaPrior, num_draws: int) -> Self:
        """The pilot there is, in all draws; none at all with a guess."""
        if isinstance(known, BetaPrior):
            theta, none = coordinates_of(known), np.zeros(0, np.int64)
            return cls(none, none, np.zeros((num_draws, 0)), theta, hyperprior(theta)[1])
        fitted, k = known.fitted_prior, known.num_successes
        counts = np.tile(known.num_prompts, (num_draws, 1))
        return cls(k, known.num_rollouts - k, counts, fitted.coordinates, fitted.curvature)

    @cached_property
    def mixtures(self) -> Mixtures:
        """The distributions of pass rates that each pilot's answer goes by."""
        steps = np.linalg.inv(self.curvature)
        scores = scores_at(self.theta, self.successes, self.failures)
        moved = (self.counts @ scores + hyperprior(self.theta)[0]) @ steps
        moved = np.clip(moved, -_LONGEST_FIRST, _LONGEST_FIRST)
        if self.counts.size <= _REFITTED:  # larger pilots move θ so little that one step reaches it
            for _ in range(_MORE_STEPS):
                moved += np.clip(self._gradient(self.theta + moved) @ steps, -_LONGEST_STEP, _LONGEST_STEP)
        return Mixtures.near(self.successes, self.failures, self.counts, self.theta, moved)

    def _gradient(self, theta: Array) -> Array:
        """∇ of the penalized log-likelihood of each draw's counts at θ of its own, [D, 2] → [D, 2]. E21."""
        mean, concentration = 1 / (1 + np.exp(-theta[:, 0])), np.exp(theta[:, 1])
        a, b, total = (x[:, None] for x in (concentration * mean, concentration * (1 - mean), concentration))
        shared = psi(total) - psi(total + self.successes + self.failures)
        by_a = a[:, 0] * (self.counts * (psi(a + self.successes) - psi(a) + shared)).sum(axis=1)
        by_b = b[:, 0] * (self.counts * (psi(b + self.failures) - psi(b) + shared)).sum(axis=1)
        return np.stack([by_a * (1 - mean) - by_b * mean, by_a + by_b], axis=1) + hyperprior(theta)[0]

    def with_prompts(self, truths: Mixtures, prompts: int, rollouts: int, rng: np.random.Generator) -> Self:
        """After further prompts, drawn from each truth."""
        k = np.arange(rollouts + 1)
        of_priors = np.stack([truths.weights @ law for law in truths.laws(rollouts)])
        chances = np.einsum("dj,jdk->dk", truths.shares, of_priors)
        new = rng.multinomial(prompts, chances / chances.sum(axis=1, keepdims=True)).astype(float)
        return replace(
            self,
            successes=np.concatenate([self.successes, k]),
            failures=np.concatenate([self.failures, rollouts - k]),
            counts=np.concatenate([self.counts, new], axis=1),
            curvature=self.curvature + prompts * self._information(rollouts),
        )

    def with_rollouts(self, truths: Mixtures, rollouts: int, rng: np.random.Generator) -> Self:
        """After further rollouts of every prompt of the present pilot, given its counts and each truth's prior."""
        chances = np.einsum("dj,jck->dck", truths.shares, truths.laws(rollouts))
        whole = np.maximum(np.rint(self.counts), 1)
        drawn = rng.multinomial(whole.astype(np.int64), chances / chances.sum(axis=2, keepdims=True))
        new = drawn * (self.counts / whole)[..., None]
        k = self.successes[:, None] + np.arange(rollouts + 1)
        n = np.broadcast_to((self.successes + self.failures)[:, None] + rollouts, k.shape)
        cells, where = np.unique(np.stack([k.ravel(), n.ravel()]), axis=1, return_inverse=True)
        places = where.ravel() + cells.shape[1] * np.arange(len(new))[:, None]
        counts: Array = np.bincount(places.ravel(), new.ravel(), len(new) * cells.shape[1]).astype(np.float64)
        sizes, which = np.unique(self.successes + self.failures, return_inverse=True)
        prompts = np.bincount(which.ravel(), self.counts[0])
        gained = [
            count * (self._information(size + rollouts) - self._information(size))
            for size, count in zip(sizes.tolist(), prompts.tolist(), strict=True)
        ]
        return replace(
            self,
            successes=cells[0],
            failures=cells[1] - cells[0],
            counts=counts.reshape(len(new), -1),
            curvature=self.curvature + np.sum(gained, axis=0),
        )

    def _information(self, rollouts: int) -> Array:
        """Of one prompt's counts about θ, by the prior's own law: E[scores scoresᵀ], [2, 2]."""
        k = np.arange(rollouts + 1)
        scores = scores_at(self.theta, k, rollouts - k)
        law = np.exp(log_law(k, rollouts - k, prior_at(self.theta)))
        return np.asarray((scores * law[:, None]).T @ scores)
