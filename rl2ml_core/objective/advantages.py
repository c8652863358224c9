"""Any trainer as a table of 2(N+1) numbers: the advantage of a success and of a failure in a group with K successes.

ĝ = (1/N) Σ_i A_i S_i with A_i = success[K] for a success, failure[K] for a failure. What such a trainer optimises, and
how noisy it is, follows exactly (docs/equations.md, E6–E8). Shapes: P pass rates, G tables, N rollouts, K = 0..N.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from rl2ml_core.checks import Array, finite_array
from rl2ml_core.errors import InvalidInput
from rl2ml_core.objective.family import MAX_ROLLOUTS
from rl2ml_core.objective.population import HasPopulation, Population, ScoreGeometry, as_population

__all__ = ["AdvantageTable", "advantage_rms", "energy_moments", "gradient_moments", "score_lengths"]


@dataclass(frozen=True, eq=False)
class AdvantageTable:
    """Advantages by success count.

    Args:
        success: s_K, the advantage of a success in a group with K successes, K = 0..N, [N+1]; success[0] must be 0.
        failure: t_K, the advantage of a failure, [N+1]; failure[N] must be 0.

    Raises:
        InvalidInput: other shapes, non-finite values, N outside 1..65,536, or a value where no such rollout exists.
    """

    success: Array
    failure: Array

    def __post_init__(self) -> None:
        for name in ("success", "failure"):
            array = finite_array(getattr(self, name), name).copy()
            array.setflags(write=False)
            object.__setattr__(self, name, array)
        shape = self.success.shape
        if shape != self.failure.shape or len(shape) != 1 or not 2 <= shape[0] <= MAX_ROLLOUTS + 1:
            raise InvalidInput(
                "an advantage table needs two arrays of one length N+1, N from 1 to "
                f"{MAX_ROLLOUTS}; got shapes {shape} and {self.failure.shape}"
            )
        if self.success[0] != 0 or self.failure[-1] != 0:
            raise InvalidInput(
                "success[0] and failure[N] must be 0, as no such rollout exists; "
                f"got {self.success[0]:g} and {self.failure[-1]:g}"
            )

    @classmethod
    def trusted(cls, success: Array, failure: Array) -> Self:
        """From arrays made by a baseline: no second check."""
        table = object.__new__(cls)
        for array in (success, failure):
            array.setflags(write=False)
        vars(table).update(success=success, failure=failure)
        return table

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, AdvantageTable):
            return NotImplemented
        return np.array_equal(self.success, other.success) and np.array_equal(self.failure, other.failure)

    __hash__ = None  # type: ignore[assignment]

    @property
    def num_rollouts(self) -> int:
        """N, the group size."""
        return self.success.size - 1

    @property
    def contrasts(self) -> Array:
        """s_{m+1} − t_m for m = 0..N−1 successes among the other rollouts, [N]: all that the mean gradient sees."""
        return np.asarray(self.success[1:] - self.failure[:-1])

    def weight(self, pass_rate: npt.ArrayLike) -> Array:
        """Effective weight w(p), with E ĝ = w(p) ∇p exactly: Σ_m (s_{m+1} − t_m) B_m(p). [...] → [...]. E6."""
        p = finite_array(pass_rate, "pass_rate", minimum=0, maximum=1)
        value = np.empty(p.size)
        for where, block in _at(p).blocks(self.num_rollouts) if p.size else ():
            value[where] = block.bernstein(self.num_rollouts - 1).law @ self.contrasts
        return value.reshape(p.shape)

    def update_scales(self) -> Array:
        """(K/N)(s_K − t_{K−1}), K = 1..N, [N]: α_K of the objective that this table optimises."""
        return self.contrasts * (np.arange(1, self.num_rollouts + 1) / self.num_rollouts)

    def variance(self, pass_rate: npt.ArrayLike, score_model: ScoreGeometry) -> Array:
        """Trace of Cov ĝ for one prompt's group of N rollouts, [...] → [...]. E7; Theorem 4.3 when failures get 0."""
        return self._second_moment(pass_rate, score_model, centered=True)

    def energy(self, pass_rate: npt.ArrayLike, score_model: ScoreGeometry) -> Array:
        """E‖ĝ‖² for one prompt's group, [...] → [...]: `variance` plus the squared length of the mean."""
        return self._second_moment(pass_rate, score_model, centered=False)

    def rms(self, population: "Population | HasPopulation") -> float:
        """Root mean square of the advantages over rollouts of a population: what a loss's learning rate feels."""
        return float(advantage_rms(as_population(population), self.success[None], self.failure[None])[0])

    def advantages(self, rewards: npt.ArrayLike) -> Array:
        """Advantages of rewards [..., N] of 0 and 1; the last axis is a group.

        Raises:
            InvalidInput: another group size, or a reward other than 0 and 1.
        """
        r = np.asarray(rewards)
        if r.ndim == 0 or r.shape[-1] != self.num_rollouts:
            raise InvalidInput(
                f"rewards need {self.num_rollouts} rollouts on the last axis; got shape {r.shape}", field="rewards"
            )
        if r.dtype.kind not in "biuf":
            raise InvalidInput(f"rewards must be numbers; got dtype {r.dtype}", field="rewards")
        wrong = (r != 0) & (r != 1)
        if wrong.any():
            raise InvalidInput(f"rewards must be 0 or 1; got {r[wrong].flat[0]}", field="rewards")
        successes = r.sum(axis=-1, dtype=np.int64)[..., None]
        return np.asarray(np.where(r == 1, self.success[successes], self.failure[successes]))

    def _second_moment(self, pass_rate: npt.ArrayLike, scores: ScoreGeometry, *, centered: bool) -> Array:
        p = finite_array(pass_rate, "pass_rate", minimum=0, maximum=1)
        geometry = score_lengths(scores, p.ravel())
        value = np.empty(p.size)
        for where, block in _at(p).blocks(self.num_rollouts + 1) if p.size else ():
            law = block.bernstein(self.num_rollouts).law
            mean, second = gradient_moments(law, geometry[:, where], self.success[None], self.failure[None])
            value[where] = (second - mean**2 if centered else second)[:, 0]
        return value.reshape(p.shape)


