"""Predicted against realized gain of one small normalized step from the start, for every arm.

Predicted is the plan's formula from pass rates and three pooled numbers, κ, the mean cosine ρ and the mean energy of a
score: with ⟨·⟩ the mean over prompts, s = √ℓ, P training prompts and G drawn without replacement,

    A = ρ⟨v's⟩⟨ws⟩ + ((1−ρ)/P)⟨v'wℓ⟩,    D = ρ⟨ws⟩² + ((1−ρ)/P)⟨w²ℓ⟩,
    E‖u‖² = D + (P−G)/((P−1)G) · (⟨w²ℓ⟩ − D) + ⟨R⟩/G,    predicted = A/√E‖u‖².

Realized is the mean of ⟨∇V, ĝ⟩/‖ĝ‖ over sampled gradients, exact in everything but their sampling.
Shapes: S seeds, P prompts, A arms, N rollouts.
"""

from collections.abc import Sequence

import numpy as np

import rl2ml_core as rl2ml
from benchmarks.evidence.environments import Geometry, World
from benchmarks.evidence.simulate import METRICS, Randomness, sample_gradient
from rl2ml_core.checks import Array
from rl2ml_core.objective.advantages import gradient_moments, score_lengths
from rl2ml_core.objective.population import Population, ScoreModel


def predicted_gains(
    scores: Geometry,
    tables: tuple[Array, Array],
    batch: int,
    metrics: Sequence[str] = METRICS,
    *,
    measured: bool = False,
) -> Array:
    """Per unit of root mean square length, [metrics, A], mean over seeds.

    Args:
        tables: success and failure advantages, two arrays [N+1, S, A].
        batch: G.
        measured: whether ℓ, ‖μ‖, tr Σ and tr Σ_f are each prompt's own, instead of the κ-model's.
    """
    gains = []
    for seed, p in enumerate(scores.pass_rates):
        if measured:
            mean = np.sqrt(scores.success_mean[seed])
            noise = scores.success_noise[seed], scores.failure_noise[seed]
            lengths = np.stack([mean, p / (1 - p) * mean, *noise])
            sensitivity = scores.sensitivity[seed]
        else:
            model, energy = ScoreModel(kappa=scores.kappa, kappa_spread=0.0), float(scores.energy.mean())
            lengths = score_lengths(model, p) * np.array([energy**0.5, energy**0.5, energy, energy])[:, None]
            sensitivity = energy * model.sensitivity(p)
        success, failure = (table[:, seed].T for table in tables)
        gains.append(_predicted(p, sensitivity, lengths, scores.cosine, success, failure, batch, metrics))
    return np.asarray(np.mean(gains, axis=0))


def _predicted(
    p: Array,
    sensitivity: Array,
    lengths: Array,
    rho: float,
    success: Array,
    failure: Array,
    batch: int,
    metrics: Sequence[str],
) -> Array:
    n, prompts = success.shape[1] - 1, p.size
    people = Population.from_pass_rates(p)
    mean, second = gradient_moments(people.bernstein(n).law, lengths, success, failure)
    noise = (second - mean**2).mean(axis=0)
    s = np.sqrt(sensitivity)[:, None]
    ws = people.bernstein(n - 1).law @ (success[:, 1:] - failure[:, :-1]).T * s  # [P, A]
    square = (ws**2).mean(axis=0)
    shared = rho * ws.mean(axis=0) ** 2 + (1 - rho) / prompts * square
    length = shared + (prompts - batch) / ((prompts - 1) * batch) * (square - shared) + noise / batch
    slopes = (
        np.array([rl2ml.parse_metric(metric).slope(p) for metric in metrics])[..., None] * s
    )  # v's, [metrics, P, 1]
    gain = rho * slopes.mean(axis=1) * ws.mean(axis=0) + (1 - rho) / prompts * (slopes * ws).mean(axis=1)
    return np.asarray(gain / np.sqrt(np.maximum(length, 1e-300)))


def realized_gains(
    world: World, tables: tuple[Array, Array], randomness: Randomness, metrics: Sequence[str] = METRICS
) -> tuple[Array, Array]:
    """Means over seeds and draws and their standard errors over seeds, two arrays [metrics, A]."""
    arms = tables[0].shape[-1]
    weights = world.start(arms)
    train = slice(world.num_train)
    p = world.pass_rates(world.start(1))[:, train, 0]
    towards = [
        np.einsum(
            "sp,vsp,spd->vsd",
            rl2ml.parse_metric(metric).slope(p) / world.num_train,
            world.pass_rate_gradients()[:, :, train],
            world.features[:, train],
        )
        for metric in metrics
    ]
    total = np.zeros((len(metrics), len(p), arms))
    for t in range(len(randomness.prompts)):
        noise = None if randomness.noise is None else randomness.noise[t]
        gradient = sample_gradient(
            world, weights, tables, randomness.prompts[t], randomness.uniforms[t], noise
        ).gradient
        norms = np.sqrt(np.einsum("vsda,vsda->sa", gradient, gradient))
        gains = np.einsum("mvsd,vsda->msa", np.array(towards), gradient)
        total += np.divide(gains, norms, out=np.zeros_like(gains), where=norms > 0)
    means = total / len(randomness.prompts)
    return means.mean(axis=1), means.std(axis=1, ddof=1) / np.sqrt(len(p))
