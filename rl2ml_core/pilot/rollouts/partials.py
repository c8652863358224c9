"""Partial aggregates: counts per (step, prompt, …) that merge exactly, and their form on disk.

Everything that is kept is counts per key: the order of files and rows, the size of batches, the number of threads and
where they ran cannot show in the result.
"""

from collections.abc import Callable, Sequence
from typing import Any

from rl2ml_core.pilot.rollouts.aggregate import KEYS
from rl2ml_core.pilot.rollouts.sql import literal

__all__ = ["Partials"]

#: Partial aggregates of one size are merged when there are so many: each row is rewritten a few times in all.
_PARTS = 8
_HALF = 1 << 64


class Partials:
    """What was read so far, as tables of a connection.

    Args:
        run: executes a statement.
        rows: executes one and gives its rows.
    """

    def __init__(self, run: Callable[[str], None], rows: Callable[[str], list[tuple[Any, ...]]]) -> None:
        self._run, self._rows = run, rows
        self._parts: list[tuple[int, str, tuple[str, ...]]] = []  # level, table, its keys
        self._made = 0

    def new_name(self) -> str:
        """A name for a table that is not in use."""
        self._made += 1
        return f"rl2ml_part_{self._made}"

    def keep(self, table: str) -> None:
        """Adds a partial aggregate to what was read."""
        columns = self._columns(table)
        self._parts.append((0, table, tuple(name for name in KEYS if name in columns)))
        while True:
            level = self._parts[-1][0]
            same = [part for part in self._parts if part[0] == level]
            if len(same) < _PARTS:
                return
            self._merge(same, level + 1)

    def drop(self, table: str) -> None:
        self._run(f"DROP TABLE IF EXISTS {table}")

    def save(self, table: str, path: str) -> None:
        """Writes a partial aggregate to a parquet file."""
        # Parquet has no integers of 128 bits: as they are they would lose all but 53.
        long = self._long_keys(self._columns(table))
        halves = "".join(f", {name} // {_HALF} AS {name}_high, {name} % {_HALF} AS {name}_low" for name in long)
        whole = f"* EXCLUDE ({', '.join(long)})" if long else "*"
        typed = ", ".join(
            f"CAST({name}_{half} AS UBIGINT) AS {name}_{half}" for name in long for half in ("high", "low")
        )
        outer = f"* REPLACE ({typed})" if long else "*"
        self._run(
            f"COPY (SELECT {outer} FROM (SELECT {whole}{halves} FROM {table})) TO {literal(path)} (FORMAT parquet)"
        )

    def load(self, path: str) -> str:
        """The table of a partial aggregate from such a file; InvalidTable where it is none."""
        source = f"read_parquet({literal(path)})"
        columns = self._columns(f"(FROM {source})")
        long = [name for name, kind in KEYS.items() if kind == "UHUGEINT" and f"{name}_high" in columns]
        made = "".join(f", CAST({name}_high AS UHUGEINT) * {_HALF} + {name}_low AS {name}" for name in long)
        parts = [f"{name}_{half}" for name in long for half in ("high", "low")]
        whole = f"* EXCLUDE ({', '.join(parts)})" if parts else "*"
        table = self.new_name()
        reason = "REPLACE (CAST(skip AS rl2ml_reason) AS skip)"
        self._run(f"CREATE TEMP TABLE {table} AS SELECT {whole} {reason}{made} FROM {source}")
        return table

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys that any of the parts has."""
        return tuple(name for name in KEYS if any(name in part[2] for part in self._parts))

    def counted(self, *keys: str) -> str:
        """For FROM: num_rollouts and num_successes by some of the keys, summed over everything that was read."""
        present = tuple(name for name in keys if name in self.keys)
        absent = [f"CAST(NULL AS {KEYS[name]}) AS {name}" for name in keys if name not in present]
        both = ", ".join(present)
        named = ", ".join([*present, *absent])
        if len(self._parts) == 1 and set(self._parts[0][2]) == set(present) and self._single():
            return f"(SELECT {named}, n AS num_rollouts, k AS num_successes FROM {self._union(self._parts, present)})"
        sums = "CAST(sum(n) AS BIGINT) AS num_rollouts, CAST(sum(k) AS BIGINT) AS num_successes"
        return f"(SELECT {named}, {sums} FROM {self._union(self._parts, present)} GROUP BY {both})"

    def _columns(self, source: str) -> list[str]:
        return [row[0] for row in self._rows(f"SELECT column_name FROM (DESCRIBE {source})")]

    @staticmethod
    def _long_keys(columns: Sequence[str]) -> list[str]:
        return [name for name, kind in KEYS.items() if kind == "UHUGEINT" and name in columns]

    def _merge(self, parts: list[tuple[int, str, tuple[str, ...]]], level: int) -> None:
        keys = tuple(name for name in KEYS if any(name in part[2] for part in parts))
        table = self.new_name()
        both = ", ".join(keys)
        sums = "CAST(sum(n) AS BIGINT) AS n, CAST(sum(k) AS BIGINT) AS k"
        self._run(f"CREATE TEMP TABLE {table} AS SELECT {both}, {sums} FROM {self._union(parts, keys)} GROUP BY {both}")
        for part in parts:
            self.drop(part[1])
            self._parts.remove(part)
        self._parts.append((level, table, keys))

    def _union(self, parts: list[tuple[int, str, tuple[str, ...]]], keys: tuple[str, ...]) -> str:
        selects = []
        for level, table, present in parts:
            columns = [name if name in present else f"CAST(NULL AS {KEYS[name]}) AS {name}" for name in keys]
            # Only what was just read has rows that are left out.
            counted = "" if level else " WHERE skip IS NULL"
            selects.append(f"SELECT {', '.join(columns)}, n, k FROM {table}{counted}")
        return f"({' UNION ALL '.join(selects)})"

    def _single(self) -> bool:
        """Whether the only part has one row per key: it was read from one file, or merged."""
        level, table, _ = self._parts[0]
        return bool(level) or "file" not in self._columns(table)
