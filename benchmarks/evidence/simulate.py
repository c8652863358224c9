"""Training every arm of a setting on common random numbers, and what it reaches.

All arms of a seed see the same prompts in the same order, and the same uniform numbers become answers: the right one
below p, so that a higher pass rate never loses a success. Shapes: V answers, S seeds, G prompts per step, N rollouts,
D features, A arms, T steps.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

import rl2ml_core as rl2ml
from benchmarks.evidence.arms import RECENT, Arm, advantage_tables
from benchmarks.evidence.difficulties import key
from benchmarks.evidence.environments import World
from benchmarks.evidence.steps import Step, make_step
from rl2ml_core.checks import Array
from rl2ml_core.objective.population import Population

#: What is judged.
METRICS = ("pass@1", "pass@8", "log:0.01")
#: Steps after which the "bayes_recent" baseline is solved anew from the counts since the last time.
REFRESH = 10


@dataclass(frozen=True, eq=False)
class Randomness:
    """Common random numbers of T steps, drawn per seed."""

    prompts: Array  # [T, S, G], without replacement within a step
    uniforms: Array  # [T, S, G, N]
    noise: Array | None  # standard normal, [T, V, S, D]; None where scores have no noise

    @classmethod
    def draw(cls, world: World, seeds: range, steps: int, batch: int, num_rollouts: int) -> "Randomness":
        shape = len(world.offsets), world.features.shape[-1]
        prompts, uniforms, noise = [], [], []
        for seed in seeds:
            rng = np.random.default_rng([key("training"), seed])
            prompts.append(rng.permuted(np.tile(np.arange(world.num_train), (steps, 1)), axis=1)[:, :batch])
            uniforms.append(rng.random((steps, batch, num_rollouts)))
            noise.append(rng.standard_normal((steps, *shape)) if world.noise.any() else None)
        return cls(
            np.stack(prompts, axis=1),
            np.stack(uniforms, axis=1),
            np.stack(noise, axis=2) if world.noise.any() else None,
        )


@dataclass(frozen=True, eq=False)
class Batch:
    """A step's sampled gradient."""

    gradient: Array  # (1/(G N)) Σ A S, [V, S, D, A]
    successes: Array  # K, [S, G, A]
    squares: Array  # Σ A² of each trajectory's groups, and what it were under GRPO, [2, S, A]
    kept: Array | None  # groups that count, [S, G, A]; None for all


def sample_gradient(
    world: World,
    weights: Array,
    tables: tuple[Array, Array],
    prompts: Array,
    uniforms: Array,
    noise: Array | None,
    room: Array | None = None,
) -> Batch:
    """Sampled groups and the gradient of their advantages, at W [V, S, D, A].

    Args:
        tables: success and failure advantages, two arrays [N+1, S, A].
        prompts, uniforms, noise: of this step, [S, G], [S, G, N] and [V, S, D].
        room: how many more groups of mixed rewards count, [S, A], where groups of equal rewards are dropped.
    """
    groups, n = uniforms.shape[1:]
    seed = np.arange(len(prompts))[:, None]
    policy = world.policy(weights, prompts)
    right = world.right[:, seed, prompts, None]
    counts = _answer_counts(policy, right, uniforms)
    successes = counts[0]
    flat = successes * weights[0, :, 0].size + np.arange(weights[0, :, 0].size).reshape(len(prompts), 1, -1)
    of_success, of_failure = (np.take(table.reshape(-1), flat) for table in tables)
    kept = None
    if room is not None:
        mixed = (successes > 0) & (successes < n)
        kept = mixed & (np.cumsum(mixed, axis=1) <= room[:, None])
        of_success, of_failure = of_success * kept, of_failure * kept
    from_success = successes * of_success
    of_answers = counts[1:] * of_failure
    of_answers += right * from_success
    of_answers -= policy * (from_success + (n - successes) * of_failure)
    of_answers /= groups * n
    gradient = np.matmul(world.features[seed, prompts].transpose(0, 2, 1), of_answers)
    square = (from_success * of_success + (n - successes) * of_failure**2).sum(axis=1)
    of_grpo = np.take(_grpo_squares(n), successes)
    reference = (of_grpo if kept is None else of_grpo * kept).sum(axis=1)
    if noise is not None:
        gradient += noise[..., None] * (world.noise[:, None] / (groups * n) * np.sqrt(square))[:, None, :]
    return Batch(gradient, successes, np.stack([square, reference]), kept)


