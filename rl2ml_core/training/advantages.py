"""Rewards → advantages, by table look-up. Shapes: G groups of N rollouts (dense), or B rows with group ids (ragged).

A group's advantages depend on its size and its number of successes alone: those are counted, looked up in float64, and
handed to the rows. Counts are taken once per call, whatever the number of groups.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from torch import Tensor

from rl2ml_core.checks import finite_number
from rl2ml_core.errors import InvalidInput
from rl2ml_core.objective.catalog import KNOWN_TRAINERS
from rl2ml_core.pilot.histogram import PilotHistogram
from rl2ml_core.training.ids import number_keys, read_keys
from rl2ml_core.training.lookup import Lookup, Tables, lookup, require_tables

__all__ = ["GroupAdvantages", "group_advantages"]

#: Numbers in a tensor, an array or a list.
Numbers: TypeAlias = Tensor | npt.ArrayLike

_COUNTING = (torch.float32, torch.float64, torch.bool)  # whose sums of zeros and ones are exact


@dataclass(frozen=True, eq=False)
class GroupAdvantages:
    """Advantages of a batch with what they were made from.

    Args:
        advantages: [G, N] or [B], as the rewards were; 0 where a reward is missing.
        num_successes: K of every group, [G].
        num_rollouts: N of every group, its valid rows, [G].
        valid: which rewards were there, like `advantages`; None where all were.
        ids: the distinct group ids in the order of `num_successes`; None for dense rewards.
        groups: each row's place among them, [B]; None for dense rewards.
        tables: what the advantages were looked up in.

    With a process group, G counts the groups of all ranks.
    """

    advantages: Tensor
    num_successes: Tensor
    num_rollouts: Tensor
    valid: Tensor | None
    ids: Tensor | Sequence[Hashable] | None
    groups: Tensor | None
    tables: Lookup

    def metrics(self) -> dict[str, float]:
        """What to watch during training, one transfer to the host.

        - advantage_rms: over this rank's rows.
        - pass_rate: mean over groups of K/N.
        - all_fail_groups, all_success_groups: shares of groups, which trainers that divide by a deviation waste.
        - zero_advantage_groups: share of groups of which nothing is learned under this objective.
        - effective_weight: mean over groups of an unbiased estimate of w(p), E30: the objective's own weight.
        - group_size: mean N; missing_rewards: their share of this rank's rows.
        """
        k, n = self.num_successes, self.num_rollouts
        where = self.tables.starts[n] + k
        success, failure = self.tables.success[where], self.tables.failure[where]
        squares, rows = self.squares()
        values = {
            "advantage_rms": (squares / rows.clamp(min=1)).sqrt(),
            "pass_rate": (k / n.double()).mean(),
            "all_fail_groups": (k == 0).double().mean(),
            "all_success_groups": (k == n).double().mean(),
            "zero_advantage_groups": ((success == 0) & (failure == 0)).double().mean(),
            "effective_weight": self.tables.weight[where].mean(),
            "group_size": n.double().mean(),
            "missing_rewards": (self.advantages.numel() - rows) / max(self.advantages.numel(), 1),
        }
        return dict(zip(values, torch.stack(list(values.values())).tolist(), strict=True))

    def histogram(self) -> PilotHistogram:
        """The histogram of K by group size: a pilot of the current policy, if no group was filtered."""
        return PilotHistogram.from_counts(self.num_successes.cpu().numpy(), self.num_rollouts.cpu().numpy())

    def squares(self, reference: Tables | None = None) -> Tensor:
        """Sum of the squared advantages of this rank's rows, and the number of rows: [2], float64. E31.

        Args:
            reference: another objective: what its advantages would have been for the same groups (those of all ranks).
                Groups too small for a known trainer count with advantage 0.
        """
        if reference is None:
            rows = self.advantages.numel() if self.valid is None else self.valid.sum()
            return _pair(self.advantages.double().square().sum(), rows)
        k, n = self.num_successes, self.num_rollouts
        rows = n.sum()
        if isinstance(reference, str):
            require_tables(reference, "reference")
            large_enough = n >= KNOWN_TRAINERS[reference].least_rollouts
            k, n = k[large_enough], n[large_enough]
        tables = _lookup(reference, n, self.ids)
        where = tables.starts[n] + k
        squares = k * tables.success[where].square() + (n - k) * tables.failure[where].square()
        return _pair(squares.sum(), rows)


def group_advantages(
    objective: Tables,
    rewards: Numbers | Mapping[str, Numbers],
    group_ids: "Numbers | Sequence[Hashable] | None" = None,
    *,
    valid: Numbers | None = None,
    correctness: str | float | tuple[str, float] | None = None,
    shaping: Mapping[str, float] | None = None,
    process_group: "dist.ProcessGroup | None" = None,
    dtype: torch.dtype = torch.float32,
    check: bool = True,
) -> GroupAdvantages:
    """Advantages of binary rewards under an objective.

    Args:
        objective: an `Objective`, or anything with a table for the group sizes that occur; see `Tables`.
        rewards: [G, N], a group per row; or [B] with `group_ids`; or columns of such rewards by name. 1 for correct, 0
            for wrong, NaN for missing: a missing reward shrinks its group, and its row has advantage 0.
        group_ids: [B], the prompt of each row in any order: integers, or hashables such as uid strings.
        valid: like the rewards; false marks a missing reward too, whatever its value.
        correctness: the column that holds correctness; or a threshold, rewards of at least which are correct; or both.
        shaping: weights of further columns, by name. Each adds weight × (value − its mean over the group's valid
            rows) to the advantages. This is **outside the theory**: the objective is no longer J_{γ,N} alone.
        process_group: where groups span ranks: statistics are gathered over it, once. All its ranks must call. None:
            every group is whole on its rank.
        dtype: of the advantages; computed in float64.
        check: refuse rewards that are not binary, one transfer to the host per call. False asks the caller to
            guarantee it, and for dense rewards without `valid` that none is missing; then nothing waits for the host.

    Raises:
        InvalidInput: a reward other than 0, 1 and NaN, shapes that do not fit, a group without a valid row, or an
            objective without a table for a group's size, or with advantages too large for `dtype`. All ranks of a
            process group raise when one does.
    """
    if torch.compiler.is_compiling():  # a look-up by what occurs is no graph: leave a gap in it
        result: GroupAdvantages = torch.compiler.disable(group_advantages)(
            objective,
            rewards,
            group_ids,
            valid=valid,
            correctness=correctness,
            shaping=shaping,
            process_group=process_group,
            dtype=dtype,
            check=check,
        )
        return result
    try:
        rows = _read(rewards, valid, correctness, shaping, check)
        grouping = _grouping(rows.correct, group_ids, sharded=process_group is not None)
    except InvalidInput as error:
        if process_group is not None:
            _exchange(error, process_group)
        raise
    if rows.known is None and grouping.groups is None and not rows.shaping:
        size = rows.correct.shape[1]
        num_successes = rows.correct.sum(1).long()
        num_rollouts = torch.full_like(num_successes, size)
        tables = lookup(objective, [size], num_successes.device, lambda _: "group 0")
        where = num_successes if tables.begins[size] == 0 else num_successes + tables.begins[size]
    else:
        grouping, totals = grouping.totals(rows.summands(), process_group)
        num_rollouts, num_successes = totals[0].long(), totals[1].long()
        tables = _lookup(objective, num_rollouts, grouping.ids)
        where = tables.starts[num_rollouts] + num_successes

    inside = torch.float64 if rows.shaping else dtype
    success, failure = (grouping.spread(side.index_select(0, where)) for side in tables.sides(inside))
    # With a weight of 0 or 1 `lerp` returns an end as it is; it is several times faster than `where` on a CPU.
    advantages = torch.lerp(failure, success, rows.correct.to(inside))
    if rows.shaping:
        advantages = advantages + rows.shaped(grouping, totals[2:])
    if rows.known is not None:
        advantages = advantages.where(rows.known, 0)
    return GroupAdvantages(
        advantages.to(dtype), num_successes, num_rollouts, rows.known, grouping.ids, grouping.groups, tables
    )


# ---- what each row says ----


@dataclass(frozen=True, eq=False)
class _Rows:
    """Rewards that have been read. Shapes: R stands for [G, N] or [B]."""

    correct: Tensor  # [R]: 1 where correct, else 0; one of _COUNTING
    known: Tensor | None  # [R], bool; None: all
    shaping: list[tuple[float, Tensor, Tensor]]  # weight; value, 0 where missing; and where it is there: [R], float64

    def summands(self) -> Tensor:
        """What to sum over groups, [Q, R]: valid rows, successes, and of each shaping its values and their number."""
        known = torch.ones_like(self.correct, dtype=torch.float64) if self.known is None else self.known.double()
        shaping = [part for _, values, there in self.shaping for part in (values, there)]
        return torch.stack([known, self.correct.double(), *shaping])

    def shaped(self, grouping: "_Grouping", totals: Tensor) -> Tensor:
        """Σ weight · (value − mean of its group), [R], from the sums [2S, G]."""
        result = torch.zeros_like(self.correct, dtype=torch.float64)
        for (weight, values, there), total, count in zip(self.shaping, totals[::2], totals[1::2], strict=True):
            result += weight * (values - there * grouping.spread(total / count.clamp(min=1)))
        return result


def _read(
    rewards: Numbers | Mapping[str, Numbers],
    valid: Numbers | None,
    correctness: str | float | tuple[str, float] | None,
    shaping: Mapping[str, float] | None,
    check: bool,
) -> _Rows:
    name, threshold = _criterion(correctness)
    columns = _columns(rewards, name, shaping or {})
    field = "rewards" if name is None else f"rewards[{name!r}]"
    x = _numbers(columns[name], field)
    known = None if valid is None else _like(valid, "valid", x).bool()
    correct, known = _correct(x, known, threshold, field, check)
    parts = []
    for column, weight in (shaping or {}).items():
        named = f"rewards[{column!r}]"
        values = _like(columns[column], named, x).double()
        there = ~values.isnan() if known is None else known & ~values.isnan()
        if check:
            _refuse(there & values.isinf(), values, f"{named} must be finite or NaN (missing)")
        parts.append((finite_number(weight, f"shaping[{column!r}]"), values.where(there, 0), there.double()))
    return _Rows(correct, known, parts)


def _criterion(correctness: str | float | tuple[str, float] | None) -> tuple[str | None, float | None]:
    if correctness is None or isinstance(correctness, str):
        return correctness, None
    name, threshold = correctness if isinstance(correctness, tuple) and len(correctness) == 2 else (None, correctness)
    if name is not None and not isinstance(name, str):
        raise InvalidInput(
            f"correctness must be a column, a threshold or (column, threshold); got {correctness!r:.60}",
            field="correctness",
        )
    return name, finite_number(threshold, "correctness")


def _columns(
    rewards: Numbers | Mapping[str, Numbers], correctness: str | None, shaping: Mapping[str, float]
) -> Mapping[str | None, Numbers]:
    """All columns, each of them with a part to play; a single one has no name."""
    if not isinstance(rewards, Mapping):
        if correctness is not None or shaping:
            raise InvalidInput(
                "rewards must be a mapping of columns where correctness or shaping names one; got one column",
                field="rewards",
            )
        return {None: rewards}
    if correctness not in rewards:
        raise InvalidInput(
            f"correctness must name one of the columns {', '.join(map(str, rewards))}; got {correctness!r:.60}",
            field="correctness",
        )
    for column in shaping:
        if column not in rewards or column == correctness:
            raise InvalidInput(
                f"shaping must name columns of rewards other than {correctness!r}; got {column!r}", field="shaping"
            )
    for column in rewards:
        if column != correctness and column not in shaping:
            raise InvalidInput(
                f"rewards must hold correctness and weighted shaping alone; got a column {column!r} without a weight: "
                f"leave it out, or add it to the advantages with shaping={{{column!r}: weight}}",
                field="rewards",
            )
    return {column: values for column, values in rewards.items()}  # noqa: C416


def _correct(
    x: Tensor, known: Tensor | None, threshold: float | None, field: str, check: bool
) -> tuple[Tensor, Tensor | None]:
    """`_Rows.correct` and `known` of one column [...] of rewards."""
    if threshold is None and known is None and (not _unusual(x) if check else x.ndim == 2 or not x.is_floating_point()):
        return x if x.dtype in _COUNTING else x.float(), None
    missing = x.isnan()
    here = ~missing if known is None else known & ~missing
    if threshold is None:
        if check:
            _refuse(
                here & (x != 0) & (x != 1),
                x,
                f"{field} must be 0, 1 or NaN (missing), and other rewards a column of their own (shaping) or above a "
                "threshold (correctness)",
            )
        correct = here & (x == 1)
    else:
        if check:
            _refuse(here & x.isinf(), x, f"{field} must be finite or NaN (missing)")
        correct = here & (x >= threshold)
    return correct, here


def _unusual(x: Tensor) -> bool:
    """Whether anything is neither 0 nor 1: x² − x is 0 there alone, and NaN at NaN and the infinities."""
    if x.dtype == torch.bool:
        return False
    off = (x * x).sub_(x)
    return bool((off.abs_().sum() if x.is_floating_point() else torch.count_nonzero(off)).item())


def _numbers(values: Numbers, field: str) -> Tensor:
    try:
        x = torch.as_tensor(values)
        if not x.is_complex():
            return x.detach()
    except (TypeError, ValueError, RuntimeError):
        pass
    raise InvalidInput(f"{field} must be real numbers in a regular array; got {type(values).__name__}", field="rewards")


def _like(values: Numbers, field: str, rewards: Tensor) -> Tensor:
    x = _numbers(values, field).to(rewards.device)
    if x.shape != rewards.shape:
        raise InvalidInput(
            f"{field} must have the shape {list(rewards.shape)} of the rewards; got {list(x.shape)}",
            field=field.partition("[")[0],
        )
    return x


def _refuse(wrong: Tensor, values: Tensor, expected: str) -> None:
    if wrong.any():
        index = wrong.nonzero()[0].tolist()
        raise InvalidInput(
            f"{expected}; got {values[tuple(index)].item():g} at index {', '.join(map(str, index))}",
            field="rewards",
            index=index[0],
        )


# ---- which rows belong together ----


@dataclass(frozen=True, eq=False)
class _Grouping:
    groups: Tensor | None  # [B]; None: each row of a matrix is a group
    num_groups: int
    ids: Tensor | Sequence[Hashable] | None

    def totals(self, values: Tensor, process_group: "dist.ProcessGroup | None") -> tuple["_Grouping", Tensor]:
        """Sums over groups, [Q, R] → [Q, G], and the groups: with a process group those of all its ranks."""
        if self.groups is None:
            return self, values.sum(-1)
        empty = values.new_zeros(self.num_groups)
        own = torch.stack([empty.index_add(0, self.groups, part) for part in values])
        return (self, own) if process_group is None else _merge(self, self.groups, own, process_group)

    def spread(self, values: Tensor) -> Tensor:
        """Each row its group's value: [G] → [G, 1] or [B]."""
        return values[:, None] if self.groups is None else values[self.groups]