def advantage_rms(population: Population, success: Array, failure: Array) -> Array:
    """`AdvantageTable.rms` of G tables [G, N+1] at once: [G]."""
    num_rollouts = success.shape[1] - 1
    squares = np.zeros(success.shape[0])
    for _, block in population.blocks(num_rollouts):
        moments = block.bernstein(num_rollouts - 1)
        squares += (block.weights @ moments(1, 0)) @ (success[:, 1:] ** 2).T
        squares += (block.weights @ moments(0, 1)) @ (failure[:, :-1] ** 2).T
    return np.asarray(np.sqrt(squares / population.weights.sum()))


def score_lengths(scores: ScoreGeometry, pass_rate: Array) -> Array:
    """‖μ‖, ‖ν‖, tr Σ and tr Σ_f at each pass rate [P]: the four rows [4, P] that `gradient_moments` takes."""
    quantities = (scores.success_mean, scores.failure_mean, scores.success_noise, scores.failure_noise)
    return np.stack([np.broadcast_to(quantity(pass_rate), pass_rate.shape) for quantity in quantities])


def gradient_moments(law: Array, lengths: Array, success: Array, failure: Array) -> tuple[Array, Array]:
    """Signed length of E ĝ along μ and E‖ĝ‖², for P pass rates and G tables: two arrays [P, G]. E7.

    Args:
        law: P(K = 0..N) at each pass rate, [P, N+1].
        lengths: `score_lengths` at the same pass rates, [4, P].
        success, failure: G tables, [G, N+1].
    """
    num_rollouts = law.shape[1] - 1
    share = np.arange(num_rollouts + 1) / num_rollouts
    s, t = success * share, failure * (1 - share)  # (K/N) s_K and ((N−K)/N) t_K
    mu, nu, noise_success, noise_failure = lengths[:, :, None]
    noise = noise_success * (law @ (success * s).T) + noise_failure * (law @ (failure * t).T)
    mean = mu * (law @ s.T) - nu * (law @ t.T)
    second = mu**2 * (law @ (s**2).T) - 2 * mu * nu * (law @ (s * t).T) + nu**2 * (law @ (t**2).T)
    return mean, second + noise / num_rollouts


def energy_moments(population: Population, num_rollouts: int) -> tuple[Array, Array, Array]:
    """S [C, N], F [C, N] and e [C, N−1] per cell, of which the κ-model's energy is made. E12.

    E‖ĝ‖² = Σ_m (S_m s²_{m+1} + F_m t²_m) + κ Σ_{m=1}^{N−1} e_m (s²_{m+1} − 2 s_m t_m + t²_{m−1}) with
    S_m = E[p B_m]/N, F_m = E[(1−p) B_m]/N, e_m = (m/N) E[p(1−p)² B_m].
    """
    n = num_rollouts
    moments = population.bernstein(n - 1)
    success = moments(1, 0)
    coupling = (moments.failed(success, 1, 2) * (np.arange(n) / n))[:, 1:]
    return success / n, (moments.law - success) / n, coupling


def _at(pass_rate: Array) -> Population:
    return Population.from_pass_rates(pass_rate.ravel())
