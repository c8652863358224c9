"""What is to be read how: files with their formats, in batches."""

import hashlib
import math
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rl2ml_core.errors import InvalidInput, InvalidTable
from rl2ml_core.pilot.rollouts import engine as engines
from rl2ml_core.pilot.rollouts.columns import FILE, column, declared
from rl2ml_core.pilot.rollouts.engine import Engine
from rl2ml_core.pilot.rollouts.files import read_head
from rl2ml_core.pilot.rollouts.format import Format, Head, Options, Scan
from rl2ml_core.pilot.rollouts.formats import detect, unknown

__all__ = ["BATCH_BYTES", "Plan", "batches", "plan_file", "same_content"]

BATCH_BYTES, _BATCH_FILES = 1 << 27, 512
#: A folder that says the step of all rows in it, as tables that are partitioned by step have them.
_STEP_FOLDER = re.compile("/step=([0-9]+)/")
#: DuckDB's own columns that tell the files of a batch apart: where data has them, its files are read one by one.
_TAKEN = {"filename", "file_index"}


@dataclass(frozen=True)
class Plan:
    """A file and how it is read.

    Args:
        path: as given.
        size: bytes on disk.
        format: a format's name, or "".
        scan: None for a file that is left out, and then `left_out` says why.
        alone: not to be read with others.
        error: it cannot be read.
    """

    path: str
    size: int
    format: str = ""
    scan: Scan | None = None
    left_out: str = ""
    alone: bool = False
    error: str = ""


def plan_file(engine: Engine, path: str, *, named: bool, format: Format | None) -> Plan:  # noqa: A002
    """How a file is read.

    Args:
        engine: to look into it.
        path: of the file.
        named: the user named it; what was only found in a directory may be something else.
        format: as the user says, or None.

    Raises:
        InvalidTable: damaged, or of no known format.
        InvalidInput: an option that does not fit it.
        OSError: it cannot be read.
    """
    options = engine.options
    try:
        path.encode()
    except UnicodeEncodeError:
        raise InvalidTable("the name is not UTF-8 text") from None
    size = os.path.getsize(path)
    head = replace(read_head(path, engine.schema), path=path)
    head = replace(head, distinct=lambda name: engine.distinct(head, name))
    if head.kind == "pickle":
        if named:
            raise InvalidTable("a pickle, which runs code when it is loaded: it is not read")
        return Plan(path, size, left_out="pickle")
    if os.path.basename(path).startswith("aggregated_results.json"):
        return Plan(path, size, "skyrl", left_out="aggregates, no rollouts")
    if head.kind == "empty":
        raise unknown(head)
    chosen = format or detect(head, options)
    if chosen is None:
        if named:
            raise unknown(head)
        return Plan(path, size, left_out="no known format")
    scan = _overridden(chosen.plan(head, options), head, options)
    if scan.step is None and _STEP_FOLDER.search(os.path.abspath(path)):
        scan = replace(scan, step=f"TRY_CAST(regexp_extract({FILE}, '{_STEP_FOLDER.pattern}', 1) AS BIGINT)")
    scan = replace(scan, compression=head.compression)
    if options.steps is not None and scan.step is None:
        raise InvalidInput(f"steps needs the training step of each rollout, which {chosen.title} does not have here")
    alone = scan.documents is not None or bool(_TAKEN & set(head.fields))
    return Plan(path, size, chosen.name, scan, alone=alone)


def _overridden(scan: Scan, head: Head, options: Options) -> Scan:
    """Roles that the user names win."""
    said = {name: getattr(options, name) for name in ("prompt", "reward", "step", "group")}
    said = {name: value for name, value in said.items() if value is not None}
    if not said:
        return scan
    if scan.documents is not None:
        raise InvalidInput(f"{', '.join(said)} cannot be named in {scan.format} logs", field=next(iter(said)))
    used = []
    changes: dict[str, Any] = {}
    if options.prompt:
        prompt = column(head, options.prompt)
        used.append(prompt)
        changes |= {"prompt": prompt.key, "shown": prompt.text, "prompt_id": None}
    if options.reward:
        reward = column(head, options.reward, "JSON")
        used.append(reward)
        changes |= {"score": reward.number, "given": reward.text, "single": reward.type == "FLOAT"}
    if options.step:
        step = column(head, options.step, "JSON")
        used.append(step)
        changes["step"] = step.whole
    if options.group:
        group = column(head, options.group)
        used.append(group)
        changes["group"] = group.key
    types = dict(declared(head, used))
    types = {**dict(scan.columns), **types}
    return replace(scan, **changes, columns=tuple(sorted(types.items())) if head.kind == "jsonl" else scan.columns)


def batches(plans: Iterable[Plan], *, most_flat: float = math.inf) -> Iterator[list[Plan]]:
    """Plans that are read together: small files of one scan, and all of tables whose rows are rollouts as they are.

    Args:
        plans: of all files.
        most_flat: bytes from which on a batch of such tables is full.
    """
    alike: defaultdict[Scan | None, list[Plan]] = defaultdict(list)
    for plan in plans:
        if plan.scan is None:
            continue
        # Larger files are statements of their own: their groups are many, and need no number of a file beside them.
        if plan.alone or (plan.size > engines.SMALL and not plan.scan.flat):
            yield [plan]
            continue
        batch = alike[plan.scan]
        batch.append(plan)
        size = sum(one.size for one in batch)
        if size >= most_flat if plan.scan.flat else len(batch) >= _BATCH_FILES or size >= BATCH_BYTES:
            yield alike.pop(plan.scan)
    yield from alike.values()


def same_content(paths: Iterable[tuple[str, int]]) -> dict[str, str]:
    """Files that repeat an earlier one byte for byte, and which one. Only files of one size are read for it."""
    by_size: defaultdict[int, list[str]] = defaultdict(list)
    for path, size in paths:
        if size:
            by_size[size].append(path)
    repeated: dict[str, str] = {}
    for size, alike in by_size.items():
        if len(alike) < 2:
            continue
        # The ends of a file tell nearly all apart.
        ends: defaultdict[bytes, list[str]] = defaultdict(list)
        for path in alike:
            ends[_digest(path, size, 1 << 16)].append(path)
        for suspects in ends.values():
            first: dict[bytes, str] = {}
            for path in suspects if len(suspects) > 1 else ():
                original = first.setdefault(_digest(path, size, size), path)
                if original != path:
                    repeated[path] = original
    return repeated


def _digest(path: str, size: int, ends: int) -> bytes:
    digest = hashlib.md5(usedforsecurity=False)
    with Path(path).open("rb") as stream:
        if 2 * ends < size:
            digest.update(stream.read(ends))
            stream.seek(-ends, os.SEEK_END)
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.digest()