def _grouping(correct: Tensor, group_ids: "Numbers | Sequence[Hashable] | None", *, sharded: bool) -> _Grouping:
    shape = list(correct.shape)
    if group_ids is None:
        if sharded:
            raise InvalidInput(
                "group_ids must be given with a process_group, as groups that span ranks have no rectangle; got None "
                "(groups that are whole on their rank need no process_group)",
                field="group_ids",
            )
        if len(shape) != 2 or not shape[1]:
            raise InvalidInput(
                f"rewards must be [groups, rollouts], or [rows] with group_ids; got shape {shape} without group_ids",
                field="rewards",
            )
        return _Grouping(None, shape[0], None)
    if len(shape) != 1:
        raise InvalidInput(f"rewards must be [rows] where group_ids are given; got shape {shape}", field="rewards")
    keys = read_keys(group_ids)
    if len(keys) != shape[0]:
        raise InvalidInput(f"group_ids must be one per reward, {shape[0]}; got {len(keys)}", field="group_ids")
    if isinstance(keys, Tensor):
        ids, groups = torch.unique(keys.to(correct.device), return_inverse=True)
        return _Grouping(groups, len(ids), ids)
    places, names = number_keys(keys)
    return _Grouping(torch.from_numpy(places).to(correct.device), len(names), names)


