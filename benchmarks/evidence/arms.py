"""What is compared: every γ of the grid with every baseline, and trainers as they ship. Shapes: S seeds, A arms."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

import rl2ml_core as rl2ml
from rl2ml_core.checks import Array
from rl2ml_core.objective.baselines import Estimator

GAMMAS = tuple(np.linspace(0, 2, 9).tolist())
#: Baselines, with "bayes" also solved anew from the counts of recent steps.
RECENT = "bayes_recent"
BASELINES = ("bayes", RECENT, "leave_one_out", "minimum_variance", "group_centered", "none", "score")
TRAINERS = ("grpo", "dr_grpo", "rloo", "maxrl_centered", "maxrl", "pkpo", "dapo")


@dataclass(frozen=True)
class Arm:
    """A member of the family with its baseline, or a known trainer."""

    name: str
    gamma: float | None = None
    baseline: str | None = None

    @property
    def drops_equal_groups(self) -> bool:
        """Whether groups of equal rewards are discarded and others generated in their place."""
        return self.gamma is None and rl2ml.KNOWN_TRAINERS[self.name].drops_equal_groups


ARMS = (
    *(Arm(f"{baseline} {gamma:g}", gamma, baseline) for baseline in BASELINES for gamma in GAMMAS),
    *(Arm(trainer) for trainer in TRAINERS),
)


def advantage_tables(
    arms: Sequence[Arm], num_rollouts: int, populations: Sequence[rl2ml.Population]
) -> tuple[Array, Array]:
    """Success and failure advantages by success count, two arrays [N+1, S, A]; a population per seed."""
    shape = (num_rollouts + 1, len(populations), len(arms))
    success, failure = np.zeros(shape), np.zeros(shape)
    for name in dict.fromkeys(arm.baseline for arm in arms if arm.baseline is not None):
        where = [a for a, arm in enumerate(arms) if arm.baseline == name]
        gammas = np.array([arms[a].gamma for a in where])
        shipped = "bayes" if name == RECENT else name
        for s, population in enumerate(populations):
            tables = Estimator.named(shipped, num_rollouts, population).tables(gammas)
            success[:, s, where], failure[:, s, where] = (table.T for table in tables)
    for a, arm in enumerate(arms):
        if arm.gamma is None:
            table = rl2ml.known_table(arm.name, num_rollouts)
            success[:, :, a], failure[:, :, a] = table.success[:, None], table.failure[:, None]
    return success, failure
