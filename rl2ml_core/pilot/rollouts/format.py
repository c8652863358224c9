"""What a format is: how the rows of a file become rollouts.

Another format is one small file with a `Format` in it and one line in `formats.py`. Expressions are DuckDB's SQL over
the columns of the file; formats of one document per file have a reader in Python instead, which gives the same roles.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rl2ml_core.errors import InvalidTable
from rl2ml_core.pilot.rollouts.success import Threshold, success_sql

__all__ = ["BAD", "REASONS", "Format", "Head", "Options", "Scan", "found", "listed", "require"]

#: Why a row is not counted: wrong in itself, …
BAD = {
    "unreadable": "is no JSON object",
    "no prompt": "has no prompt",
    "no id": "does not say which rollout it is",
    "no reward": "has no reward",
    "not a number": "has a score that is no finite number",
    "not counts": "needs whole numbers with 0 ≤ num_successes ≤ num_rollouts and num_rollouts ≥ 1",
}
#: … or rightly left out.
REASONS = (*BAD, "errored", "empty", "unscored", "other filter", "outside steps")


@dataclass(frozen=True)
class Options:
    """What the caller says of the dumps; see `read_rollouts`."""

    success: Threshold | None = None
    steps: tuple[int, int] | None = None
    prompt: str | None = None
    reward: str | None = None
    step: str | None = None
    group: str | None = None
    score: str | None = None
    skip_errors: bool = False

    @property
    def chosen(self) -> str | None:
        """Which of several scores counts: said so, or named by the rule of success."""
        return self.score or (self.success.column if self.success else None)


@dataclass(frozen=True)
class Head:
    """What a bounded look at a file shows.

    Args:
        path: as it is opened.
        kind: jsonl, csv, tsv, parquet, zip, json, pickle, empty or other.
        fields: names of columns, or of the fields of the first records.
        types: of parquet's columns, as DuckDB calls them.
        first: the first record, of jsonl.
        compression: gzip, zstd or none.
        members: of a zip.
        text: how a JSON document begins.
        distinct: the values of a field over the whole file, sorted (for formats that must know).
    """

    path: str
    kind: str
    fields: tuple[str, ...] = ()
    types: Mapping[str, str] = field(default_factory=dict)
    first: Mapping[str, Any] = field(default_factory=dict)
    compression: str = "none"
    members: Sequence[str] = ()
    text: str = ""
    distinct: Callable[[str], list[str]] = field(default=lambda _: [], compare=False)

    def has(self, *names: str) -> bool:
        return set(names) <= set(self.fields)


@dataclass(frozen=True)
class Scan:
    """Roles of a file's rows, as SQL expressions; None where the format has no such role.

    Args:
        format, kind, compression: the format's name and the file's form; files that agree in all are read together.
        columns: (name, type) of what is read.
        prompt: UHUGEINT, what identifies the prompt; rows where it is NULL are wrong.
        score: DOUBLE. `given` is the expression it was read from: where only the number is NULL, it is no number.
        skip: a reason, or NULL; `missing` is the reason where nothing is given.
        prompt_id: UHUGEINT, an id to compare with the prompt's content. `shown_id` is the id as text.
        group, step, rollout: what was sampled together (UHUGEINT), the training step (BIGINT), the rollout's key in its
            group: repeated rows count once, by the least `order`.
        completion: a hash of what was sampled.
        counts: num_successes and num_rollouts, where a row is a prompt.
        noted, note: a condition on counted rows, and (code, words) to say how many meet it.
        others: names of scores that do not count.
        policy: the model that was sampled.
        single: scores were stored in 32 bits.
        shown: the prompt as text, for examples.
        documents: rows of a file, by role, where it is no table.
    """

    format: str
    kind: str
    columns: tuple[tuple[str, str], ...] = ()
    prompt: str = "NULL"
    score: str = "NULL"
    given: str = "NULL"
    skip: str | None = None
    missing: str = "unscored"
    prompt_id: str | None = None
    shown_id: str = "NULL"
    group: str | None = None
    step: str | None = None
    rollout: str | None = None
    order: str | None = None
    completion: str | None = None
    counts: tuple[str, str] | None = None
    noted: str | None = None
    note: tuple[str, str] | None = None
    others: tuple[str, ...] = ()
    policy: str = ""
    single: bool = False
    shown: str = "NULL"
    compression: str = "none"
    documents: "Callable[[str, Options], Iterator[dict[str, Any]]] | None" = None

    @property
    def flat(self) -> bool:
        """Whether it is parquet whose rows are rollouts as they are: then many files are one GROUP BY."""
        return self.kind == "parquet" and not (self.rollout or self.completion or self.counts or self.noted)

    def success(self, options: Options) -> str:
        """Whether a row succeeded, over its `score`."""
        return success_sql(options.success, "score", self.single)


@dataclass(frozen=True)
class Format:
    """One kind of dump.

    Args:
        name: what `format=` takes.
        title: what sentences call it.
        fields: what it is known by, for people.
        matches: whether a file is one, by its head.
        plan: how to read it. Raises InvalidTable.
    """

    name: str
    title: str
    fields: str
    matches: Callable[[Head], bool]
    plan: Callable[[Head, Options], Scan]


def require(head: Head, format: str, *names: str) -> None:  # noqa: A002  (the field's word)
    """Raises InvalidTable if a file lacks fields of the format it is said to have."""
    lacking = [name for name in names if name not in head.fields]
    if lacking:
        raise InvalidTable(f"expected {format} with {listed(names)}; it lacks {listed(lacking)}{found(head)}")


def found(head: Head) -> str:
    return f"; found {listed(head.fields)}" if head.fields else ""


def listed(names: Sequence[object], most: int = 20) -> str:
    """Names for a sentence, shortened and printable."""
    shown = [ascii(str(name))[1:41] if not str(name).isprintable() else str(name)[:40] for name in names[:most]]
    return ", ".join(shown) + (", …" if len(names) > most else "") or "none"