def _answer_counts(policy: Array, right: Array, uniforms: Array) -> Array:
    """Successes, then how often each wrong answer was given, [1 + V, S, G, A]; integers.

    A uniform number below p is the right answer; the wrong ones share what is above in their order.
    """
    answers, n = len(policy), uniforms.shape[-1]
    bounds = np.empty((answers, *policy.shape[1:]))
    wrong = policy * (1 - right)
    bounds[0] = (policy * right).sum(axis=0)
    np.cumsum(wrong[:-1], axis=0, out=bounds[1:])
    bounds[1:] += bounds[0]
    below = np.zeros(bounds.shape, dtype=np.uint8)
    hit = np.empty(bounds.shape, dtype=bool)
    for i in range(n):
        np.less(uniforms[:, :, i, None], bounds, out=hit)
        below += hit.view(np.uint8)
    # The last answer takes the rest, unless it is the right one: rounding may have left a bound below 1.
    counts = np.empty((answers + 1, *policy.shape[1:]), dtype=np.intp)
    counts[0] = below[0]
    np.subtract(below[1:], below[:-1], out=counts[1:-1])
    counts[-1] = n - below[-1]
    return counts


def train(
    world: World,
    arms: Sequence[Arm],
    populations: Sequence[Population],
    randomness: Randomness,
    step: str,
    size: float,
    checkpoints: Sequence[int],
) -> Array:
    """Exact metrics of every arm at the checkpoints, [A, S, checkpoints, 2, metrics]: training and held-out prompts.

    `populations` are the pilots', one per seed: what the Bayes and minimum-variance baselines know.
    """
    # Trajectories that wait for groups need masks, which the others should not pay for.
    reached = np.empty((len(arms), len(populations), len(checkpoints), 2, len(METRICS)))
    for waits in (False, True):
        where = [a for a, arm in enumerate(arms) if arm.drops_equal_groups == waits]
        if where:
            chosen = [arms[a] for a in where]
            reached[where] = _train(world, chosen, populations, randomness, step, size, checkpoints, waits)
    return reached


def _train(
    world: World,
    arms: Sequence[Arm],
    populations: Sequence[Population],
    randomness: Randomness,
    step: str,
    size: float,
    checkpoints: Sequence[int],
    waits: bool,
) -> Array:
    groups, n = randomness.uniforms.shape[2:]
    tables = advantage_tables(arms, n, populations)
    weights = world.start(len(arms))
    rule = make_step(step, size, expected_squares(world, tables, waits))
    refilled = _Refilled(groups) if waits else None
    recent = _Recent(arms, n)
    reached = []
    for t in range(max(checkpoints)):
        drawn = (
            randomness.prompts[t],
            randomness.uniforms[t],
            None if randomness.noise is None else randomness.noise[t],
        )
        batch = sample_gradient(world, weights, tables, *drawn, None if refilled is None else refilled.room)
        if refilled is None:
            rule(weights, batch.gradient, batch.squares / (groups * n), None)
        else:
            refilled.step(rule, weights, batch, n)
        recent.add(batch.successes, tables, t)
        if t + 1 in checkpoints:
            reached.append(evaluate(world, weights))
    return np.moveaxis(np.array(reached), -1, 0).swapaxes(1, 2)


