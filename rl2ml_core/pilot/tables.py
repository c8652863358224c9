"""Pilots from tables: csv, tsv, jsonl or parquet, of counts or of rollouts.

Counts: columns num_successes and num_rollouts (prompt_id and weight are optional), one row per prompt.
Rollouts: columns prompt_id and reward (0 or 1), one row per rollout.
"""

import csv
import errno
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from rl2ml_core.errors import InvalidInput, InvalidTable, MissingExtra
from rl2ml_core.pilot.histogram import PilotHistogram

__all__ = ["FORMATS", "read_pilot"]

FORMATS = ("csv", "tsv", "jsonl", "parquet")

_SUFFIXES = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".pq": "parquet",
}
_COUNTS = ("num_successes", "num_rollouts")
_ROLLOUTS = ("prompt_id", "reward")
_ROWS_AT_ONCE = 1 << 16

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
    name = "standard input" if str(path) == "-" else str(path)
    try:
        return _histogram(_batches(path, format))
    except InvalidInput as error:
        raise InvalidTable(f"{name}: {error}", field=error.field) from None
    except UnicodeDecodeError:
        raise InvalidTable(f"{name}: not UTF-8 text; expected csv, tsv or jsonl (parquet ends in .parquet)") from None


def _batches(path: str | Path, format: str | None) -> Iterator[_Batch]:  # noqa: A002
    unknown = InvalidTable(f"unknown format; expected a name ending in {', '.join(_SUFFIXES)} (or format=…)")
    if format is not None and format not in FORMATS:
        raise unknown
    if str(path) == "-":
        if format == "parquet":
            raise InvalidTable("standard input takes csv, tsv or jsonl; give parquet as a file", field="format")
        yield from _text_batches(sys.stdin, format)
        return
    kind = format or _SUFFIXES.get(Path(path).suffix.lower())
    if kind is None:
        raise unknown
    if kind == "parquet":
        yield from _parquet_batches(Path(path))
    else:
        with Path(path).open(encoding="utf-8-sig", newline="") as stream:
            yield from _text_batches(stream, kind)


def _text_batches(stream: TextIO, kind: str | None) -> Iterator[_Batch]:
    first = stream.readline().removeprefix("\ufeff")
    if not first.strip():
        raise InvalidTable("the table is empty; expected a header and at least one row")
    if kind is None:
        kind = "jsonl" if first.lstrip().startswith("{") else "tsv" if "\t" in first else "csv"
    lines = chain([first], stream)
    yield from _jsonl_batches(lines) if kind == "jsonl" else _csv_batches(lines, "\t" if kind == "tsv" else ",")


def _csv_batches(lines: Iterator[str], delimiter: str) -> Iterator[_Batch]:
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    try:
        header = [column.strip() for column in next(reader)]
        wanted = _wanted(header)
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


def _jsonl_batches(lines: Iterator[str]) -> Iterator[_Batch]:
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
            wanted = _wanted(list(record))
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


def _parquet_batches(path: Path) -> Iterator[_Batch]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise MissingExtra("Reading parquet", "ingest") from None
    if not path.is_file():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    try:
        file = pyarrow.parquet.ParquetFile(path)
        wanted = _wanted(file.schema_arrow.names)
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


def _wanted(columns: list[str]) -> tuple[str, ...]:
    """The columns to read, by what the table has."""
    if all(name in columns for name in _COUNTS):
        return (*_COUNTS, *(name for name in ("prompt_id", "weight") if name in columns))
    if all(name in columns for name in _ROLLOUTS):
        return _ROLLOUTS
    shown = ", ".join(str(column)[:40] for column in columns[:20]) or "none"
    raise InvalidTable(
        "expected columns num_successes and num_rollouts (one row per prompt), or prompt_id and reward "
        f"(one row per rollout); found {shown}"
    )


def _histogram(batches: Iterator[_Batch]) -> PilotHistogram:
    rewards: dict[Any, list[int]] = {}  # of tables of rollouts: prompt → [k, n]
    seen: set[Any] = set()
    total: PilotHistogram | None = None
    for rows, columns in batches:
        if not rows:
            continue
        if "reward" in columns:
            _count_rewards(rows, columns, rewards)
            continue
        for row, prompt in zip(rows, map(_key, columns.get("prompt_id", ())), strict=False):
            if prompt in seen:
                raise InvalidTable(
                    f"prompt_id {prompt!r:.60} appears twice (again in row {row}); "
                    "a table of counts has one row per prompt",
                    field="prompt_id",
                )
            seen.add(prompt)
        part = _count_prompts(rows, columns)
        total = part if total is None else total + part
    if rewards:
        k, n = np.array(list(rewards.values())).T
        return PilotHistogram.from_counts(k, n)
    if total is None:
        raise InvalidTable("the table has a header but no rows")
    return total


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
    prompts, values = (column.tolist() if isinstance(column, np.ndarray) else column for column in columns.values())
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
