"""What known trainers really do, as advantage tables.

One literal mapping from a name to a function of N. A table's scale matters to learning rates, not to the objective.
RL2ML's own direct estimator and control variate are `rl2ml_table` with the baselines "none" and "score". Trainers whose
advantages are no function of a group's success count (GPG's factor over the batch, REINFORCE++'s whitening of it, OPO's
lengths) have no table. What is tabulated is a trainer's advantage alone: clipping and length normalization are apart.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from rl2ml_core.checks import Array, choice, finite_number, integer
from rl2ml_core.errors import InvalidInput
from rl2ml_core.objective.advantages import AdvantageTable
from rl2ml_core.objective.family import MAX_ROLLOUTS

__all__ = ["KNOWN_TRAINERS", "KnownTrainer", "Parameter", "known_table", "log_all_missed"]

#: k of the pass@k trainers where none is given: ours, theirs vary.
_PKPO_K, _PASS_AT_K_TRAINING_K = 8, 4
#: Beyond it powers of K/N or 1 − K/N leave nothing but one success count.
MAX_POWER = 20.0


@dataclass(frozen=True)
class Parameter:
    """A parameter of a trainer: its default (None where it depends on the group size) and what it is, in a sentence."""

    default: float | str | None
    meaning: str


@dataclass(frozen=True)
class KnownTrainer:
    """A trainer's advantages: (K = 0..N [N+1], N, parameters) → success, failure [N+1].

    Entries without a rollout (success[0], failure[N]) are ignored.
    """

    label: str  # as a sentence names it
    title: str
    source: str
    advantages: Callable[..., tuple[Array, Array]]
    least_rollouts: int = 2
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    drops_equal_groups: bool = False  # groups of equal rewards are discarded and others generated in their place
    note: str = ""  # where what it does differs from what its name says


def _reinforce(k: Array, _: int) -> tuple[Array, Array]:
    return np.ones_like(k), np.zeros_like(k)


def _rloo(k: Array, n: int) -> tuple[Array, Array]:
    return (n - k) / (n - 1), -k / (n - 1)


def _dr_grpo(k: Array, n: int) -> tuple[Array, Array]:
    return 1 - k / n, -k / n


def _grpo(k: Array, n: int, std: str, epsilon: float) -> tuple[Array, Array]:
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


# `k` is a number of attempts to those who use these two, so the success count is `count`.
def _pkpo(count: Array, n: int, k: int | None) -> tuple[Array, Array]:
    k = min(_PKPO_K, n) if k is None else integer(k, "k", minimum=1, maximum=n)
    failure = np.zeros(n + 1)
    failure[:-1] = k * -np.expm1(log_all_missed(n - 1, k - 1))  # k ρ(N−1, K, k−1)
    return np.full_like(count, k), failure


def _pass_at_k_training(count: Array, n: int, k: int | None) -> tuple[Array, Array]:
    # With k = N every group with a success has ρ = 1: no group would have an advantage.
    k = min(_PASS_AT_K_TRAINING_K, n - 1) if k is None else integer(k, "k", minimum=1, maximum=n - 1)
    logs = log_all_missed(n, k)
    missed, found = np.exp(logs), -np.expm1(logs)  # 1−ρ and ρ
    mixed = (missed > 0) & (found > 0)  # elsewhere σ = 0
    # (1−ρ)/σ = √((1−ρ)/ρ). With C(N−K−1,k−1)/C(N−1,k−1) = (1−ρ) N/(N−K) the failure's (1 − ρ − that)/σ is −K/(N−K)
    # times as much, and nothing cancels.
    success = np.sqrt(np.where(mixed, missed, 0) / np.where(mixed, found, 1))
    return success, -count / np.maximum(n - count, 1) * success


def _f_grpo(k: Array, n: int, gamma_f: float, base: str) -> tuple[Array, Array]:
    choice(base, "base", _FOCAL_BASES)
    power = finite_number(gamma_f, "gamma_f", minimum=0, maximum=MAX_POWER)
    focus = (1 - k / n) ** power
    success, failure = _advantages(KNOWN_TRAINERS[base], k, n, {})
    return focus * success, focus * failure


def _garl(k: Array, n: int, q: float) -> tuple[Array, Array]:
    power = finite_number(q, "q", minimum=0, maximum=MAX_POWER)
    return (np.maximum(k, 1) / n) ** -power, np.zeros_like(k)


def log_all_missed(n: int, draws: int) -> Array:
    """log C(n−c, draws)/C(n, draws), c = 0..n, [n+1]: that draws without replacement miss all of c among n. E24.

    A sum of log(1 − draws/(n−c)): at n = 65,536 differences of log-gammas would lose eight digits.
    """
    logs = np.full(n + 1, -np.inf)
    logs[0] = 0
    logs[1 : n - draws + 1] = np.cumsum(np.log1p(-draws / np.arange(n, draws, -1.0)))
    return logs


_FOCAL_BASES = ("grpo", "rloo", "dr_grpo", "maxrl_centered", "maxrl")

_STD = Parameter("sample", "the standard deviation's divisor: sample (N−1) or population (N)")

KNOWN_TRAINERS = {
    "reinforce": KnownTrainer("REINFORCE", "REINFORCE without a baseline", "definition", _reinforce, least_rollouts=1),
    "rloo": KnownTrainer("RLOO", "RLOO: reward less the mean of the others", "arXiv:2402.14740", _rloo),
    "grpo": KnownTrainer(
        "GRPO",
        "GRPO: centered reward over its standard deviation",
        "arXiv:2402.03300; TRL, verl",
        _grpo,
        parameters={
            "std": _STD,
            "epsilon": Parameter(1e-4, "added to the standard deviation: 1e-4 in TRL, 1e-6 in verl"),
        },
    ),
    "dr_grpo": KnownTrainer("Dr. GRPO", "Dr. GRPO: centered reward", "arXiv:2503.20783", _dr_grpo),
    "maxrl_centered": KnownTrainer(
        "MaxRL as shipped",
        "MaxRL as shipped: reward over mean, less one; all-fail groups dropped (order N−1)",
        "arXiv:2602.02710",
        _maxrl_centered,
        note="Order N−1: dropping all-fail groups costs (1−p)^(N−1) of the weight.",
    ),
    "maxrl": KnownTrainer("MaxRL", "MaxRL with its full control variate", "arXiv:2602.02710", _maxrl, least_rollouts=1),
    "dapo": KnownTrainer(
        "DAPO",
        "DAPO: GRPO on groups of mixed rewards, refilled until the batch is full",
        "arXiv:2503.14476",
        _grpo,
        parameters={"std": _STD, "epsilon": Parameter(1e-6, "added to the standard deviation: 1e-6 in verl")},
        drops_equal_groups=True,
        note="Refilling scales the mean gradient alike on every prompt: what is optimized is GRPO's objective.",
    ),
    "pkpo": KnownTrainer(
        "PKPO",
        "PKPO: the unbiased gradient of pass@k",
        "arXiv:2505.15201",
        _pkpo,
        least_rollouts=1,
        parameters={"k": Parameter(None, f"attempts of pass@k, 1 to N; {_PKPO_K}, or N in smaller groups")},
    ),
    "pass_at_k_training": KnownTrainer(
        "Pass@k training",
        "Pass@k training: the mean, over the k-subsets of a rollout, of their normalized pass@k reward",
        "arXiv:2508.10751",
        _pass_at_k_training,
        parameters={
            "k": Parameter(None, f"attempts per subset, 1 to N−1; {_PASS_AT_K_TRAINING_K}, or N−1 in smaller groups")
        },
        note="Dividing by the deviation of a group's subsets makes it another objective than pass@k, but for k = N−1.",
    ),
    "f_grpo": KnownTrainer(
        "F-GRPO",
        "F-GRPO: another trainer's advantage times (1−K/N)^gamma_f",
        "arXiv:2602.06717",
        _f_grpo,
        parameters={
            "gamma_f": Parameter(0.5, f"the focal power, 0 to {MAX_POWER:g}; 0 leaves the base as it is"),
            "base": Parameter("grpo", f"whose advantage is scaled: {', '.join(_FOCAL_BASES)}"),
        },
    ),
    "garl": KnownTrainer(
        "GARL",
        "GARL: reward times the group's plug-in (K/N)^−q (Tsallis J_q)",
        "arXiv:2604.25907",
        _garl,
        least_rollouts=1,
        parameters={"q": Parameter(0.75, f"the Tsallis index, 0 (RL) to {MAX_POWER:g}; 1 is maximum likelihood")},
        note="For q > 0 the plug-in K/N makes it biased for the weight p^−q that it aims at.",
    ),
}


def known_table(name: str, num_rollouts: int, **parameters: float | str | None) -> AdvantageTable:
    """The advantage table of a known trainer.

    Args:
        name: a key of `KNOWN_TRAINERS`.
        num_rollouts: N.
        parameters: those that `KNOWN_TRAINERS[name].parameters` lists with their defaults: std and epsilon of "grpo"
            and "dapo", k of "pkpo" and "pass_at_k_training", gamma_f and base of "f_grpo", q of "garl".

    Raises:
        InvalidInput: an unknown name or parameter, a value outside its range, or a group too small for the trainer.
    """
    trainer = KNOWN_TRAINERS[choice(name, "name", KNOWN_TRAINERS)]
    n = integer(num_rollouts, "num_rollouts", minimum=1, maximum=MAX_ROLLOUTS)
    if n < trainer.least_rollouts:
        raise InvalidInput(
            f"{name} needs at least {trainer.least_rollouts} rollouts per prompt; got {n}", field="num_rollouts"
        )
    check_parameters(parameters, trainer.parameters, name)
    return _table(trainer, n, parameters) if parameters else _default_table(name, n)


def check_parameters(given: Iterable[str], accepted: Iterable[str], what: str) -> None:
    """Refuse the first name that is not accepted."""
    known = tuple(accepted)
    for name in given:
        if name not in known:
            raise InvalidInput(f"{what} takes {', '.join(known) or 'no parameters'}; got {name}", field=name)


@lru_cache(maxsize=32)
def _default_table(name: str, n: int) -> AdvantageTable:
    """A table is immutable, so one serves all callers."""
    return _table(KNOWN_TRAINERS[name], n, {})


def _table(trainer: KnownTrainer, n: int, parameters: Mapping[str, float | str | None]) -> AdvantageTable:
    success, failure = _advantages(trainer, np.arange(n + 1.0), n, parameters)
    success[0] = failure[-1] = 0
    return AdvantageTable(success, failure)


def _advantages(
    trainer: KnownTrainer, k: Array, n: int, parameters: Mapping[str, float | str | None]
) -> tuple[Array, Array]:
    defaults = {name: parameter.default for name, parameter in trainer.parameters.items()}
    return trainer.advantages(k, n, **defaults | dict(parameters))
