"""The scale that an optimizer feels: how large the advantages are, next to those that its rate was tuned under. E31.

SGD-like optimizers take steps in proportion to the advantages, so a rate tuned under a reference (usually GRPO) keeps
its meaning when multiplied by RMS_reference/RMS. Adam and its kin divide by the gradient's own size and need no other
rate; there, scale matters to what is added to the gradient or bounds it: KL and entropy weights, max_grad_norm, ε.
Folding the multiplier into the advantages keeps those.
"""

import math
import warnings
from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.optim import Optimizer

from rl2ml_core.checks import finite_number
from rl2ml_core.errors import InvalidInput
from rl2ml_core.objective.objective import Objective
from rl2ml_core.objective.population import HasPopulation, Population
from rl2ml_core.training.advantages import GroupAdvantages
from rl2ml_core.training.lookup import Tables, require_tables, table_of

__all__ = ["AdvantageScale"]


class AdvantageScale:
    """Running mean squares of the advantages and of a reference's, and the multiplier between them.

    The one object here that changes as it is used; trainers save it through `state_dict`.

    Args:
        reference: what the learning rate was tuned under: an objective, a table or a known trainer's name ("grpo"),
            evaluated on the same groups; or the RMS of its advantages, a number.
        fold: whether `step` multiplies the advantages; the learning rate is then left alone.
        decay: of the mean squares per step, 0 ≤ decay < 1; 0.95 remembers about twenty steps.
        limits: least and largest multiplier.

    Raises:
        InvalidInput: a value outside its range.
    """

    def __init__(
        self,
        reference: Tables | float,
        *,
        fold: bool = False,
        decay: float = 0.95,
        limits: tuple[float, float] = (0.1, 10.0),
    ) -> None:
        self._reference: Tables | float = reference
        if isinstance(reference, int | float):
            self._reference = finite_number(reference, "reference", above=0)
        else:
            require_tables(reference, "reference")
        self.fold = fold
        self.decay = finite_number(decay, "decay", minimum=0)
        if self.decay >= 1:
            raise InvalidInput(f"decay must be below 1; got {decay:g}", field="decay")
        ordered = tuple(finite_number(limit, "limits", above=0) for limit in limits)
        if len(ordered) != 2 or ordered[0] > ordered[1]:
            raise InvalidInput(f"limits must be (least, largest); got {limits}", field="limits")
        self.limits = ordered
        # Decaying sums of the mean squares, ours and the reference's, and of their weights: their quotients are means
        # from the first step on.
        self._own = self._other = self._weight = 0.0

    @classmethod
    def from_pilot(
        cls,
        objective: Tables,
        reference: Tables | float,
        num_rollouts: int,
        population: "Population | HasPopulation | None" = None,
        *,
        fold: bool = False,
        decay: float = 0.95,
        limits: tuple[float, float] = (0.1, 10.0),
    ) -> "AdvantageScale":
        """Begin with the multiplier from theory: both RMS over a pilot's population (default: the objective's), E14.

        Raises:
            InvalidInput: as the constructor; no population, or no table for groups of `num_rollouts`.
        """
        if population is None and isinstance(objective, Objective):
            population = objective.population
        if population is None:
            raise InvalidInput("population must be given where the objective holds none; got None", field="population")
        scale = cls(reference, fold=fold, decay=decay, limits=limits)
        known = scale._reference
        scale._own = table_of(objective, num_rollouts).rms(population) ** 2
        scale._other = (known if isinstance(known, float) else table_of(known, num_rollouts).rms(population)) ** 2
        scale._weight = 1.0
        return scale

    @property
    def advantage_rms(self) -> float | None:
        """Running RMS of the advantages; None before anything is known."""
        return math.sqrt(self._own / self._weight) if self._weight else None

    @property
    def multiplier(self) -> float:
        """RMS_reference/RMS within `limits`; 1 where nothing is known, or either is 0 so far."""
        if not self._own or not self._other:
            return 1.0
        least, largest = self.limits
        return min(max(math.sqrt(self._other / self._own), least), largest)

    def step(self, groups: GroupAdvantages, process_group: "dist.ProcessGroup | None" = None) -> Tensor:
        """Take in one step's advantages and return them for the loss: as they are, or multiplied with `fold`.

        They are multiplied by what the steps *before* said: a multiplier that knew them would correlate with them, and
        the estimator would be biased.

        Args:
            process_group: ranks to average over, all of which must call; None for this rank alone.

        Raises:
            InvalidInput: advantages that are not finite.
        """
        factor = self.multiplier
        own = groups.squares()
        failed: InvalidInput | None = None
        try:
            other = own if isinstance(self._reference, float) else groups.squares(self._reference)
        except InvalidInput as error:
            failed, other = error, torch.zeros_like(own)
        sums = torch.cat([own, other, own.new_tensor([failed is not None])])
        if process_group is not None:
            dist.all_reduce(sums, group=process_group)
        total, rows, other_total, other_rows, failures = sums.tolist()
        if failures:
            raise failed or InvalidInput("reference must have tables for the groups of every rank", field="reference")
        if not math.isfinite(total):
            raise InvalidInput(f"advantages must be finite; got a sum of squares of {total}", field="groups")
        if rows:
            fixed = self._reference**2 if isinstance(self._reference, float) else None
            self._learn(total / rows, other_total / other_rows if fixed is None else fixed)
        return groups.advantages * factor if self.fold else groups.advantages

    def _learn(self, own: float, other: float) -> None:
        new = 1 - self.decay
        self._own += new * (own - self._own)
        self._other += new * (other - self._other)
        self._weight += new * (1 - self._weight)

    def learning_rate_multiplier(self, optimizer: Optimizer) -> float:
        """What to multiply the rate that was tuned under the reference by: `multiplier` for SGD, else 1 and a warning.

        Read it before `step`, or in a scheduler that steps after the optimizer: a rate that knows a step's own
        advantages correlates with them.
        """
        name = type(_unwrapped(optimizer)).__name__
        if self.fold:
            reason = "the multiplier is folded into the advantages already"
        elif "sgd" in name.lower() and "sign" not in name.lower():
            return self.multiplier
        else:
            reason = f"steps of {name} do not grow with the advantages"
        warnings.warn(
            f"{reason}: scaling the learning rate as well would correct twice, so it stays as it was tuned",
            stacklevel=2,
        )
        return 1.0

    def state_dict(self) -> dict[str, float]:
        """The running sums, for a checkpoint; what the constructor takes is not in it."""
        return {"own": self._own, "other": self._other, "weight": self._weight}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint.

        Raises:
            InvalidInput: not a state of `state_dict`.
        """
        if not isinstance(state, Mapping) or set(state) != set(self.state_dict()):
            raise InvalidInput(f"state must be what `state_dict` gave; got {state!r:.60}", field="state")
        values = {name: finite_number(value, f"state[{name!r}]", minimum=0) for name, value in state.items()}
        self._own, self._other, self._weight = values["own"], values["other"], values["weight"]


def _unwrapped(optimizer: Optimizer) -> Optimizer:
    """The optimizer inside the wrappers of accelerate and the like."""
    while isinstance(inner := getattr(optimizer, "optimizer", None), Optimizer):
        optimizer = inner
    return optimizer
