"""Slow oracles that share no code with the library: literal sums in 320-bit arithmetic, and full enumeration of groups.

Shapes: A atoms (actions of a policy), D parameters, N rollouts.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import mpmath
import numpy as np
import pytest

BITS = 320


def to_fixed_point(value: float) -> int:
    numerator, denominator = float(value).as_integer_ratio()
    return (numerator << BITS) // denominator


def literal_sum(pass_rate: float, gamma: float, num_terms: int) -> mpmath.mpf:
    """Σ_{m<M} c_m (1−p)^m term by term, c_{m+1} = c_m (γ+m)/(m+1), with integers scaled by 2^320."""
    total = _sum_of_integers(to_fixed_point(gamma), (1 << BITS) - to_fixed_point(pass_rate), num_terms)
    with mpmath.workdps(90):
        return mpmath.mpf(total) / (1 << BITS)


@cache
def _sum_of_integers(g: int, q: int, num_terms: int) -> int:
    term = total = 1 << BITS
    for m in range(num_terms - 1):
        term = (term * (g + (m << BITS)) // (m + 1) * q) >> (2 * BITS)
        if not term:
            break
        total += term
    return total


def literal_objective(pass_rate: float, gamma: float, num_terms: int) -> mpmath.mpf:
    """Σ_{k≤M} (c_{k−1}/k) (1 − (1−p)^k) term by term, in the same arithmetic."""
    one = 1 << BITS
    g, q = to_fixed_point(gamma), one - to_fixed_point(pass_rate)
    coefficient = power = one
    total = 0
    for k in range(1, num_terms + 1):
        power = (power * q) >> BITS
        total += (coefficient * (one - power) // k) >> BITS
        coefficient = (coefficient * (g + ((k - 1) << BITS)) // k) >> BITS
    with mpmath.workdps(90):
        return mpmath.mpf(total) / one


@dataclass(frozen=True)
class Atoms:
    """Responses that can be drawn: probabilities [A], rewards [A] of 0 and 1, score vectors [A, D]."""

    probabilities: np.ndarray
    rewards: np.ndarray
    scores: np.ndarray

    @property
    def pass_rate(self) -> float:
        return float(self.probabilities[self.rewards == 1].sum())

    def moments(self, reward: int) -> tuple[np.ndarray, float]:
        """Mean vector and trace of the covariance of the score, given the reward."""
        chosen = self.rewards == reward
        law = self.probabilities[chosen] / self.probabilities[chosen].sum()
        mean = law @ self.scores[chosen]
        return mean, float(law @ (self.scores[chosen] ** 2).sum(axis=1) - mean @ mean)

    @property
    def gradient(self) -> np.ndarray:
        """∇p = E[r S]."""
        return (self.probabilities * self.rewards) @ self.scores

    def enumerate(self, success, failure) -> tuple[np.ndarray, float]:
        """E ĝ and E‖ĝ‖² over all A^N groups, ĝ = (1/N) Σ A_i S_i with s_K for successes and t_K for failures."""
        num_rollouts = len(success) - 1
        groups = np.indices((len(self.rewards),) * num_rollouts).reshape(num_rollouts, -1).T
        chance = self.probabilities[groups].prod(axis=1)
        rewards = self.rewards[groups]
        count = rewards.sum(axis=1)[:, None]
        advantages = np.where(rewards == 1, np.asarray(success)[count], np.asarray(failure)[count])
        estimates = (advantages[:, :, None] * self.scores[groups]).mean(axis=1)
        return chance @ estimates, float(chance @ (estimates**2).sum(axis=1))


def softmax_policy(logits, rewards) -> Atoms:
    """One softmax over A actions; the score of action a is e_a − π."""
    logits = np.asarray(logits, float)
    probabilities = np.exp(logits - logits.max())
    probabilities /= probabilities.sum()
    return Atoms(probabilities, np.asarray(rewards), np.eye(len(logits)) - probabilities)


@pytest.fixture(scope="session")
def literal_weight() -> Callable[[float, float, int], mpmath.mpf]:
    return literal_sum


@pytest.fixture(scope="session")
def literal_value() -> Callable[[float, float, int], mpmath.mpf]:
    return literal_objective


@pytest.fixture(scope="session")
def make_atoms() -> type[Atoms]:
    return Atoms


@pytest.fixture(scope="session")
def softmax() -> Callable[..., Atoms]:
    return softmax_policy


@pytest.fixture(scope="session")
def log_beta_binomial() -> Callable[[float, float, int, int], mpmath.mpf]:
    """log of C(n,m) B(a+m, b+n−m) / B(a,b), by log-gammas with 50 digits."""

    def law(a: float, b: float, degree: int, m: int) -> mpmath.mpf:
        with mpmath.workdps(50):
            a, b, gamma = mpmath.mpf(a), mpmath.mpf(b), mpmath.loggamma
            choose = gamma(degree + 1) - gamma(m + 1) - gamma(degree - m + 1)
            beta_ratio = gamma(a + m) + gamma(b + degree - m) - gamma(a + b + degree)
            return choose + beta_ratio - gamma(a) - gamma(b) + gamma(a + b)

    return law


@pytest.fixture(scope="session")
def log_binomial() -> Callable[[float, int, int], mpmath.mpf]:
    """log of C(n,m) p^m (1−p)^(n−m), with 50 digits; −∞ where impossible."""

    def law(p: float, degree: int, m: int) -> mpmath.mpf:
        with mpmath.workdps(50):
            p, gamma = mpmath.mpf(p), mpmath.loggamma
            if (p == 0 and m > 0) or (p == 1 and m < degree):
                return mpmath.mpf("-inf")
            powers = (m * mpmath.log(p) if m else 0) + ((degree - m) * mpmath.log1p(-p) if m < degree else 0)
            return gamma(degree + 1) - gamma(m + 1) - gamma(degree - m + 1) + powers

    return law