def evaluate(world: World, weights: Array) -> Array:
    """Means of the metrics over training and held-out prompts, [S, 2, metrics, A]; NaN without held-out prompts."""
    p = world.pass_rates(weights)
    values = np.full((len(p), 2, len(METRICS), p.shape[-1]), np.nan)
    for i, part in enumerate((p[:, : world.num_train], p[:, world.num_train :])):
        if part.shape[1]:
            for j, metric in enumerate(METRICS):
                values[:, i, j] = rl2ml.parse_metric(metric).value(np.minimum(part, 1.0)).mean(axis=1)
    return values


def expected_squares(world: World, tables: tuple[Array, Array], kept_only: bool) -> Array:
    """Mean squares of the advantages at the start, own and GRPO's, [2, S, A]: exact, over rollouts.

    Where groups of equal rewards are dropped, over those of the others.
    """
    success, failure = tables
    n = len(success) - 1
    p = world.pass_rates(world.start(1))[:, : world.num_train, 0]
    law = Population.from_pass_rates(p.ravel()).bernstein(n).law.reshape(*p.shape, n + 1).mean(axis=1)  # [S, N+1]
    share = np.arange(n + 1)[:, None, None] / n
    squares = share * success**2 + (1 - share) * failure**2
    if kept_only:
        law = law * (np.arange(n + 1) % n > 0)
        law /= np.maximum(law.sum(axis=1, keepdims=True), 1e-300)
    own = np.einsum("sk,ksa->sa", law, squares)
    reference = law @ (_grpo_squares(n) / n)
    return np.stack([own, np.broadcast_to(reference[:, None], own.shape)])


@lru_cache
def _grpo_squares(num_rollouts: int) -> Array:
    """Σ A² of a group under GRPO by its success count, [N+1]."""
    table = rl2ml.known_table("grpo", num_rollouts)
    k = np.arange(num_rollouts + 1)
    return np.asarray(k * table.success**2 + (num_rollouts - k) * table.failure**2)


class _Refilled:
    """Groups of mixed rewards collect, at the cost of what was generated for them, until they fill a batch."""

    def __init__(self, groups: int) -> None:
        self._groups = groups
        self._gradient: Array | float = 0.0
        self._squares: Array | float = 0.0
        self._filled: Array | int = 0

    @property
    def room(self) -> Array:
        """Groups still wanted, [S, A] (or a scalar in an array before the first step)."""
        return np.atleast_2d(self._groups - self._filled)

    def step(self, rule: Step, weights: Array, batch: Batch, num_rollouts: int) -> None:
        """Collect, and step where the batch is full."""
        assert batch.kept is not None
        self._gradient = self._gradient + batch.gradient
        self._squares = self._squares + batch.squares
        self._filled = self._filled + batch.kept.sum(axis=1)
        full = self._filled >= self._groups
        rule(weights, self._gradient.copy(), self._squares / (self._groups * num_rollouts), full)
        self._gradient *= ~full[:, None, :]
        self._squares = self._squares * ~full
        self._filled = self._filled * ~full


class _Recent:
    """Bayes baselines solved anew from the counts of recent steps."""

    def __init__(self, arms: Sequence[Arm], num_rollouts: int) -> None:
        self._arms = [(a, arm) for a, arm in enumerate(arms) if arm.baseline == RECENT]
        self._num_rollouts = num_rollouts
        self._counts: list[Array] = []

    def add(self, successes: Array, tables: tuple[Array, Array], t: int) -> None:
        """Count a step's groups [S, G, A]; overwrite the tables when it is time."""
        if not self._arms:
            return
        self._counts.append(successes[:, :, [a for a, _ in self._arms]])
        if (t + 1) % REFRESH:
            return
        counts = np.concatenate(self._counts, axis=1)
        self._counts = []
        n = self._num_rollouts
        for i, (a, arm) in enumerate(self._arms):
            pilots = [rl2ml.PilotHistogram.from_counts(seen, n).population() for seen in counts[:, :, i]]
            for table, new in zip(tables, advantage_tables([arm], n, pilots), strict=True):
                table[:, :, a] = new[:, :, 0]
