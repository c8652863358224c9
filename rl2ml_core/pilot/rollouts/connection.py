"""A connection to DuckDB with its limits, and DuckDB's errors as this library's."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rl2ml_core.errors import InvalidInput, InvalidTable, MissingExtra
from rl2ml_core.pilot.rollouts.files import MAX_RECORD_BYTES
from rl2ml_core.pilot.rollouts.format import REASONS
from rl2ml_core.pilot.rollouts.sql import literal

__all__ = ["DEFAULT_MEMORY", "LONGEST_RECORD", "USUAL_RECORD", "connect", "translated"]

#: The groups of four million prompts fit, more spill to disk.
DEFAULT_MEMORY = "1GB"
#: What the process takes beside DuckDB's own memory; bytes.
_BESIDES = 250_000_000
#: Buffers of JSON hold twice the longest record they are made for, one per thread. Files with longer records than usual
#: are read by one thread.
USUAL_RECORD, LONGEST_RECORD = 1 << 24, MAX_RECORD_BYTES // 2
#: Memory per thread: such a buffer, and as much again for its groups several times.
_PER_THREAD = 1 << 27


def connect(memory_limit: str, threads: int | None, temp_directory: str) -> Any:
    """A connection to a database of its own in memory.

    Args:
        memory_limit: such as "2GB"; of the process, so that DuckDB gets less.
        threads: None takes the cores, as many as the memory is enough for.
        temp_directory: for what does not fit.

    Raises:
        InvalidInput: a limit that is none.
        MissingExtra: DuckDB or pyarrow is not installed.
    """
    try:
        import duckdb
        import pyarrow  # noqa: F401  (documents and zstd pass through it)
    except ImportError:
        raise MissingExtra("Reading rollouts", "ingest") from None
    connection = duckdb.connect(
        ":memory:", config={"autoinstall_known_extensions": False, "autoload_known_extensions": False}
    )
    try:
        connection.execute(f"SET memory_limit = {literal(str(memory_limit))}")
        connection.execute(f"SET temp_directory = {literal(temp_directory)}")
        size, unit = connection.execute("SELECT current_setting('memory_limit')").fetchall()[0][0].split()
        memory = float(size) * 1024 ** ("bytes", "KiB", "MiB", "GiB", "TiB", "PiB").index(unit)
        memory = max(memory - _BESIDES, memory / 2)
        connection.execute(f"SET memory_limit = '{memory:.0f}B'")
        if threads is None:
            cores = connection.execute("SELECT current_setting('threads')").fetchall()[0][0]
            threads = max(1, min(cores, int(memory / _PER_THREAD)))
        connection.execute(f"SET threads = {threads}")
    except (duckdb.Error, ValueError) as error:
        connection.close()
        raise InvalidInput(f"memory_limit must read like '2GB'; got {memory_limit!r:.40} ({_first(error)})") from None
    connection.execute("SET preserve_insertion_order = false")
    connection.execute("SET enable_progress_bar = true")
    connection.execute("SET enable_progress_bar_print = false")
    connection.execute(f"CREATE TYPE rl2ml_reason AS ENUM ({', '.join(map(literal, REASONS))})")
    return connection


@contextmanager
def translated() -> Iterator[None]:
    """DuckDB's errors as this library's."""
    import duckdb

    try:
        yield
    except duckdb.OutOfMemoryException as error:
        raise InvalidInput(
            f"memory_limit is too small for it, or the disk under temp_directory is full: {_first(error)}",
            field="memory_limit",
        ) from None
    except (duckdb.InternalException, duckdb.FatalException) as error:
        # The connection is of no more use, whatever the other files hold.
        raise InvalidInput(f"DuckDB failed: {_first(error)}") from None
    except duckdb.Error as error:
        raise InvalidTable(_first(error)) from None


def _first(error: BaseException) -> str:
    """What a message says before it turns to advice on DuckDB."""
    text = re.sub(r"^[A-Z][A-Za-z ]{1,30} Error: ", "", str(error).split("\n")[0])[:300]
    return text if text.isprintable() else ascii(text)[1:-1]
