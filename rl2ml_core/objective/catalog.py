"""What known trainers really do, as advantage tables.

One literal mapping from a name to a function of N. A table's scale matters to learning rates, not to the objective.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from rl2ml_core.checks import Array, choice, finite_number, integer
from rl2ml_core.errors import InvalidInput
from rl2ml_core.objective.advantages import AdvantageTable
from rl2ml_core.objective.family import MAX_ROLLOUTS

__all__ = ["KNOWN_TRAINERS", "KnownTrainer", "known_table"]


@dataclass(frozen=True)
class KnownTrainer:
    """A trainer's advantages: (K = 0..N [N+1], N) → success, failure [N+1]; entries without a rollout are ignored."""

    title: str
    source: str
    advantages: Callable[..., tuple[Array, Array]]
    least_rollouts: int = 2


def _reinforce(k: Array, _: int) -> tuple[Array, Array]:
    return np.ones_like(k), np.zeros_like(k)


def _rloo(k: Array, n: int) -> tuple[Array, Array]:
    return (n - k) / (n - 1), -k / (n - 1)


def _dr_grpo(k: Array, n: int) -> tuple[Array, Array]:
    return 1 - k / n, -k / n


def _grpo(k: Array, n: int, std: str = "sample", epsilon: float = 1e-4) -> tuple[Array, Array]:
    choice(std, "std", ("sample", "population"))
    epsilon = finite_number(epsilon, "epsilon", minimum=0)
    divisor = n - 1 if std == "sample" else n
    scale = np.sqrt(k * (n - k) / (n * divisor)) + epsilon
    mixed = (k > 0) & (k < n)  # with equal rewards the centered reward is 0, whatever the scale
    scale = np.where(mixed, scale, 1)
    return np.where(mixed, 1 - k / n, 0) / scale, np.where(mixed, -k / n, 0) / scale


def _maxrl_centered(k: Array, n: int) -> tuple[Array, Array]:
    return (n - k) / np.maximum(k, 1), np.where(k > 0, -1.0, 0.0)


def _maxrl(k: Array, n: int) -> tuple[Array, Array]:
    return n / np.maximum(k, 1) - 1, -np.ones_like(k)


KNOWN_TRAINERS = {
    "reinforce": KnownTrainer("REINFORCE without a baseline", "definition", _reinforce, least_rollouts=1),
    "rloo": KnownTrainer("RLOO: reward less the mean of the others", "arXiv:2402.14740", _rloo),
    "grpo": KnownTrainer("GRPO: centered reward over its standard deviation", "arXiv:2402.03300; TRL, verl", _grpo),
    "dr_grpo": KnownTrainer("Dr. GRPO: centered reward", "arXiv:2503.20783", _dr_grpo),
    "maxrl_centered": KnownTrainer(
        "MaxRL as shipped: reward over mean, less one; all-fail groups dropped (order N−1)",
        "arXiv:2602.02710",
        _maxrl_centered,
    ),
    "maxrl": KnownTrainer("MaxRL with its full control variate", "arXiv:2602.02710", _maxrl, least_rollouts=1),
}


def known_table(name: str, num_rollouts: int, **parameters: float | str) -> AdvantageTable:
    """The advantage table of a known trainer.

    Args:
        name: a key of `KNOWN_TRAINERS`.
        num_rollouts: N.
        parameters: of "grpo": std = "sample" (default; TRL, verl) or "population", epsilon = 1e-4 (TRL; verl: 1e-6).

    Raises:
        InvalidInput: an unknown name or parameter, or a group too small for the trainer.
    """
    trainer = KNOWN_TRAINERS[choice(name, "name", KNOWN_TRAINERS)]
    n = integer(num_rollouts, "num_rollouts", minimum=1, maximum=MAX_ROLLOUTS)
    if n < trainer.least_rollouts:
        raise InvalidInput(f"{name} needs at least {trainer.least_rollouts} rollouts per prompt; got {n}")
    accepted = trainer.advantages.__code__.co_varnames[2 : trainer.advantages.__code__.co_argcount]
    for parameter in parameters:
        if parameter not in accepted:
            raise InvalidInput(f"{name} takes {', '.join(accepted) or 'no parameters'}; got {parameter}")
    return _table(trainer, n, parameters) if parameters else _default_table(name, n)


@lru_cache(maxsize=16)
def _default_table(name: str, n: int) -> AdvantageTable:
    """A table is immutable, so one serves all callers."""
    return _table(KNOWN_TRAINERS[name], n, {})


def _table(trainer: KnownTrainer, n: int, parameters: Mapping[str, float | str]) -> AdvantageTable:
    success, failure = trainer.advantages(np.arange(n + 1.0), n, **parameters)
    success[0] = failure[-1] = 0
    return AdvantageTable(success, failure)
