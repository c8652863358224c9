"""Pilots from tables: csv, tsv, jsonl or parquet, of counts or of rollouts.

Counts: columns num_successes and num_rollouts (prompt_id and weight are optional), one row per prompt.
Rollouts: columns prompt_id and reward (0 or 1), one row per rollout.
Either may have a column that names each prompt's group, such as its data source.
JSON is a pilot that `Rollouts.save` wrote.
"""

import csv
import errno
import json
import os
import sys
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from rl2ml_core.errors import InvalidInput, InvalidTable, MissingExtra, UnknownLayout
from rl2ml_core.pilot.histogram import PilotHistogram

__all__ = ["FORMATS", "LONGEST_GROUP", "MAX_GROUPS", "read_pilot", "read_pilot_groups"]

FORMATS = ("csv", "tsv", "jsonl", "parquet", "json")

_SUFFIXES = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".json": "json",
}
_COUNTS = ("num_successes", "num_rollouts")
_ROLLOUTS = ("prompt_id", "reward")
#: What is read beside the group's name.
_COLUMNS = (*_COUNTS, *_ROLLOUTS, "weight")
_ROWS_AT_ONCE = 1 << 16
#: Names of groups are few and short: anything else is another column.
MAX_GROUPS = 256
LONGEST_GROUP = 200

#: A run of rows: their numbers in the file, and the named columns (lists or arrays).
_Batch = tuple[Sequence[int], Mapping[str, Any]]


def read_pilot(path: str | Path, format: str | None = None) -> PilotHistogram:  # noqa: A002  (the field's word)
    """A pilot from a table.

    Args:
        path: a file, or "-" for standard input (csv, tsv or jsonl, told apart by its first line).
        format: one of `FORMATS`; None goes by the file's ending.

    Raises:
        InvalidTable: an unknown format, missing columns (those found are listed), an empty table, or a value that is
            no count; the file and the row are named.
        MissingExtra: parquet without pyarrow.
        OSError: the file cannot be read.
    """
    (pilot,) = _read(path, format, None).values()
    return pilot


def read_pilot_groups(path: str | Path, column: str, format: str | None = None) -> dict[str, PilotHistogram]:  # noqa: A002
    """A pilot per group of prompts, by the name that `column` gives each row; in order of appearance.

    A prompt_id counts within its group. Other arguments and errors as `read_pilot`; empty names are errors, and so are
    more than 256 groups.
    """
    return _read(path, format, column)


def _read(path: str | Path, format: str | None, group: str | None) -> dict[str, PilotHistogram]:  # noqa: A002
    name = "standard input" if str(path) == "-" else str(path)
    try:
        if _kind(path, format) == "json":
            return {"": _saved(path, group)}
        return _histograms(_batches(path, format, group), group)
    except InvalidInput as error:
        kind = type(error) if isinstance(error, InvalidTable) else InvalidTable
        raise kind(f"{name}: {error}", field=error.field) from None
    except UnicodeDecodeError:
        raise InvalidTable(f"{name}: not UTF-8 text; expected csv, tsv or jsonl (parquet ends in .parquet)") from None


def _kind(path: str | Path, format: str | None) -> str | None:  # noqa: A002
    """The format that is said, or else the one of the file's ending."""
    return format or (None if str(path) == "-" else _SUFFIXES.get(Path(path).suffix.lower()))


def _saved(path: str | Path, group: str | None) -> PilotHistogram:
    """A pilot as `Rollouts.save` writes it."""
    if group is not None:
        raise InvalidTable("a saved pilot has no groups; read the rollouts it came from", field="group")
    expected = 'expected a saved pilot, {"schema": 1, "cells": [[num_rollouts, num_successes, num_prompts], …]}'
    text = sys.stdin.read() if str(path) == "-" else Path(path).read_text(encoding="utf-8-sig")
    try:
        saved = json.loads(text)
    except (ValueError, RecursionError) as error:
        hint = " (one object per line is .jsonl)" if "Extra data" in str(error) else ""
        raise InvalidTable(f"not JSON: {str(error)[:80]}; {expected}{hint}") from None
    if not isinstance(saved, dict) or not isinstance(saved.get("cells"), list):
        found = (
            f"keys {', '.join(str(key)[:40] for key in list(saved)[:10])}" if isinstance(saved, dict) else "no object"
        )
        raise InvalidTable(f"{expected}; found {found}")
    if saved.get("schema") != 1:
        raise InvalidTable(f"{expected}; got schema {saved.get('schema')!r:.40}", field="schema")
    return PilotHistogram.from_cells(saved["cells"])


