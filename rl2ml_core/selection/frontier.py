"""The frontier: for each number of rollouts per prompt its best γ, in scenarios of what is not known. E38 to E40.

Shapes: S scenarios of (κ, ρ), I numbers of rollouts per prompt, G values of γ, D draws.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from rl2ml_core.checks import Array
from rl2ml_core.objective.baselines import Estimator
from rl2ml_core.objective.population import ScoreModel
from rl2ml_core.selection.batches import BatchMoments, MomentsOfN, gain_per_length, slopes
from rl2ml_core.selection.chebyshev import first_degree, grid_and_matrix, highest, interpolate, nodes, piece_edges
from rl2ml_core.selection.problem import Problem
from rl2ml_core.selection.uncertainty import kappa_draws, peaks

__all__ = ["Candidate", "Frontier", "Scenarios"]

_TINY = 1e-300


@dataclass(frozen=True, eq=False)
class Scenarios:
    """Pairs of κ and ρ with weights that add to one, three arrays [S]."""

    kappa: Array
    cosine: Array
    weight: Array

    @classmethod
    def of(cls, kappas: Sequence[float], cosines: Mapping[float, float]) -> "Scenarios":
        """Every κ, all alike, with every ρ by its weight."""
        rows = [(kappa, cosine, share / len(kappas)) for kappa in kappas for cosine, share in cosines.items()]
        return cls(*np.array(rows).T)


def _parts(scenarios: Scenarios) -> tuple[Array, Array, Array]:
    return scenarios.kappa, scenarios.cosine, scenarios.weight


@dataclass(frozen=True, eq=False)
class Candidate:
    """One N with what a step takes of it, and the range of γ that it may have."""

    num_rollouts: int
    per_step: int  # G
    moments: MomentsOfN
    estimator: Estimator
    low: float
    high: float

    @property
    def degree(self) -> int:
        """Of the interpolant in γ to start from."""
        return first_degree(self.num_rollouts)

    def terms(self, gamma: Array) -> Array:
        """Of the estimator's tables at γ [G]: [5, G]."""
        return self.moments.terms(*self.estimator.tables(gamma))[:, 0]

    @cached_property
    def searched(self) -> Array:
        """The same at the nodes of the first interpolant, then at the piece edges."""
        return self.terms(np.concatenate([nodes(self.low, self.high, self.degree), piece_edges(self.low, self.high)]))

    def peaks(self, values: Array) -> tuple[Array, Array]:
        """γ and height of the maxima of rows of values at `searched`, two arrays [rows]."""
        grid, to_grid = grid_and_matrix(self.low, self.high, self.degree)
        edges, at_edges = piece_edges(self.low, self.high), values[:, len(to_grid) :]
        place, height = peaks(values[:, : len(to_grid)] @ to_grid, grid)
        edge, at_edge = edges[at_edges.argmax(axis=1)], at_edges.max(axis=1)
        return np.where(at_edge >= height, edge, place), np.maximum(at_edge, height)


