"""Advantage tables on a device, so that groups of every size are looked up at once. G groups, N rollouts, K = 0..N."""

from collections import OrderedDict
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from rl2ml_core.checks import Array, choice
from rl2ml_core.errors import InvalidInput
from rl2ml_core.objective.advantages import AdvantageTable
from rl2ml_core.objective.catalog import KNOWN_TRAINERS, known_table

__all__ = ["HasTables", "Lookup", "Tables", "lookup", "require_tables", "table_of", "weight_estimates"]

_MOST_KEPT = 16  # objectives × devices; a training loop has one or two


@runtime_checkable
class HasTables(Protocol):
    """Whatever has a table for every group size, as `Objective` does. It must not change: look-ups are kept."""

    def table(self, num_rollouts: int) -> AdvantageTable:
        """The table for groups of `num_rollouts`."""
        ...


#: An objective, one table (for groups of its own size alone), or a known trainer by name.
Tables = HasTables | AdvantageTable | str


@dataclass(frozen=True, eq=False)
class Lookup:
    """Tables of some group sizes end to end: a group of N with K successes is at `starts[N] + K`.

    Args:
        begins: where each size's table begins.
        starts: the same on the device, [N_max+1]; 0 where there is no table.
        success, failure: s_K and t_K, float64.
        weight: `weight_estimates`, float64.
        largest: of all |s_K| and |t_K|.
        rounded: `success` and `failure` in other dtypes, filled by `sides`.
    """

    begins: dict[int, int]
    starts: Tensor
    success: Tensor
    failure: Tensor
    weight: Tensor
    largest: float
    rounded: dict[torch.dtype, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def sides(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """`success` and `failure`, rounded once.

        Raises:
            InvalidInput: a dtype that cannot hold them.
        """
        if dtype not in self.rounded:
            if not dtype.is_floating_point or torch.finfo(dtype).max < self.largest:
                raise InvalidInput(f"dtype must hold advantages up to {self.largest:.3g}; got {dtype}", field="dtype")
            self.rounded[dtype] = self.success.to(dtype), self.failure.to(dtype)
        return self.rounded[dtype]


_kept: OrderedDict[tuple[str | int, torch.device], tuple[Tables, Lookup]] = OrderedDict()


def lookup(objective: Tables, sizes: Collection[int], device: torch.device, first: Callable[[int], str]) -> Lookup:
    """Tables for all `sizes`, kept by objective and device, and extended when a new size turns up.

    Args:
        first: names a group of a size, for errors.

    Raises:
        InvalidInput: no tables, or none for a size.
    """
    key = (objective if isinstance(objective, str) else id(objective), device)
    kept = _kept.get(key)
    if kept is not None and all(size in kept[1].begins for size in sizes):
        return kept[1]
    require_tables(objective, "objective")
    for size in sizes:
        table_of(objective, size, first)
    if not sizes and kept is None:
        nothing = torch.zeros(0, dtype=torch.float64, device=device)
        return Lookup({}, torch.zeros(1, dtype=torch.int64, device=device), nothing, nothing, nothing, 0.0)
    found = _build(objective, sorted({*sizes, *(kept[1].begins if kept else ())}), device)
    _kept[key] = objective, found  # the objective too, so that its id stays its own
    while len(_kept) > _MOST_KEPT:
        _kept.popitem(last=False)
    return found


def require_tables(objective: Tables, name: str) -> None:
    """Refuse what has no tables at all."""
    if isinstance(objective, str):
        choice(objective, name, KNOWN_TRAINERS)
    elif not isinstance(objective, AdvantageTable | HasTables):
        raise InvalidInput(
            f"{name} must be an Objective, an AdvantageTable or the name of a known trainer; "
            f"got {type(objective).__name__}",
            field=name,
        )


def table_of(objective: Tables, size: int, first: Callable[[int], str] | None = None) -> AdvantageTable:
    """An objective's table for groups of `size`; arguments and errors as `lookup`."""
    require_tables(objective, "objective")
    try:
        if isinstance(objective, str):
            table = known_table(objective, size)
        else:
            table = objective if isinstance(objective, AdvantageTable) else objective.table(size)
        if table.num_rollouts == size:
            return table
        found = f"one for groups of {table.num_rollouts}"
    except InvalidInput as error:
        found = f"none: {error}"
    example = "" if first is None else f", such as {first(size)}"
    raise InvalidInput(
        f"objective must have a table for groups of {size}{example}; got {found}", field="objective"
    ) from None


def _build(objective: Tables, sizes: list[int], device: torch.device) -> Lookup:
    tables = [table_of(objective, size) for size in sizes]
    ends = np.cumsum([0, *(size + 1 for size in sizes)]).tolist()
    starts = torch.zeros(sizes[-1] + 1, dtype=torch.int64)
    starts[sizes] = torch.tensor(ends[:-1])
    success, failure, weight = (
        torch.from_numpy(np.concatenate(part)).to(device)
        for part in (
            [table.success for table in tables],
            [table.failure for table in tables],
            [weight_estimates(table) for table in tables],
        )
    )
    largest = max(float(np.abs(side).max()) for table in tables for side in (table.success, table.failure))
    return Lookup(dict(zip(sizes, ends, strict=False)), starts.to(device), success, failure, weight, largest)


def weight_estimates(table: AdvantageTable) -> Array:
    """Unbiased estimate of the effective weight w(p) from a group's K, K = 0..N, [N+1]. E30.

    Of the N−1 others of a rollout drawn at random K or K−1 succeeded, with chances 1 − K/N and K/N.
    """
    share = np.arange(table.num_rollouts + 1) / table.num_rollouts
    contrasts = table.contrasts
    return np.asarray(np.append((1 - share[:-1]) * contrasts, 0.0) + np.append(0.0, share[1:] * contrasts))