def _batches(path: str | Path, format: str | None, group: str | None) -> Iterator[_Batch]:  # noqa: A002
    unknown = InvalidTable(f"unknown format; expected a name ending in {', '.join(_SUFFIXES)} (or format=…)")
    if format is not None and format not in FORMATS:
        raise unknown
    if str(path) == "-":
        if format == "parquet":
            raise InvalidTable("standard input takes csv, tsv or jsonl; give parquet as a file", field="format")
        yield from _text_batches(sys.stdin, format, group)
        return
    kind = _kind(path, format)
    if kind is None:
        raise unknown
    if kind == "parquet":
        yield from _parquet_batches(Path(path), group)
    else:
        with Path(path).open(encoding="utf-8-sig", newline="") as stream:
            yield from _text_batches(stream, kind, group)


def _text_batches(stream: TextIO, kind: str | None, group: str | None) -> Iterator[_Batch]:
    first = stream.readline().removeprefix("\ufeff")
    if not first.strip():
        raise InvalidTable("the table is empty; expected a header and at least one row")
    if kind is None:
        kind = "jsonl" if first.lstrip().startswith("{") else "tsv" if "\t" in first else "csv"
    lines = chain([first], stream)
    if kind == "jsonl":
        yield from _jsonl_batches(lines, group)
    else:
        yield from _csv_batches(lines, "\t" if kind == "tsv" else ",", group)


def _csv_batches(lines: Iterator[str], delimiter: str, group: str | None) -> Iterator[_Batch]:
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    try:
        header = [column.strip() for column in next(reader)]
        wanted = _wanted(header, group)
        indices = [header.index(column) for column in wanted]
        numbers, columns = _empty(wanted)
        for row in reader:
            if not row:
                continue
            if len(row) != len(header):
                raise InvalidTable(
                    f"line {reader.line_num} has {len(row)} fields; expected {len(header)} as in the header"
                )
            numbers.append(reader.line_num)
            # By column: a million rows kept as lists would keep the garbage collector busy for seconds.
            for column, i in zip(columns.values(), indices, strict=True):
                column.append(row[i])
            if len(numbers) == _ROWS_AT_ONCE:
                yield numbers, columns
                numbers, columns = _empty(wanted)
    except csv.Error as error:
        raise InvalidTable(f"line {reader.line_num} is not csv: {error}") from None
    yield numbers, columns


def _jsonl_batches(lines: Iterator[str], group: str | None) -> Iterator[_Batch]:
    wanted: tuple[str, ...] = ()
    numbers, columns = _empty(wanted)
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            raise InvalidTable(f"line {number} is not JSON; expected one object per line") from None
        if not isinstance(record, dict):
            raise InvalidTable(f"line {number} is not a JSON object")
        if not wanted:
            wanted = _wanted(list(record), group)
            numbers, columns = _empty(wanted)
        missing = [name for name in wanted if name not in record]
        if missing:
            raise InvalidTable(f"line {number} lacks {', '.join(missing)}, which earlier lines have")
        numbers.append(number)
        for name, column in columns.items():
            column.append(record[name])
        if len(numbers) == _ROWS_AT_ONCE:
            yield numbers, columns
            numbers, columns = _empty(wanted)
    yield numbers, columns


def _empty(wanted: tuple[str, ...]) -> tuple[list[int], dict[str, list[Any]]]:
    return [], {name: [] for name in wanted}