class Frontier:
    """All candidates for a budget.

    Args:
        problem: the question; its number of rollouts is ignored.
        per_step: G of each N.
        highest_gamma: the largest γ that each N may have.
        prompts: P.
    """

    def __init__(
        self, problem: Problem, per_step: Mapping[int, int], highest_gamma: Mapping[int, float], prompts: int
    ) -> None:
        self._problem = problem
        self._prompts = prompts
        self.population = people = problem.population
        self._slopes = slopes(people, problem.metric)
        self._slope = float(people.weights @ self._slopes / people.weights.sum())
        moments = BatchMoments.of_population(people, problem.metric, max(highest_gamma))
        shipped = problem.estimator
        found = [
            Candidate(
                n,
                per_step[n],
                of_n,
                Estimator.named(shipped.name, n, people, problem.scores, None, shipped.filter_groups),
                problem.gamma_min,
                highest_gamma[n],
            )
            for n, of_n in moments.down_to(min(highest_gamma))
            if n in highest_gamma
        ]
        self.candidates: list[Candidate] = found[::-1]

    def best_gains(self, scenarios: Scenarios) -> Array:
        """The largest gain of any N and γ in each scenario, [S]."""
        heights = [one.peaks(self._gains(one, one.searched, scenarios))[1] for one in self.candidates]
        return np.asarray(np.max(heights, axis=0))

    def maximum(self, candidate: Candidate, scenarios: Scenarios, best: Array) -> tuple[float, float]:
        """The γ of one N with the largest mean share of the best gains [S], certified as in E16, and that share."""
        weight = scenarios.weight / best

        def values(terms: Array) -> Array:
            return np.asarray(weight @ self._gains(candidate, terms, scenarios))

        found_before = values(candidate.searched)
        at_edges = found_before[-piece_edges(candidate.low, candidate.high).size :]
        first = nodes(candidate.low, candidate.high, candidate.degree).size

        def at(gamma: Array) -> Array:
            return found_before[:first] if gamma.size == first else values(candidate.terms(gamma))

        found, _ = interpolate(at, candidate.low, candidate.high, candidate.degree)
        gamma, _ = highest(found, found.stationary_points(), at_edges)
        return gamma, float(values(candidate.terms(np.array([gamma])))[0])

    def elsewhere(
        self, cases: Sequence[Scenarios], planned: Candidate, gamma: float
    ) -> list[tuple[int, float, float, float]]:
        """In each of several cases the best N and γ, and what a planned pair and a planned N would lose then."""
        every = Scenarios(*(np.concatenate(parts) for parts in zip(*map(_parts, cases), strict=True)))
        gains = [self._gains(one, one.searched, every) for one in self.candidates]
        best = np.max([one.peaks(of_one)[1] for one, of_one in zip(self.candidates, gains, strict=True)], axis=0)
        case = np.repeat(np.arange(len(cases)), [part.weight.size for part in cases])
        weights = np.where(case == np.arange(len(cases))[:, None], every.weight / best, 0.0)
        found = [one.peaks(weights @ of_one) for one, of_one in zip(self.candidates, gains, strict=True)]
        places, heights = np.moveaxis(np.array(found), 1, 0)  # [I, cases] each
        own = weights @ self._gains(planned, planned.terms(np.array([gamma])), every)[:, 0]
        rows = []
        for j, i in enumerate(heights.argmax(axis=0).tolist()):
            most, kept = float(heights[i, j]), float(heights[self.candidates.index(planned), j])
            losses = max(1 - float(own[j]) / most, 0.0), 1 - kept / most
            rows.append((self.candidates[i].num_rollouts, float(places[i, j]), *losses))
        return rows

    def draws(
        self,
        gammas: Sequence[float],
        score_model: ScoreModel | None,
        cosines: Mapping[float, float],
        num_draws: int,
        seed: int,
    ) -> Array | None:
        """Gains of each N with its γ, [D, I], in draws of prompts, κ and ρ; None where there is nothing to draw.

        γ, tables and prior are those of the point estimate.
        """
        pilot = self._problem.pilot
        if not num_draws or pilot is None or pilot.total_prompts < 2:
            return None
        rng = np.random.default_rng(seed)
        weights = rng.standard_gamma(pilot.num_prompts, size=(num_draws, pilot.num_cells))
        weights /= np.maximum(weights.sum(axis=1, keepdims=True), _TINY)
        kappa = kappa_draws(score_model, num_draws)
        if kappa is None:
            kappa = np.full(num_draws, self._problem.scores.kappa)
        cosine = rng.choice(list(cosines), num_draws, p=list(cosines.values()))
        gains = gain_per_length(
            self._reweighed(gammas, weights),
            (weights @ self._slopes)[:, None],
            kappa[:, None],
            cosine[:, None],
            self._prompts,
            np.array([float(one.per_step) for one in self.candidates]),
        )
        return np.maximum(gains, _TINY)  # of prompts that tell nothing none gains

    def _gains(self, candidate: Candidate, terms: Array, scenarios: Scenarios) -> Array:
        """Of terms [5, G] in every scenario: [S, G]."""
        kappa, cosine = scenarios.kappa[:, None], scenarios.cosine[:, None]
        return gain_per_length(terms[:, None], self._slope, kappa, cosine, self._prompts, candidate.per_step)

    def _reweighed(self, gammas: Sequence[float], weights: Array) -> Array:
        """Terms of each N with its γ for other weights of the cells [D, C]: [5, D, I]."""
        people, metric = self._problem.population, self._problem.metric
        tables = [one.estimator.tables(np.array([g])) for one, g in zip(self.candidates, gammas, strict=True)]
        places = {one.num_rollouts: i for i, one in enumerate(self.candidates)}
        least, most = self.candidates[0].num_rollouts, self.candidates[-1].num_rollouts
        terms = np.zeros((5, len(weights), len(tables)))
        for where, block in people.blocks(5 * most):
            for n, moments in BatchMoments.of_cells(block, metric, most).down_to(least):
                if n in places:
                    of_cells = moments.terms(*tables[places[n]])[..., 0]
                    terms[..., places[n]] += of_cells @ weights[:, where].T
        return terms
