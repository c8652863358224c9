"""Policies whose pass rates, gradients and score geometry are known exactly.

One family serves all: a softmax over V answers with logits z_x = W φ(x) + c_x, where W [V, D] is trained, from zero,
and the fixed offsets c_x make every initial pass rate exactly what it is meant to be. With orthonormal φ prompts share
nothing: any step along a gradient moves every prompt's logits by its own part. They are a random rotation of one-hot
vectors, not those themselves, as Adam would then scale every prompt's gradient by itself, which no shared network does.
Two answers are a Bernoulli policy: its one logit is z_1 − z_2, which move alike and oppositely.

Score noise is one more action that the verifier ignores: y ~ Normal(σ vec W, I) has the score σ(y − σ vec W), pure
noise of energy σ² V D in the very parameters that carry the signal. Given the advantages its part of a group's gradient
is exactly Gaussian.

Shapes: V answers, S seeds, P prompts (training prompts first, then held-out ones), D features, A arms.
"""

from dataclasses import dataclass, replace

import numpy as np

from benchmarks.evidence.difficulties import draw_rates, key
from rl2ml_core.checks import Array


@dataclass(frozen=True)
class Kind:
    """An environment: how prompts share parameters and how noisy scores are."""

    answers: int
    features: int | None  # None: as many as training prompts, orthonormal
    noise: float = 0.0  # energy of the noise relative to the signal's
    graded: float = 0.0  # share of ‖φ‖² that prompts of equal difficulty have in common


ENVIRONMENTS = {
    "bernoulli": Kind(answers=2, features=None),
    "softmax": Kind(answers=8, features=None),
    "linear_weak": Kind(answers=8, features=64),
    "linear_strong": Kind(answers=4, features=3),
    "noise_10": Kind(answers=8, features=64, noise=10.0),
    "noise_100": Kind(answers=8, features=64, noise=100.0),
    # Added after the first full run: elsewhere what prompts share has nothing to do with how hard they are.
    "linear_graded": Kind(answers=8, features=64, graded=0.5),
}
#: Grades of difficulty along which prompts resemble each other, and how far one reaches, in grades.
_GRADES, _REACH = 6, 0.5


@dataclass(frozen=True, eq=False)
class World:
    """An environment drawn for every seed."""

    features: Array  # φ, [S, P, D]
    offsets: Array  # c, [V, S, P]
    right: Array  # 1 at the right answer, [V, S, P]
    num_train: int
    noise: Array  # σ, [S]

    @classmethod
    def draw(cls, environment: str, difficulty: str, seeds: range, num_train: int, num_held_out: int) -> "World":
        """The same for a seed whatever the other seeds."""
        drawn = [
            _draw_one(environment, draw_rates(difficulty, seed, num_train + num_held_out), num_train, seed)
            for seed in seeds
        ]
        features, offsets, right = zip(*drawn, strict=True)
        quiet = cls(np.stack(features), np.stack(offsets, 1), np.stack(right, 1), num_train, np.zeros(len(seeds)))
        energy = ENVIRONMENTS[environment].noise * geometry(quiet).energy.mean(axis=1)
        return replace(quiet, noise=np.sqrt(energy / (len(quiet.offsets) * quiet.features.shape[-1])))

    def start(self, arms: int) -> Array:
        """W of every arm before training, [V, S, D, A]."""
        return np.zeros((len(self.offsets), *self.features.shape[::2], arms))

    def policy(self, weights: Array, prompts: Array | slice = slice(None)) -> Array:
        """π of the prompts [S, G] (or a slice of them) under W [V, S, D, A]: [V, S, G, A]."""
        seed = slice(None) if isinstance(prompts, slice) else np.arange(len(self.features))[:, None]
        logits = np.matmul(self.features[seed, prompts], weights)
        logits += self.offsets[:, seed, prompts, None]
        logits -= logits.max(axis=0)
        np.exp(logits, out=logits)
        logits /= logits.sum(axis=0)
        return logits

    def pass_rates(self, weights: Array) -> Array:
        """p of every prompt, [S, P, A]."""
        return np.einsum("vspa,vsp->spa", self.policy(weights), self.right)

    def pass_rate_gradients(self, weights: Array | None = None) -> Array:
        """∇_z p, [V, S, P], under W of one arm [V, S, D, 1] or before training; ∇_W p is its outer product with φ."""
        policy = self.policy(self.start(1) if weights is None else weights)[..., 0]
        p = (policy * self.right).sum(axis=0)
        return p * (self.right - policy)