def _parquet_batches(path: Path, group: str | None) -> Iterator[_Batch]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise MissingExtra("Reading parquet", "ingest") from None
    if not path.is_file():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    try:
        file = pyarrow.parquet.ParquetFile(path)
        wanted = _wanted(file.schema_arrow.names, group)
        start = 1
        for batch in file.iter_batches(batch_size=_ROWS_AT_ONCE, columns=list(wanted)):
            yield range(start, start + batch.num_rows), {name: _values(batch.column(name)) for name in wanted}
            start += batch.num_rows
    except (pyarrow.ArrowException, OSError) as error:
        raise InvalidTable(f"not a readable parquet file: {str(error)[:120]}") from None


def _values(column: Any) -> Any:
    """An Arrow column as a sequence; numbers without gaps stay an array."""
    if column.null_count == 0 and str(column.type).startswith(("int", "uint", "float", "double")):
        return column.to_numpy(zero_copy_only=False)
    return column.to_pylist()


def _wanted(columns: list[str], group: str | None) -> tuple[str, ...]:
    """The columns to read, by what the table has, each once: a group may be told by any of them."""
    shown = ", ".join(str(column)[:40] for column in columns[:20]) or "none"
    if group is not None and group not in columns:
        raise InvalidTable(f"expected a column {group!r:.60} with each row's group; found {shown}", field="group")
    also = () if group is None else (group,)
    if _has_counts(columns):
        optional = (name for name in ("prompt_id", "weight") if name in columns)
        return tuple(dict.fromkeys((*_COUNTS, *optional, *also)))
    if all(name in columns for name in _ROLLOUTS):
        return tuple(dict.fromkeys((*_ROLLOUTS, *also)))
    raise UnknownLayout(
        "expected columns num_successes and num_rollouts (one row per prompt), or prompt_id and reward "
        f"(one row per rollout); found {shown}"
    )


def _has_counts(columns: Collection[str]) -> bool:
    """Counts win where a table has both, whatever column its groups go by."""
    return all(name in columns for name in _COUNTS)


@dataclass
class _Tally:
    """What has been read of one group."""

    rewards: dict[Any, list[int]] = field(default_factory=dict)  # of tables of rollouts: prompt → [k, n]
    seen: set[Any] = field(default_factory=set)
    total: PilotHistogram | None = None

    def add(self, rows: Sequence[int], columns: Mapping[str, Any]) -> None:
        if not _has_counts(columns):
            _count_rewards(rows, columns, self.rewards)
            return
        for row, prompt in zip(rows, map(_key, columns.get("prompt_id", ())), strict=False):
            if prompt in self.seen:
                raise InvalidTable(
                    f"prompt_id {prompt!r:.60} appears twice (again in row {row}); "
                    "a table of counts has one row per prompt",
                    field="prompt_id",
                )
            self.seen.add(prompt)
        part = _count_prompts(rows, columns)
        self.total = part if self.total is None else self.total + part

    def histogram(self) -> PilotHistogram:
        if self.total is not None:
            return self.total
        k, n = np.array(list(self.rewards.values())).T
        return PilotHistogram.from_counts(k, n)


def _histograms(batches: Iterator[_Batch], group: str | None) -> dict[str, PilotHistogram]:
    """A pilot per group; under the name "" where there are none."""
    tallies: dict[str, _Tally] = {}
    for rows, columns in batches:
        for name, chosen, part in _split(rows, columns, group):
            if name not in tallies and len(tallies) == MAX_GROUPS:
                raise InvalidTable(
                    f"column {group!r:.60} has more than {MAX_GROUPS} values; expected a few groups", field="group"
                )
            tallies.setdefault(name, _Tally()).add(chosen, part)
    if not tallies:
        raise InvalidTable("the table has a header but no rows")
    return {name: tally.histogram() for name, tally in tallies.items()}


