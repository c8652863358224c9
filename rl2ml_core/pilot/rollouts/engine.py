"""DuckDB: one statement per batch of files gives its partial aggregate, memory within a limit."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYet
from contextlib import contextmanager, suppress
from itertools import islice
from typing import Any, Self

from rl2ml_core.errors import InvalidTable
from rl2ml_core.pilot.rollouts.aggregate import INDEX, MOST_REJECTS, aggregate_sql, flat_tally_sql, source_sql
from rl2ml_core.pilot.rollouts.connection import DEFAULT_MEMORY, LONGEST_RECORD, USUAL_RECORD, connect, translated
from rl2ml_core.pilot.rollouts.format import Head, Options, Scan
from rl2ml_core.pilot.rollouts.partials import Partials
from rl2ml_core.pilot.rollouts.sql import identifier

__all__ = ["SMALL", "Engine", "Tally"]

_DOCUMENTS_AT_ONCE = 1024
#: Files up to it are read together with a number beside each row; bytes.
SMALL = 1 << 25
_TICK = 0.1  # seconds between looks at how far a statement is

#: Per file: (reason or None) → (rows seen, rows used, rollouts, partial scores, flaky completions, noted rows).
Tally = dict[str | None, tuple[int, int, int, int, int, int]]


class Engine:
    """A connection of its own, and what has been read through it. Close it, or use it as a context."""

    def __init__(
        self,
        options: Options,
        *,
        memory_limit: str | None = None,
        threads: int | None = None,
        temp_directory: str | None = None,
    ) -> None:
        self.options = options
        if temp_directory is not None:
            os.makedirs(temp_directory, exist_ok=True)
        self._scratch = None if temp_directory is not None else tempfile.mkdtemp(prefix="rl2ml-")
        try:
            self.connection = connect(memory_limit or DEFAULT_MEMORY, threads, temp_directory or self._scratch or ".")
        except BaseException:
            self.close()
            raise
        self.partials = Partials(self._run, self.rows)
        self._long: set[str] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if hasattr(self, "connection"):
            self.connection.close()
        if self._scratch is not None:
            shutil.rmtree(self._scratch, ignore_errors=True)

    # --- reading ------------------------------------------------------------------------------------------------------

    def source(self, scan: Scan, paths: Sequence[str], *, rejects: bool = False) -> str:
        """The rows of files, for FROM."""
        full = [os.path.abspath(path) for path in paths]
        longest = LONGEST_RECORD if self._long.intersection(full) else USUAL_RECORD
        return source_sql(scan, full, skip_errors=self.options.skip_errors, longest=longest, rejects=rejects)

    def aggregate(
        self, scan: Scan, paths: Sequence[str], tick: Callable[[float], object] | None = None
    ) -> tuple[str, list[Tally]]:
        """Files of one scan into a partial aggregate of their own, which `partials.keep` adds to what was read.

        Args:
            scan: of all of them.
            paths: several only where the format is no document.
            tick: is told how much of them is done, 0 to 1.

        Returns:
            The name of its table, and what became of the rows of each file.

        Raises:
            InvalidTable: a file cannot be read; its row is not named yet.
        """
        many = len(paths) > 1
        # Shards of one table share their prompts: with their files beside them groups would be as many as rows.
        together = many and scan.flat and sum(map(os.path.getsize, paths)) > SMALL
        table = self.partials.new_name()
        rejects = self.options.skip_errors and scan.kind in ("csv", "tsv")
        source = self.source(scan, paths, rejects=rejects)
        statement = aggregate_sql(scan, source, self.options, by_file=many and not together)
        try:
            with self.documents(scan, paths[0]):
                self._run(f"CREATE TEMP TABLE {table} AS {statement}", tick)
            if rejects:
                self._count_rejects(table, [os.path.abspath(path) for path in paths])
        except InvalidTable as error:
            self.partials.drop(table)
            path = os.path.abspath(paths[0])
            if many or "maximum_object_size" not in str(error) or path in self._long:
                raise
            self._long.add(path)
            with self.in_order():
                return self.aggregate(scan, paths, tick)
        finally:
            if rejects:
                self.partials.drop("rl2ml_rejects")
                self.partials.drop("rl2ml_rejected_files")
        if together:
            return table, self._tallies(flat_tally_sql(scan, source, self.options), len(paths))
        return table, self.tallies(table, len(paths))

    def receive(self, part: bytes) -> str:
        """The table of a partial aggregate that another process saved to a file of these bytes."""
        with tempfile.NamedTemporaryFile(suffix=".parquet") as file:
            file.write(part)
            file.flush()
            return self.partials.load(file.name)

    def _count_rejects(self, table: str, paths: list[str]) -> None:
        """Adds the rows that csv's reader left out to a partial aggregate, which does not have them."""
        found = self.rows(
            "SELECT file_path, count(DISTINCT line), min(line) FILTER (WHERE error_type = 'UNQUOTED VALUE') "
            "FROM rl2ml_rejects JOIN rl2ml_rejected_files USING (scan_id, file_id) GROUP BY ALL"
        )
        for path, count, unterminated in found:
            # With a quote that never ends all rows behind it are gone, uncounted.
            if unterminated is not None:
                raise InvalidTable(f"line {unterminated} has a quote that does not end")
            if count >= MOST_REJECTS:
                raise InvalidTable(f"{MOST_REJECTS} rows or more are no rows like the header")
            columns = {"skip": "'unreadable'", "seen": str(count)}
            columns |= dict.fromkeys(("used", "n", "k", "partial", "flaky", "noted"), "0")
            columns |= {"file": str(paths.index(path))} if len(paths) > 1 else {}
            names, values = ", ".join(columns), ", ".join(columns.values())
            self._run(f"INSERT INTO {table} ({names}) VALUES ({values})")

    def tallies(self, table: str, files: int) -> list[Tally]:
        """What became of the rows of each file of a partial aggregate."""
        file = "file" if files > 1 else "0"
        counts = ", ".join(
            f"CAST(sum({name}) AS BIGINT)" for name in ("seen", "used", "n", "partial", "flaky", "noted")
        )
        return self._tallies(f"SELECT {file}, CAST(skip AS VARCHAR), {counts} FROM {table} GROUP BY ALL", files)

    def _tallies(self, statement: str, files: int) -> list[Tally]:
        found: list[Tally] = [{} for _ in range(files)]
        for index, skip, *numbers in self.rows(statement):
            found[index][skip] = tuple(numbers)
        return found

    # --- looking ------------------------------------------------------------------------------------------------------

    def rows(self, statement: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """The result of a statement."""
        with translated():
            return self.connection.execute(statement, list(parameters)).fetchall()  # type: ignore[no-any-return]

    def schema(self, path: str) -> dict[str, str]:
        """Names and types of a parquet file's columns."""
        source = self.source(Scan("", "parquet"), [path])
        described = self.rows(f"DESCRIBE SELECT * EXCLUDE (rl2ml_file, {INDEX}) FROM {source}")
        return {row[0]: row[1] for row in described}

    def distinct(self, head: Head, name: str) -> list[str]:
        """The values of a field of JSON records over a whole file, sorted; at most 100."""
        scan = Scan("", head.kind, ((name, "VARCHAR"),), compression=head.compression)
        column = identifier(name)
        found = self.rows(
            f"SELECT DISTINCT {column} FROM {self.source(scan, [head.path])} "
            f"WHERE {column} IS NOT NULL ORDER BY 1 LIMIT 100"
        )
        return [row[0] for row in found]

    @contextmanager
    def documents(self, scan: Scan, path: str) -> Iterator[None]:
        """While it is open, the rows of a document are a table."""
        if scan.documents is None:
            yield
            return
        import pyarrow

        from rl2ml_core.pilot.rollouts.documents import SCHEMA

        rows = scan.documents(path, self.options)
        failed: list[BaseException] = []

        def batches() -> Iterator[Any]:
            try:
                while chunk := list(islice(rows, _DOCUMENTS_AT_ONCE)):
                    yield pyarrow.RecordBatch.from_pylist(chunk, schema=SCHEMA())
            except BaseException as error:
                failed.append(error)  # DuckDB would wrap it
                raise

        self.connection.register("rl2ml_documents", pyarrow.RecordBatchReader.from_batches(SCHEMA(), batches()))
        try:
            yield
        except Exception:
            if failed:
                raise failed[0] from None
            raise
        finally:
            self.connection.unregister("rl2ml_documents")

    @contextmanager
    def in_order(self) -> Iterator[None]:
        """While it is open, rows come in the order of their file."""
        (threads,) = self.rows("SELECT current_setting('threads')")[0]
        self._run("SET threads = 1")
        self._run("SET preserve_insertion_order = true")
        try:
            yield
        finally:
            self._run(f"SET threads = {threads}")
            self._run("SET preserve_insertion_order = false")

    # --- running ------------------------------------------------------------------------------------------------------

    def _run(self, statement: str, tick: Callable[[float], object] | None = None) -> None:
        with translated():
            if tick is None:
                self.connection.execute(statement)
                return
            with ThreadPoolExecutor(1) as pool:
                running = pool.submit(self.connection.execute, statement)
                try:
                    while True:
                        try:
                            running.result(_TICK)
                            return
                        except NotYet:
                            tick(min(max(self.connection.query_progress() / 100, 0.0), 1.0))
                except BaseException:
                    with suppress(Exception):
                        self.connection.interrupt()
                    raise
