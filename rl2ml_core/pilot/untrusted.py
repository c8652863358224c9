"""Pilots from tables that strangers sent: as `read_pilot`, with what they may cost bounded before it is decoded.

A few kilobytes of Parquet may say that they are a billion rows, and a few more may be one text a million times over.
So rows are counted before they are decoded, columns other than flat numbers and text are refused, text stays encoded by
its dictionary, and lines have a length. Compressed pages may still lie about their size: whoever reads on behalf of
others sets a limit on the process's memory as well.
"""

import hashlib
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, TextIO

from rl2ml_core.errors import InvalidInput, InvalidTable, MissingExtra
from rl2ml_core.pilot.histogram import PilotHistogram
from rl2ml_core.pilot.tables import _ROWS_AT_ONCE, _Batch, _histograms, _text_batches, _values, _wanted

__all__ = ["UNTRUSTED_FORMATS", "read_untrusted"]

UNTRUSTED_FORMATS: Final = ("csv", "jsonl", "parquet", "arrow")

_LONGEST_LINE: Final = 1 << 20
#: Bytes that columns may come to once uncompressed, by what the file says of itself: real tables are encoded before
#: they are compressed, and so shrink by less than this.
_LARGEST: Final = 32 << 20
_SHRINKS: Final = 20
#: Longer texts are told apart by a hash: a column may hold one of them a million times, and each would be compared.
_LONGEST_KEY: Final = 64
_DICTIONARY_BATCH, _RECORD_BATCH = 2, 3  # of MessageHeader
_LONGEST_NAME: Final = 1 << 20  # of whatever a Parquet file's own description holds


def read_untrusted(path: str | Path, format: str, *, max_rows: int) -> PilotHistogram:  # noqa: A002
    """A pilot from a file that may be meant to do harm.

    Args:
        path: the file.
        format: "csv", "jsonl", "parquet" or "arrow", a stream of Arrow's record batches.
        max_rows: that the table may have.

    Raises:
        InvalidTable: as `read_pilot`, and for tables beyond these bounds. What it quotes of the table follows "; got",
            "; found" or ": got".
        MissingExtra: parquet or arrow without pyarrow.
        MemoryError: the process's limit on memory was reached.
    """
    if format not in UNTRUSTED_FORMATS:
        raise InvalidTable(f"unknown format; expected one of {', '.join(UNTRUSTED_FORMATS)}", field="format")
    try:
        if format in ("csv", "jsonl"):
            _count_lines(path, max_rows)
            with Path(path).open(encoding="utf-8-sig", newline="") as stream:
                lines: Any = _Lines(stream)
                return _pilot(_text_batches(lines, format, None), max_rows)
        return _pilot(_arrow_batches(path, format, max_rows), max_rows)
    except UnicodeDecodeError:
        raise InvalidTable("the table is not UTF-8 text") from None
    except RecursionError:
        raise InvalidTable("the table is nested too deep") from None
    except InvalidTable:
        raise
    except InvalidInput as error:
        raise InvalidTable(str(error), field=error.field) from None


def _pilot(batches: Iterator[_Batch], max_rows: int) -> PilotHistogram:
    (pilot,) = _histograms(_capped(batches, max_rows), None).values()
    return pilot


def _capped(batches: Iterator[_Batch], max_rows: int) -> Iterator[_Batch]:
    seen = 0
    for rows, columns in batches:
        seen += len(rows)
        _check_rows(seen, max_rows)
        yield rows, columns


def _check_rows(rows: int, most: int) -> None:
    if rows > most:
        raise InvalidTable(f"the table must have at most {most:,} rows")


# ---- text ----


def _count_lines(path: str | Path, max_rows: int) -> None:
    """Refuse too many lines in a hundredth of the time that it takes to read them."""
    lines = 0
    with Path(path).open("rb") as stream:
        while block := stream.read(1 << 20):
            lines += block.count(b"\n")
    _check_rows(lines - 2, max_rows)  # a header, and a line end too many