def _split(
    rows: Sequence[int], columns: Mapping[str, Any], group: str | None
) -> Iterator[tuple[str, Sequence[int], Mapping[str, Any]]]:
    """A run of rows by group, in order of appearance."""
    if not rows:
        return
    if group is None:
        yield "", rows, columns
        return
    # Rows by name as written, then names without the spaces around them: a few of them instead of one per row.
    places: dict[str, list[int]] = defaultdict(list)
    for i, text in enumerate(_texts(columns[group])):
        places[text].append(i)
    found: dict[str, list[int]] = {}
    for text, at in places.items():
        name = _group_name(rows[at[0]], text)
        found[name] = sorted(found[name] + at) if name in found else at
    if len(found) == 1:
        yield name, rows, columns
        return
    read = {name: column for name, column in columns.items() if name != group or name in _COLUMNS}
    for name, at in found.items():
        yield name, _picked(rows, at), {key: _picked(column, at) for key, column in read.items()}


def _texts(values: Any) -> list[str]:
    """A column as text; what is missing is empty."""
    listed = _listed(values)
    if set(map(type, listed)) == {str}:
        return listed
    return ["" if value is None else str(value) for value in listed]


def _listed(values: Any) -> list[Any]:
    """A column as a list of Python's own values."""
    return values.tolist() if isinstance(values, np.ndarray) else list(values)


def _picked(values: Any, at: list[int]) -> Any:
    return values[at] if isinstance(values, np.ndarray) else list(map(values.__getitem__, at))


def _group_name(row: int, text: str) -> str:
    name = text.strip()
    if not 1 <= len(name) <= LONGEST_GROUP or not name.isprintable():
        raise InvalidTable(
            f"row {row}: a group must have a name of 1 to {LONGEST_GROUP} printable characters; got {name!r:.40}",
            field="group",
        )
    return name


def _count_prompts(rows: Sequence[int], columns: Mapping[str, Any]) -> PilotHistogram:
    k, n = (_numbers(columns[name], name, rows) for name in _COUNTS)
    weights = _numbers(columns["weight"], "weight", rows) if "weight" in columns else None
    try:
        return PilotHistogram.from_counts(k, n, weights)
    except InvalidInput:
        # Blame the first row that is wrong by itself, by its number in the file.
        for i, row in enumerate(rows):
            one = slice(i, i + 1)
            try:
                PilotHistogram.from_counts(k[one], n[one], None if weights is None else weights[one])
            except InvalidInput as error:
                message = str(error).replace(" in row 0", "")
                raise InvalidTable(f"row {row}: {message}", field=error.field, index=i) from None
        raise


def _numbers(values: Any, name: str, rows: Sequence[int]) -> Any:
    """A column as an array (whole numbers are checked later, with everything else about counts)."""
    if isinstance(values, np.ndarray):
        return values
    try:
        if bool in set(map(type, values)):
            raise TypeError
        return np.array(values, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        pass
    for row, value in zip(rows, values, strict=True):
        try:
            if isinstance(value, bool):
                raise TypeError
            float(value)
        except (TypeError, ValueError, OverflowError):
            raise InvalidTable(f"row {row}: {name} must be a number; got {value!r:.40}", field=name) from None
    raise InvalidTable(f"{name} must be numbers", field=name)


_REWARDS = {"0": 0, "1": 1, "0.0": 0, "1.0": 1, "true": 1, "false": 0, "True": 1, "False": 0, 0: 0, 1: 1}


def _count_rewards(rows: Sequence[int], columns: Mapping[str, Any], rewards: dict[Any, list[int]]) -> None:
    prompts, values = (_listed(columns[name]) for name in _ROLLOUTS)
    for row, prompt, reward in zip(rows, prompts, values, strict=True):
        text = reward.strip() if isinstance(reward, str) else reward
        success = _REWARDS.get(text) if isinstance(text, (str, int, float)) else None
        if success is None:
            raise InvalidTable(
                f"row {row}: reward must be 0 or 1; got {reward!r:.40} (apply a success threshold first)",
                field="reward",
            )
        if prompt is None or prompt == "":
            raise InvalidTable(f"row {row}: prompt_id is empty", field="prompt_id")
        counts = rewards.setdefault(_key(prompt), [0, 0])
        counts[0] += success
        counts[1] += 1


def _key(prompt: Any) -> Any:
    """A prompt as a dictionary key: chats (lists of messages) by their JSON."""
    return json.dumps(prompt, sort_keys=True, default=str) if isinstance(prompt, (dict, list)) else prompt