def _merge(
    grouping: _Grouping, groups: Tensor, totals: Tensor, process_group: "dist.ProcessGroup"
) -> tuple[_Grouping, Tensor]:
    """The groups of all ranks in the order of their ranks, and their totals [Q, G]."""
    ids = grouping.ids.tolist() if isinstance(grouping.ids, Tensor) else list(grouping.ids or ())
    place: dict[Hashable, int] = {}
    answers = _exchange((ids, totals.cpu().numpy()), process_group)
    for rank, answer in enumerate(answers):
        if isinstance(answer, InvalidInput):
            raise InvalidInput(f"on rank {rank}: {answer}", field=answer.field, index=answer.index)
    places = [[place.setdefault(key, len(place)) for key in keys] for keys, _ in answers]
    merged = np.zeros((totals.shape[0], len(place)))
    for where, (_, part) in zip(places, answers, strict=True):
        merged[:, where] += part  # a rank names a group once
    own = torch.tensor(places[dist.get_rank(process_group)], dtype=torch.int64, device=totals.device)
    return _Grouping(own[groups], len(place), list(place)), torch.from_numpy(merged).to(totals.device)


def _exchange(part: Any, process_group: "dist.ProcessGroup") -> list[Any]:
    """Every rank's part. A rank with an error sends that, so that none is left waiting."""
    answers: list[Any] = [None] * dist.get_world_size(process_group)
    dist.all_gather_object(answers, part, group=process_group)
    return answers


# ---- tables ----


def _lookup(objective: Tables, sizes: Tensor, ids: Tensor | Sequence[Hashable] | None) -> Lookup:
    """Tables for groups of `sizes` [G]."""

    def first(size: int) -> str:
        group = int((sizes == size).nonzero()[0])
        if ids is None:
            return f"group {group}"
        name = ids[group].item() if isinstance(ids, Tensor) else ids[group]
        return f"group {group} (id {name!r})"

    if not len(sizes):
        return lookup(objective, (), sizes.device, first)
    low, high = torch.stack(sizes.aminmax()).tolist()
    occurring = [low] if low == high else torch.unique(sizes).tolist()
    if 0 in occurring:
        raise InvalidInput(f"every group must have a valid row; got none in {first(0)}", field="rewards")
    return lookup(objective, occurring, sizes.device, first)


def _pair(total: Tensor, count: Tensor | int) -> Tensor:
    return torch.stack([total, torch.as_tensor(count, dtype=torch.float64, device=total.device)])
