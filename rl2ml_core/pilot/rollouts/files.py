"""Which files are meant: paths, directories, globs; and a bounded look at each."""

import csv
import errno
import glob
import io
import json
import os
import re
import zipfile
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, BinaryIO

from rl2ml_core.errors import InvalidInput, InvalidTable
from rl2ml_core.pilot.rollouts.format import Head

__all__ = ["ENDINGS", "HEAD_BYTES", "MAX_RECORD_BYTES", "expand", "is_pickle", "open_binary", "read_head"]

#: What is looked for in directories.
ENDINGS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".pq", ".eval")
_PICKLES = (".pkl", ".pickle", ".pt", ".pth")
_COMPRESSED = (".gz", ".zst")

#: What detection reads of a file …
HEAD_BYTES = 1 << 20
#: … unless its first record is longer: up to this, which is also the most that one record may hold.
MAX_RECORD_BYTES = 1 << 26
_RECORDS = 64  # whose fields are known together
_MEMBERS = 100_000


def expand(paths: Any) -> list[tuple[str, bool]]:
    """The files that paths, directories (recursively) and globs name, each once, in natural order.

    Args:
        paths: one or several.

    Returns:
        (path, named): `named` is False for what was found in a directory, where other files may lie.

    Raises:
        InvalidInput: no path, or nothing found.
        FileNotFoundError: a path that does not exist and is no pattern.
    """
    given = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths) if isinstance(paths, Iterable) else []
    if not given:
        raise InvalidInput(f"paths must name at least one file, directory or pattern; got {paths!r:.60}", field="paths")
    found: dict[str, tuple[str, bool]] = {}
    for item in given:
        if not isinstance(item, (str, os.PathLike)) or isinstance(item, bytes) or "\0" in os.fspath(item):
            raise InvalidInput(f"paths must be text or pathlib paths; got {item!r:.60}", field="paths")
        text = os.path.expanduser(os.fspath(item))
        for path, named in _named(text):
            real = os.path.realpath(path)
            first, was_named = found.get(real, (path, False))
            found[real] = (first, named or was_named)
    if not found:
        endings = ", ".join(ENDINGS)
        shown = ", ".join(str(item)[:60] for item in given[:5])
        raise InvalidInput(f"no files in {shown}: looked for {endings}, also with .gz or .zst", field="paths")
    return sorted(found.values(), key=lambda pair: _natural(pair[0]))


def _named(text: str) -> Iterable[tuple[str, bool]]:
    if os.path.isdir(text):
        return [(path, False) for path in _walk(text)]
    if os.path.lexists(text):
        return [(text, True)]
    if glob.has_magic(text):
        matches = glob.glob(text, recursive=True)
        files = [(path, True) for path in matches if os.path.isfile(path)]
        return files + [(path, False) for folder in matches if os.path.isdir(folder) for path in _walk(folder)]
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), text)


def _walk(folder: str) -> list[str]:
    paths = []
    for root, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        paths += [os.path.join(root, name) for name in names if not name.startswith(".") and _wanted(name.lower())]
    return paths


def _wanted(name: str) -> bool:
    for ending in _COMPRESSED:
        name = name.removesuffix(ending)
    return name.endswith(ENDINGS + _PICKLES)


def _natural(path: str) -> list[tuple[int, int, str]]:
    """10.jsonl after 9.jsonl."""
    parts = re.split(r"([0-9]+)", path)
    return [(1, int(part[:300]), part) if i % 2 else (0, 0, part) for i, part in enumerate(parts)]


def is_pickle(path: str, start: bytes) -> bool:
    """By name or content: pickles run code when they are loaded, and never are."""
    return path.lower().endswith(_PICKLES) or re.match(rb"\x80[\x02-\x05]", start) is not None


def open_binary(path: str, compression: str) -> BinaryIO:
    """A stream of decompressed bytes."""
    if compression == "gzip":
        import gzip

        return gzip.open(path, "rb")  # type: ignore[return-value]
    if compression == "zstd":
        import pyarrow

        return io.BufferedReader(pyarrow.input_stream(path, compression="zstd"))
    return Path(path).open("rb")


