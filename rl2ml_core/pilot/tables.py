"""Pilots from tables: csv, tsv, jsonl or parquet, of counts or of rollouts.

Counts: columns num_successes and num_rollouts (prompt_id and weight are optional), one row per prompt.
Rollouts: columns prompt_id and reward (0 or 1), one row per rollout.
"""

import csv
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
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

#: A run of rows: the number of the first one, and the named columns.
_Batch = tuple[int, dict[str, Sequence[Any]]]


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
    if str(path) == "-":
        yield from _text_batches(sys.stdin, format)
        return
    kind = format or _SUFFIXES.get(Path(path).suffix.lower())
    if kind not in FORMATS:
        raise InvalidTable(f"unknown format; expected a name ending in {', '.join(_SUFFIXES)} (or format=…)")
    if kind == "parquet":
        yield from _parquet_batches(Path(path))
    else:
        with Path(path).open(encoding="utf-8-sig", newline="") as stream:
            yield from _text_batches(stream, kind)


def _text_batches(stream: TextIO, kind: str | None) -> Iterator[_Batch]:
    first = stream.readline()
    if not first.strip():
        raise InvalidTable("the table is empty; expected a header and at least one row")
    if kind is None:
        kind = "jsonl" if first.lstrip().startswith("{") else "tsv" if "\t" in first else "csv"
    if kind == "jsonl":
        yield from _jsonl_batches(_chain(first, stream))
    else:
        yield from _csv_batches(_chain(first, stream), "\t" if kind == "tsv" else ",")


def _chain(first: str, rest: Iterable[str]) -> Iterator[str]:
    yield first
    yield from rest


def _csv_batches(lines: Iterator[str], delimiter: str) -> Iterator[_Batch]:
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    try:
        header = [column.strip() for column in next(reader)]
        wanted = _wanted(header)
        indices = [header.index(column) for column in wanted]
        start, rows = 2, []
        for row in reader:
            if not row:
                continue
            if len(row) != len(header):
                raise InvalidTable(
                    f"line {reader.line_num} has {len(row)} fields; expected {len(header)} as in the header"
                )
            rows.append([row[i] for i in indices])
            if len(rows) == _ROWS_AT_ONCE:
                yield start, dict(zip(wanted, zip(*rows, strict=True), strict=True))
                start, rows = reader.line_num + 1, []
    except csv.Error as error:
        raise InvalidTable(f"line {reader.line_num} is not csv: {error}") from None
    if rows:
        yield start, dict(zip(wanted, zip(*rows, strict=True), strict=True))


def _jsonl_batches(lines: Iterator[str]) -> Iterator[_Batch]:
    wanted: tuple[str, ...] = ()
    start, rows = 1, []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            raise InvalidTable(f"line {number} is not JSON; expected one object per line") from None
        if not isinstance(record, dict):
            raise InvalidTable(f"line {number} is not a JSON object")
        wanted = wanted or _wanted(list(record))
        missing = [column for column in wanted if column not in record]
        if missing:
            raise InvalidTable(f"line {number} lacks {', '.join(missing)}, which earlier lines have")
        rows.append([record[column] for column in wanted])
        if len(rows) == _ROWS_AT_ONCE:
            yield start, dict(zip(wanted, zip(*rows, strict=True), strict=True))
            start, rows = number + 1, []
    if rows:
        yield start, dict(zip(wanted, zip(*rows, strict=True), strict=True))


def _parquet_batches(path: Path) -> Iterator[_Batch]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise MissingExtra("Reading parquet", "ingest") from None
    if not path.is_file():
        raise FileNotFoundError(f"no such file: {path}")
    try:
        file = pyarrow.parquet.ParquetFile(path)
        wanted = _wanted(file.schema_arrow.names)
        start = 1
        for batch in file.iter_batches(batch_size=_ROWS_AT_ONCE, columns=list(wanted)):
            yield start, {name: batch.column(name).to_pylist() for name in wanted}
            start += batch.num_rows
    except (pyarrow.ArrowException, OSError) as error:
        raise InvalidTable(f"not a readable parquet file: {str(error)[:120]}") from None


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
    successes: dict[Any, list[int]] = {}  # of rollout tables: prompt → [k, n]
    parts: list[PilotHistogram] = []
    seen: set[Any] = set()
    for start, columns in batches:
        if "reward" in columns:
            _count_rewards(start, columns, successes)
            continue
        for offset, prompt in enumerate(columns.get("prompt_id", ())):
            if prompt in seen:
                raise InvalidTable(
                    f"prompt_id {prompt!r:.60} appears twice (again in row {start + offset}); "
                    "a table of counts has one row per prompt"
                )
            seen.add(prompt)
        k, n = (_numbers(columns[name], name, start) for name in _COUNTS)
        weights = _numbers(columns["weight"], "weight", start) if "weight" in columns else None
        try:
            parts.append(PilotHistogram.from_counts(k, n, weights))
        except InvalidInput:
            _blame(start, k, n, weights)
            raise
    if successes:
        k, n = np.array(list(successes.values())).T
        return PilotHistogram.from_counts(k, n)
    if not parts:
        raise InvalidTable("the table has a header but no rows")
    total = parts[0]
    for part in parts[1:]:
        total += part
    return total


def _blame(start: int, k: Any, n: Any, weights: Any) -> None:
    """Refuse the first row that is wrong by itself, by its number in the file."""
    for offset in range(len(k)):
        one = slice(offset, offset + 1)
        try:
            PilotHistogram.from_counts(k[one], n[one], None if weights is None else weights[one])
        except InvalidInput as error:
            message = str(error).replace(" in row 0", "")
            raise InvalidTable(f"row {start + offset}: {message}", field=error.field) from None


def _numbers(values: Sequence[Any], name: str, start: int) -> Any:
    """A column as floats (whole numbers are checked later, with everything else about counts)."""
    try:
        if any(isinstance(value, bool) for value in values):
            raise TypeError
        return np.array(values, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        pass
    for offset, value in enumerate(values):
        try:
            if isinstance(value, bool):
                raise TypeError
            float(value)
        except (TypeError, ValueError, OverflowError):
            raise InvalidTable(
                f"row {start + offset}: {name} must be a number; got {value!r:.40}", field=name
            ) from None
    raise InvalidTable(f"{name} must be numbers", field=name)


_REWARDS = {"0": 0, "1": 1, "0.0": 0, "1.0": 1, "true": 1, "false": 0, "True": 1, "False": 0, 0: 0, 1: 1}


def _count_rewards(start: int, columns: dict[str, Sequence[Any]], successes: dict[Any, list[int]]) -> None:
    for offset, (prompt, reward) in enumerate(zip(columns["prompt_id"], columns["reward"], strict=True)):
        key = reward.strip() if isinstance(reward, str) else reward
        value = _REWARDS.get(key) if isinstance(key, (str, int, float)) else None
        if value is None:
            raise InvalidTable(
                f"row {start + offset}: reward must be 0 or 1; got {reward!r:.40} (apply a success threshold first)",
                field="reward",
            )
        if prompt is None or prompt == "":
            raise InvalidTable(f"row {start + offset}: prompt_id is empty", field="prompt_id")
        if isinstance(prompt, (dict, list)):
            prompt = json.dumps(prompt, sort_keys=True)
        counts = successes.setdefault(prompt, [0, 0])
        counts[0] += value
        counts[1] += 1
