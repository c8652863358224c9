"""Columns of tables and fields of JSON records as SQL expressions, by name or dotted path."""

from collections.abc import Iterable
from dataclasses import dataclass

from rl2ml_core.errors import InvalidTable
from rl2ml_core.pilot.rollouts.format import Head, found
from rl2ml_core.pilot.rollouts.sql import content_key, id_key, identifier, integer_key, literal

__all__ = ["FILE", "FILE_HALF", "Column", "column", "declared", "id_in_file", "scoped"]

#: The path of a row's file, which the engine puts beside the columns.
FILE = "rl2ml_file"

#: What the upper half of `id_in_file` counts in.
FILE_HALF = 1 << 64

_INTEGERS = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT")


@dataclass(frozen=True)
class Column:
    """A column or field.

    Args:
        name: of the column that is read.
        type: of what is read.
        sql: the value, of that type.
        text: the value as VARCHAR; nested ones as JSON.
    """

    name: str
    type: str
    sql: str
    text: str

    @property
    def integer(self) -> bool:
        return self.type in _INTEGERS

    @property
    def numeric(self) -> bool:
        return self.integer or self.type in ("FLOAT", "DOUBLE", "BOOLEAN", "HUGEINT") or self.type[:7] == "DECIMAL"

    @property
    def number(self) -> str:
        """As DOUBLE, NULL where it is none."""
        if self.numeric:
            return f"CAST({self.sql} AS DOUBLE)"
        if self.type == "VARCHAR":
            # As csv files spell them.
            word = f"lower(trim({self.sql}))"
            return f"CASE {word} WHEN 'true' THEN 1.0 WHEN 'false' THEN 0.0 ELSE TRY_CAST({word} AS DOUBLE) END"
        if self.type == "JSON":
            return f"TRY_CAST({self.sql} AS DOUBLE)"
        raise InvalidTable(f"column {self.name!r:.60} holds {self.type:.40}; expected numbers")

    @property
    def whole(self) -> str:
        """As BIGINT, NULL where it is no whole number."""
        if self.integer:
            return f"TRY_CAST({self.sql} AS BIGINT)"
        return f"CASE WHEN {self.number} = floor({self.number}) THEN TRY_CAST({self.number} AS BIGINT) END"

    @property
    def key(self) -> str:
        """As the key of an id."""
        return integer_key(self.sql) if self.integer else id_key(self.text)


def column(head: Head, name: str, type: str = "VARCHAR") -> Column:  # noqa: A002  (SQL's word)
    """A column by name, or a value inside one by a dotted path such as "info.id".

    Args:
        head: of the file.
        name: as the user gives it.
        type: of a jsonl field: VARCHAR (text, nested values as JSON) or JSON.

    Raises:
        InvalidTable: there is none.
    """
    if name in head.fields:
        return _top(head, name, type)
    top, *path = name.split(".")
    if path and top in head.fields and head.kind in ("jsonl", "parquet"):
        if head.kind == "parquet" and not head.types[top].startswith("STRUCT"):
            # Text that holds JSON, or lists.
            outer = f"TRY_CAST({_top(head, top, type).text} AS JSON)"
        else:
            outer = identifier(top) if head.kind == "jsonl" else f"to_json({identifier(top)})"
        pointer = literal("".join("/" + part.replace("~", "~0").replace("/", "~1") for part in path))
        text = f"json_extract_string({outer}, {pointer})"
        # A type of its own: the whole column is read as JSON, its parts as asked.
        return Column(top, "JSON", text if type == "VARCHAR" else f"json_extract({outer}, {pointer})", text)
    raise InvalidTable(f"no column {name!r:.60}{found(head)}")


def _top(head: Head, name: str, type: str) -> Column:  # noqa: A002
    sql = identifier(name)
    if head.kind == "jsonl":
        return Column(name, type, sql, f"CAST({sql} AS VARCHAR)" if type == "JSON" else sql)
    if head.kind != "parquet":
        return Column(name, "VARCHAR", sql, sql)
    stored = head.types[name]
    if stored == "VARCHAR":
        return Column(name, stored, sql, sql)
    nested = stored.endswith(("]", ")")) and not stored.startswith("DECIMAL")
    return Column(name, stored, sql, f"CAST(to_json({sql}) AS VARCHAR)" if nested else f"CAST({sql} AS VARCHAR)")


def declared(head: Head, columns: Iterable[Column]) -> tuple[tuple[str, str], ...]:
    """(name, type) of the columns to read: of records those needed, of csv all, of parquet as it declares itself."""
    if head.kind == "parquet":
        return ()
    if head.kind in ("csv", "tsv"):
        return tuple((name, "VARCHAR") for name in head.fields)
    types: dict[str, str] = {}
    for one in columns:
        types[one.name] = "JSON" if "JSON" in (one.type, types.get(one.name)) else one.type
    return tuple(sorted(types.items()))


def id_in_file(text: str) -> str:
    """A key of an id that holds within one file: the upper half is the file's, the lower one the id's."""
    return f"CAST(md5_number_upper({FILE}) AS UHUGEINT) * {FILE_HALF} + md5_number_lower({text})"


def scoped(*texts: str) -> str:
    """A key of ids that hold within one file only."""
    return content_key(FILE, *texts)