def read_head(path: str, schema: Callable[[str], dict[str, str]]) -> Head:
    """What a file is.

    Args:
        path: of the file.
        schema: names and types of a parquet file's columns.

    Raises:
        InvalidTable: damaged, or no text.
        OSError: it cannot be read.
    """
    if not os.path.isfile(path):
        raise InvalidTable("not a regular file")
    with Path(path).open("rb") as stream:
        start = stream.read(8)
    if is_pickle(path, start):
        return Head(path, "pickle")
    if not start:
        return Head(path, "empty")
    if start.startswith(b"PAR1"):
        try:
            types = schema(path)
        except InvalidTable as error:
            raise InvalidTable(f"not a readable parquet file: {error}") from None
        return Head(path, "parquet", tuple(types), types)
    if start.startswith(b"PK\x03\x04"):
        return _zip(path)
    compression = {b"\x1f\x8b": "gzip", b"\x28\xb5": "zstd"}.get(start[:2], "none")
    try:
        content, ended = _beginning(path, compression)
    except InvalidTable:
        raise
    except (EOFError, zlib.error, OSError, ValueError) as error:
        if compression == "none":
            raise
        raise InvalidTable(f"damaged {compression}: {str(error)[:100]}") from None
    if compression != "none" and is_pickle("", content):
        return Head(path, "pickle")
    if compression != "none" and content.startswith(b"PAR1"):
        raise InvalidTable("parquet inside a compressed file; decompress it first")
    return _text(path, compression, content, ended)


def _beginning(path: str, compression: str) -> tuple[bytes, bool]:
    """The first bytes, at least a line of them, and whether they are all."""
    content = bytearray()
    with open_binary(path, compression) as stream:
        limit = HEAD_BYTES
        while len(content) < limit:
            try:
                part = stream.read(min(HEAD_BYTES, limit - len(content)))
            except (EOFError, OSError, zlib.error):
                if b"\n" not in content:
                    raise
                break  # reading all of it will say where
            if not part:
                return bytes(content), True
            content += part
            if b"\n" in part and limit > HEAD_BYTES:
                break
            if len(content) == limit and b"\n" not in content:
                if limit == MAX_RECORD_BYTES:
                    raise InvalidTable(f"line 1 is longer than {MAX_RECORD_BYTES >> 20} MiB")
                limit = MAX_RECORD_BYTES
    return bytes(content), False


def _text(path: str, compression: str, content: bytes, ended: bool) -> Head:
    content = content.removeprefix(b"\xef\xbb\xbf")
    lines = content.split(b"\n")
    if not ended:
        lines.pop()  # it may go on
    lines = [line for line in lines if line.strip()]
    if not lines:
        return Head(path, "empty", compression=compression)
    name = path.lower().removesuffix(".gz").removesuffix(".zst")
    if lines[0].lstrip()[:1] in (b"{", b"[") and not name.endswith((".csv", ".tsv")):
        return _json(path, compression, lines, content, name)
    try:
        first = lines[0].decode()
    except UnicodeDecodeError:
        raise InvalidTable("line 1 is not UTF-8 text") from None
    if name.endswith((".jsonl", ".ndjson", ".json")):
        raise InvalidTable("line 1 is no JSON object; expected one object per line")
    kind = "tsv" if "\t" in first and not name.endswith(".csv") else "csv"
    try:
        header = next(csv.reader(io.StringIO(first, newline=""), delimiter="\t" if kind == "tsv" else ",", strict=True))
    except (csv.Error, StopIteration) as error:
        raise InvalidTable(f"line 1 is no header of {kind}: {error}") from None
    fields = tuple(field.strip() for field in header)
    if len(fields) == 1 and ";" in first:
        raise InvalidTable(f"columns are separated by semicolons; expected commas or tabs: {first.strip()[:80]!r}")
    if len({field.lower() for field in fields}) < len(fields):  # as SQL compares names
        raise InvalidTable(f"the header names a column twice: {first.strip()[:80]!r}")
    if not first.isprintable() and not first.replace("\t", "").strip().isprintable():
        return Head(path, "other", compression=compression)
    return Head(path, kind, fields, compression=compression)


def _json(path: str, compression: str, lines: list[bytes], content: bytes, name: str) -> Head:
    records = [record for record in map(_record, lines[:_RECORDS]) if record is not None]
    text = content[:HEAD_BYTES].decode(errors="replace") if name.endswith(".json") else ""
    if text and _record(lines[0]) is None:
        return Head(path, "json", compression=compression, text=text)
    if not records:
        raise InvalidTable("line 1 is no JSON object; expected one object per line")
    # Lines that are none will be named, or left out, when all are read.
    fields = dict.fromkeys(field for record in records for field in record)
    first = records[0]
    if text and len(lines) == 1 and "samples" in fields:
        return Head(path, "json", tuple(fields), {}, first, compression, text=text)
    return Head(path, "jsonl", tuple(fields), first=first, compression=compression)


def _record(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def _zip(path: str) -> Head:
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.namelist()[:_MEMBERS]
    except (zipfile.BadZipFile, NotImplementedError, ValueError, EOFError) as error:
        raise InvalidTable(f"damaged zip: {str(error)[:100]}") from None
    if any(name.endswith("data.pkl") for name in members):
        return Head(path, "pickle")
    return Head(path, "zip", members=members)