@dataclass(frozen=True, eq=False)
class Geometry:
    """Scores before training, exact: per training prompt [S, P] and pooled."""

    pass_rates: Array
    sensitivity: Array  # ℓ = ‖∇p‖²
    success_mean: Array  # ‖μ‖²
    success_noise: Array  # tr Σ
    failure_noise: Array  # tr Σ_f
    energy: Array  # E‖S‖²
    kappa: float  # that gives the κ-model the true Σ ℓ at the true mean energy: Σ ℓ / (E‖S‖² Σ p²q²), at most 1
    cosine: float  # ρ: ⟨∇p_x, ∇p_y⟩ relative to ‖∇p_x‖‖∇p_y‖, sums over pairs of different prompts


def geometry(world: World) -> Geometry:
    """Score geometry of a world's training prompts before training, by summing over the answers."""
    train = slice(world.num_train)
    policy, right = world.policy(world.start(1), train)[..., 0], world.right[:, :, train]
    p = (policy * right).sum(axis=0)
    lengths = (world.features[:, train] ** 2).sum(axis=-1)  # ‖φ‖²
    extra = (world.noise**2 * len(policy) * world.features.shape[-1])[:, None]
    success_mean = lengths * ((right - policy) ** 2).sum(axis=0)  # one right answer: its score is μ
    others = policy * (1 - right) / (1 - p)
    gradient = p * (right - policy)
    sensitivity = p**2 * success_mean
    energy = lengths * (1 - (policy**2).sum(axis=0)) + extra
    directions = np.einsum("vsp,spd->vsd", gradient, world.features[:, train])
    norms = np.sqrt(sensitivity)
    between = (directions**2).sum(axis=(0, 2)) - sensitivity.sum(axis=1)
    return Geometry(
        pass_rates=p,
        sensitivity=sensitivity,
        success_mean=success_mean,
        success_noise=np.broadcast_to(extra, p.shape),
        failure_noise=lengths * (1 - (others**2).sum(axis=0)) + extra,
        energy=energy,
        kappa=min(float(sensitivity.sum() / (energy.mean() * ((p * (1 - p)) ** 2).sum())), 1.0),
        cosine=float(between.sum() / (norms.sum(axis=1) ** 2 - sensitivity.sum(axis=1)).sum()),
    )


def _draw_one(environment: str, rates: Array, num_train: int, seed: int) -> tuple[Array, Array, Array]:
    """Features [P, D], offsets [V, P] and right answers [V, P] of one seed."""
    kind = ENVIRONMENTS[environment]
    # The noisy environments are the weak one with noise, feature by feature.
    rng = np.random.default_rng([kind.answers, kind.features or 0, key("features"), seed])
    if kind.features is None:
        rates = rates[:num_train]
        features, _ = np.linalg.qr(rng.standard_normal((num_train, num_train)))
        answer = rng.integers(kind.answers, size=num_train)
    else:
        features = rng.standard_normal((rates.size, kind.features))
        features /= np.linalg.norm(features, axis=1, keepdims=True)
        if kind.graded:
            features = np.sqrt(1 - kind.graded) * features + np.sqrt(kind.graded) * _grades(rates, kind.features)
            features /= np.linalg.norm(features, axis=1, keepdims=True)
        teacher = rng.standard_normal((kind.features, kind.answers))
        answer = np.argmax(features @ teacher, axis=1)
    right = np.eye(kind.answers)[answer].T
    wrong = rng.standard_normal(right.shape) * (1 - right)
    # logit p = c_right − log Σ exp c_wrong
    others = np.log((np.exp(wrong) * (1 - right)).sum(axis=0))
    offsets = np.where(right == 1, np.log(rates) - np.log1p(-rates) + others, wrong)
    return features, offsets, right


def _grades(rates: Array, features: int) -> Array:
    """Unit vectors [P, D] that point the same way for prompts of similar difficulty: bumps along their rank."""
    rank = np.argsort(np.argsort(rates)) / max(rates.size - 1, 1) * (_GRADES - 1)
    bumps = np.exp(-((rank[:, None] - np.arange(_GRADES)) ** 2) / (2 * _REACH**2))
    placed = np.zeros((rates.size, features))
    placed[:, :_GRADES] = bumps / np.linalg.norm(bumps, axis=1, keepdims=True)
    return placed
