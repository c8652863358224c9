"""The second look: which row is wrong, and what is in it. Slow, and only taken once something is wrong."""

import csv
import io
import json
import re
from collections.abc import Iterator
from typing import BinaryIO

from rl2ml_core.errors import InvalidInput, InvalidTable
from rl2ml_core.pilot.rollouts.aggregate import rows_sql
from rl2ml_core.pilot.rollouts.engine import Engine
from rl2ml_core.pilot.rollouts.files import MAX_RECORD_BYTES, open_binary
from rl2ml_core.pilot.rollouts.format import BAD, Scan

__all__ = ["bad_row", "needs_rule", "shown", "unreadable"]

_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_DISTINCT = 8


def shown(value: object, most: int = 60) -> str:
    """A value for a sentence: short and printable."""
    text = " ".join(str(value).split())
    text = text if text.isprintable() else ascii(text)[1:-1]
    return text if len(text) <= most else f"{text[: most - 1]}…"


def bad_row(engine: Engine, scan: Scan, path: str, reasons: list[str]) -> InvalidTable:
    """The first row of a file that has one of some reasons, as an error."""
    where, reason, value = "", reasons[0], None
    wanted = ", ".join(f"'{one}'" for one in reasons)
    place = "place" if scan.documents else "CAST(row_number() OVER () AS VARCHAR)"
    source = f"(SELECT *, {place} AS rl2ml_row FROM {engine.source(scan, [path])})"
    rows = rows_sql(scan, source, engine.options, found_at="rl2ml_row")
    value_sql = "concat(k, ' of ', n)" if scan.counts else "given"
    with engine.in_order(), engine.documents(scan, path):
        found = engine.rows(
            f"SELECT found_at, CAST(skip AS VARCHAR), {value_sql} FROM ({rows}) WHERE skip IN ({wanted}) LIMIT 1"
        )
    for at, reason, value in found:  # noqa: B007  (at most one)
        where = at if scan.documents else _place(scan, path, int(at))
    text = str(value).strip('"')  # JSON's
    got = f"; got {shown(text, 40)!r}" if value is not None and reason in ("not a number", "not counts") else ""
    return InvalidTable(f"{path}: {where or 'a row'} {BAD[reason]}{got}")


def _place(scan: Scan, path: str, record: int) -> str:
    """Where the n-th record of a file is."""
    if scan.kind == "parquet":
        return f"row {record}"
    with open_binary(path, scan.compression) as stream:
        if scan.kind == "jsonl":
            full = (number for number, line in _lines(stream) if line.strip())
            for i, number in enumerate(full, start=1):
                if i == record:
                    return f"line {number}"
            return f"record {record}"
        text = io.TextIOWrapper(stream, encoding="utf-8-sig", errors="replace", newline="")
        reader = csv.reader(text, delimiter="\t" if scan.kind == "tsv" else ",")
        try:
            for i, _ in enumerate(row for row in reader if row):
                if i == record:
                    return f"line {reader.line_num}"
        except csv.Error:
            pass
    return f"record {record}"


def unreadable(scan: Scan, path: str, error: InvalidTable) -> InvalidTable:
    """An error about a file that could not be read, with the line to blame if it can be found."""
    message = str(error)
    if scan.documents is not None:
        return InvalidTable(f"{path}: {message}")
    if scan.kind == "jsonl":
        try:
            message = _bad_line(path, scan.compression) or message
        except (OSError, EOFError, ValueError) as damaged:
            message = f"damaged {scan.compression}: {shown(damaged, 100)}"
    message = message.replace(path, "the file")
    record = re.match(r'JSON transform error in file "[^"]*", in line (\d+): (.*)', message)
    if record:
        message = f"line {record[1]}: {record[2]}"
    csv_line = re.match(r"CSV Error on Line: (\d+)(.*)", message)
    if csv_line:
        message = f"line {csv_line[1]} is no row like the header{csv_line[2]}"
    if scan.kind == "parquet":
        message = f"not a readable parquet file: {shown(message, 200)}"
    return InvalidTable(f"{path}: {shown(message, 300)}")


def _lines(stream: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Lines by number; one that is too long ends them."""
    number = 0
    while line := stream.readline(MAX_RECORD_BYTES + 1):
        number += 1
        yield number, line
        if len(line) > MAX_RECORD_BYTES:
            return


def _bad_line(path: str, compression: str) -> str:
    with open_binary(path, compression) as stream:
        for number, line in _lines(stream):
            if number == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")
            if line.strip() and (wrong := _wrong(line)):
                return f"line {number} {wrong}"
    return ""


def _wrong(line: bytes) -> str:
    """What is wrong with a line of JSON, if anything is."""
    if len(line) > MAX_RECORD_BYTES:
        return f"is longer than {MAX_RECORD_BYTES >> 20} MiB"
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        return f"is not UTF-8 text (byte {error.start + 1})"
    try:
        record = json.loads(text)
    except RecursionError:
        return "is nested too deeply"
    except ValueError as error:
        return f"is not JSON: {shown(error, 80)}; got {shown(text, 40)!r}"
    if not isinstance(record, dict):
        return f"is no JSON object; got {shown(text, 40)!r}"
    if _SURROGATE.search(text):
        try:
            json.dumps(record, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            return "holds half of a surrogate pair, which is no text"
    return ""


def needs_rule(engine: Engine, scan: Scan, path: str) -> InvalidInput:
    """Scores that are not all 0 or 1, as an error that shows them and proposes a rule."""
    rows = rows_sql(scan, engine.source(scan, [path]), engine.options)
    with engine.documents(scan, path):
        values = engine.rows(f"SELECT score, count(*) FROM ({rows}) WHERE skip IS NULL GROUP BY ALL ORDER BY 2 DESC, 1")
    most = ", ".join(f"{score:g} ({count}×)" for score, count in values[:_DISTINCT])
    rest = f" and {len(values) - _DISTINCT} more" if len(values) > _DISTINCT else ""
    highest = max(score for score, _ in values)
    # A whole reward of 1 is a success wherever 1 occurs; otherwise only people know.
    proposed = "score >= 1" if highest >= 1 else f"score >= {highest:g}"
    return InvalidTable(
        f"{path}: scores are not all 0 or 1; {len(values)} distinct values: {most}{rest}. Say what a success is, "
        f"such as success={proposed!r}",
        field="success",
    )