class _Lines:
    """A text's lines, none of them without end."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def readline(self) -> str:
        line = self._stream.readline(_LONGEST_LINE + 1)
        if len(line) > _LONGEST_LINE:
            raise InvalidTable(f"a line must have at most {_LONGEST_LINE:,} characters")
        return line

    def __iter__(self) -> Iterator[str]:
        while line := self.readline():
            yield line


# ---- columns ----


def _arrow_batches(path: str | Path, format: str, max_rows: int) -> Iterator[_Batch]:  # noqa: A002
    try:
        import pyarrow
        import pyarrow.ipc
        import pyarrow.parquet
    except ImportError:
        raise MissingExtra(f"Reading {format}", "ingest") from None
    try:
        batches = _parquet(path, max_rows) if format == "parquet" else _stream(path, max_rows)
        start = 1
        for batch, wanted in batches:
            yield range(start, start + batch.num_rows), {name: _column(batch.column(name)) for name in wanted}
            start += batch.num_rows
    except MemoryError:  # Arrow's own is one of them
        raise
    except (pyarrow.ArrowException, OSError, OverflowError, IndexError, KeyError, struct.error) as error:
        what = "Parquet file" if format == "parquet" else "stream of Arrow record batches"
        raise InvalidTable(f"not a readable {what}; got {str(error)[:120]}") from None


def _parquet(path: str | Path, max_rows: int) -> Iterator[tuple[Any, Sequence[str]]]:
    import pyarrow.parquet

    limits = {"thrift_string_size_limit": _LONGEST_NAME, "thrift_container_size_limit": _LONGEST_NAME}
    options: dict[str, Any] = {"pre_buffer": False, "memory_map": False, **limits}
    with pyarrow.parquet.ParquetFile(path, **options) as file:
        _check_rows(file.metadata.num_rows, max_rows)
        schema = file.schema_arrow
        wanted = _wanted(schema.names, None)
        texts = [name for name in wanted if _checked(schema, name)]
        sizes = 0
        for i in range(file.metadata.num_row_groups):
            group = file.metadata.row_group(i)
            chunks = (group.column(j) for j in range(group.num_columns))
            sizes += sum(chunk.total_uncompressed_size for chunk in chunks if chunk.path_in_schema in wanted)
        _check_size(sizes, path)
    with pyarrow.parquet.ParquetFile(path, read_dictionary=texts, **options) as file:
        for batch in file.iter_batches(batch_size=_ROWS_AT_ONCE, columns=list(wanted), use_threads=False):
            yield batch, wanted


def _stream(path: str | Path, max_rows: int) -> Iterator[tuple[Any, Sequence[str]]]:
    import pyarrow
    import pyarrow.ipc

    with pyarrow.memory_map(str(path)) as source:
        rows = sizes = 0
        for message in pyarrow.ipc.MessageReader.open_stream(source):
            more, size, is_dictionary = _announced(message.metadata.to_pybytes(), message.body)
            rows, sizes = rows + (0 if is_dictionary else more), sizes + size
            _check_rows(max(rows, more), max_rows)
        _check_size(sizes, path)
        source.seek(0)
        with pyarrow.ipc.open_stream(source) as reader:
            schema = reader.schema
            wanted = _wanted(schema.names, None)
            for name in wanted:
                _checked(schema, name)
        source.seek(0)
        places = sorted(schema.names.index(name) for name in wanted)
        chosen = pyarrow.ipc.IpcReadOptions(use_threads=False, included_fields=places)
        with pyarrow.ipc.open_stream(source, options=chosen) as reader:
            for batch in reader:
                batch.validate(full=True)  # offsets that point elsewhere would be followed
                for start in range(0, batch.num_rows, _ROWS_AT_ONCE):
                    yield batch.slice(start, _ROWS_AT_ONCE), wanted


def _announced(metadata: bytes, body: Any) -> tuple[int, int, bool]:
    """Rows of a message's batch, bytes of its compressed buffers once uncompressed, and whether it is a dictionary's.

    Arrow's library decodes a batch in order to say how many rows it has. Its format (Message.fbs) says so before.
    """

    def field(table: int, number: int) -> int | None:
        """Where a field of a flatbuffers table is."""
        fields = table - struct.unpack_from("<i", metadata, table)[0]
        if 4 + 2 * number >= struct.unpack_from("<H", metadata, fields)[0]:
            return None
        offset: int = struct.unpack_from("<H", metadata, fields + 4 + 2 * number)[0]
        return table + offset if offset else None

    def follow(place: int) -> int:
        return place + int(struct.unpack_from("<I", metadata, place)[0])

    message = follow(0)
    kind, header = field(message, 1), field(message, 2)
    which = 0 if kind is None else metadata[kind]
    if header is None or which not in (_DICTIONARY_BATCH, _RECORD_BATCH):
        return 0, 0, False
    batch = follow(header)
    if which == _DICTIONARY_BATCH:
        data = field(batch, 1)
        batch = batch if data is None else follow(data)
    length, buffers = field(batch, 0), field(batch, 2)
    rows = 0 if length is None else struct.unpack_from("<q", metadata, length)[0]
    if field(batch, 3) is None or buffers is None or body is None:
        return rows, 0, which == _DICTIONARY_BATCH
    content, vector, size = memoryview(body), follow(buffers), 0
    for i in range(struct.unpack_from("<I", metadata, vector)[0]):
        place, stored = struct.unpack_from("<qq", metadata, vector + 4 + 16 * i)
        if stored >= 8:
            size += max(0, struct.unpack_from("<q", content, place)[0])  # −1 says that it was not worth it
    return rows, size, which == _DICTIONARY_BATCH


def _check_size(size: int, path: str | Path) -> None:
    most = max(_LARGEST, _SHRINKS * Path(path).stat().st_size)
    if size > most:
        raise InvalidTable(f"uncompressed, the table must come to at most {most / 1e6:.0f} MB")


def _checked(schema: Any, name: str) -> bool:
    """Whether a column is text; anything but text and numbers is refused."""
    import pyarrow.types as types

    if schema.names.count(name) > 1:
        raise InvalidTable(f"column {name} appears twice", field=name)
    kind = schema.field(name).type
    text = kind.value_type if types.is_dictionary(kind) else kind
    if types.is_string(text) or types.is_large_string(text):
        return True
    if not (types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind)):
        raise InvalidTable(f"column {name} must be of numbers or text", field=name)
    return False


def _column(column: Any) -> Any:
    """A column's values; equal texts of a dictionary are one object, however often they come."""
    import pyarrow.types as types

    if not types.is_dictionary(column.type):
        return _values(column)
    texts = [_key(text) for text in column.dictionary.to_pylist()]
    return [None if i is None else texts[i] for i in column.indices.to_pylist()]


def _key(text: str | None) -> str | None:
    if text is None or len(text) <= _LONGEST_KEY:
        return text
    return f"#{hashlib.blake2b(text.encode(), digest_size=16).hexdigest()}"
