"""From a gradient to a step. Every rule has one size for all arms.

Weights and gradients are [V, S, D, A]. Squares [2, S, A] are mean squares of the advantages, a trajectory's own and
those that GRPO would give to the same groups: rates are tuned under GRPO and multiplied by the quotient of the roots.
"""

from typing import Protocol

import numpy as np

from rl2ml_core.checks import Array

STEPS = ("normalized", "rms", "adam", "sgd")
#: Multiples of sgd's rate; an arm's best one counts.
SGD_RATES = (1 / 9, 1 / 3, 1.0, 3.0, 9.0)

#: As `rl2ml_core.training.AdvantageScale` has it: the decay of its mean squares and the limits of its multiplier.
_DECAY = 0.95
_LIMITS = (0.1, 10.0)
_ADAM = (0.9, 0.999, 1e-8)
_TINY = 1e-12


class Step(Protocol):
    """A rule with the state of its trajectories."""

    def __call__(self, weights: Array, gradient: Array, squares: Array, active: Array | None) -> None:
        """Move the weights in place (the gradient is overwritten).

        `squares` are this step's. Trajectories outside `active` [S, A] stay as they are.
        """
        ...


class Normalized:
    """Every step has the same length."""

    def __init__(self, length: float) -> None:
        self._length = length

    def __call__(self, weights: Array, gradient: Array, squares: Array, active: Array | None) -> None:  # noqa: ARG002
        norms = np.sqrt(np.einsum("vsda,vsda->sa", gradient, gradient))
        _move(weights, gradient, self._length * (norms > _TINY) / np.maximum(norms, _TINY), active)


class RmsCalibrated:
    """A rate times RMS_GRPO/RMS, running: of the steps before, so that nothing is biased."""

    def __init__(self, rate: float, squares: Array) -> None:
        self._rate = rate
        self._squares = squares.copy()  # expected at the start

    def __call__(self, weights: Array, gradient: Array, squares: Array, active: Array | None) -> None:
        _move(weights, gradient, self._rate * _multiplier(self._squares), active)
        new = _DECAY * self._squares + (1 - _DECAY) * squares
        self._squares = new if active is None else np.where(active, new, self._squares)


class Sgd:
    """A constant rate, times the RMS_GRPO/RMS that is expected at the start."""

    def __init__(self, rate: float, squares: Array) -> None:
        self._rate = rate * _multiplier(squares)

    def __call__(self, weights: Array, gradient: Array, squares: Array, active: Array | None) -> None:  # noqa: ARG002
        _move(weights, gradient, self._rate, active)


class Adam:
    """Adam with its usual constants."""

    def __init__(self, rate: float, trajectories: tuple[int, ...]) -> None:
        self._rate = rate
        self._steps = np.zeros(trajectories)
        self._mean: Array | float = 0.0
        self._square: Array | float = 0.0

    def __call__(self, weights: Array, gradient: Array, squares: Array, active: Array | None) -> None:  # noqa: ARG002
        first, second, epsilon = _ADAM
        if active is None:
            self._steps += 1
            self._mean *= first
            self._square *= second
            self._mean += (1 - first) * gradient
            self._square += (1 - second) * np.square(gradient, out=gradient)
        else:
            on = active[:, None, :]
            self._steps += active
            self._mean = np.where(on, first * self._mean + (1 - first) * gradient, self._mean)
            self._square = np.where(on, second * self._square + (1 - second) * gradient**2, self._square)
        steps = np.maximum(self._steps, 1)
        corrected = np.sqrt(1 - second**steps)
        np.sqrt(self._square, out=gradient)
        gradient += epsilon * corrected[:, None, :]
        np.divide(self._mean, gradient, out=gradient)
        _move(weights, gradient, self._rate * corrected / (1 - first**steps), active)


def make_step(name: str, size: float, squares: Array) -> Step:
    """A rule with fresh state; `squares` are expected at the start."""
    if name == "normalized":
        return Normalized(size)
    if name == "adam":
        return Adam(size, squares.shape[1:])
    return {"rms": RmsCalibrated, "sgd": Sgd}[name](size, squares)


def _multiplier(squares: Array) -> Array:
    own, reference = squares
    known = (own > 0) & (reference > 0)
    quotient = np.where(known, reference, 1) / np.where(known, own, 1)
    return np.asarray(np.clip(np.sqrt(quotient), *_LIMITS))


def _move(weights: Array, direction: Array, scale: Array, active: Array | None) -> None:
    direction *= (scale if active is None else scale * active)[:, None, :]
    weights += direction
