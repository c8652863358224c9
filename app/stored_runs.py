"""Runs and their windows in the store: functions of a connection, each within one transaction."""

from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, Select, and_, delete, func, insert, or_, select, tuple_, update

from app.store import now
from app.tables import runs, windows

__all__ = [
    "Decided",
    "Past",
    "StoredRun",
    "Summary",
    "add_run",
    "add_window",
    "delete_run",
    "find_run",
    "find_window",
    "list_runs",
    "list_windows",
    "rewind_run",
    "run_of_key",
]


class Decided(NamedTuple):
    """A decision and the controller's state with it, as JSON."""

    state: str  # without the settings
    decision: str  # without the objective
    objective: str


class Summary(NamedTuple):
    """A run without what was decided."""

    id: str
    created: int  # microseconds since 1970
    settings: str
    generation: int
    next_number: int


@dataclass(frozen=True)
class StoredRun:
    """A run as it stands."""

    summary: Summary
    last: Decided


class Past(NamedTuple):
    """A window that was put, without its objective."""

    generation: int
    number: int
    superseded: bool
    put: int  # microseconds since 1970
    cells: str
    decision: str


_SUMMARY = (runs.c.id, runs.c.created, runs.c.settings, runs.c.generation, runs.c.next_number)
_PAST = (windows.c.generation, windows.c.number, windows.c.superseded, windows.c.put, windows.c.cells)
_DECIDED = ("state", "decision", "objective")
_STANDING = windows.c.superseded.is_(False)


def add_run(
    connection: Connection,
    owner: str,
    identity: str,
    settings: str,
    first: Decided,
    key: str | None,
    request_hash: str | None,
) -> StoredRun:
    """Keep a run before its first window.

    Raises:
        IntegrityError: the owner used the idempotency key already.
    """
    summary = Summary(identity, now(), settings, 0, 0)
    values = summary._asdict() | first._asdict()
    values |= {"owner": owner, "idempotency_key": key, "request_hash": request_hash}
    connection.execute(insert(runs), values)
    return StoredRun(summary, first)


def run_of_key(connection: Connection, owner: str, key: str) -> tuple[str, str] | None:
    """Id and request's hash of the run that was created with an idempotency key."""
    query = select(runs.c.id, runs.c.request_hash).where(runs.c.owner == owner, runs.c.idempotency_key == key)
    row = connection.execute(query).one_or_none()
    return None if row is None else (row.id, row.request_hash)


def find_run(connection: Connection, owner: str, identity: str) -> StoredRun | None:
    """A run with the decision that is in force: that of its last window, or the first one."""
    last = and_(windows.c.run == runs.c.id, windows.c.number == runs.c.next_number - 1, _STANDING)
    decided = [func.coalesce(windows.c[name], runs.c[name]) for name in _DECIDED]
    query: Select[Any] = (
        select(*_SUMMARY, *decided)
        .select_from(runs.outerjoin(windows, last))
        .where(runs.c.id == identity, runs.c.owner == owner)
    )
    row = connection.execute(query).one_or_none()
    return None if row is None else _run(row)


def _run(row: Row[Any]) -> StoredRun:
    count = len(_SUMMARY)
    return StoredRun(Summary(*row[:count]), Decided(*row[count:]))


def add_window(
    connection: Connection, run: Summary, digest: str, cells: str, after: Decided
) -> bool:  # the state after it is a function of the state before it, so that is what must not have changed
    """Keep the window that comes next; False where it was put, or the run rewound or deleted, in the meantime.

    Raises:
        IntegrityError: it was put in the meantime, too.
    """
    advance = (
        update(runs)
        .where(runs.c.id == run.id, runs.c.generation == run.generation, runs.c.next_number == run.next_number)
        .values(next_number=run.next_number + 1)
    )
    if connection.execute(advance).rowcount != 1:
        return False
    values = {
        "run": run.id,
        "generation": run.generation,
        "number": run.next_number,
        "superseded": False,
        "put": now(),
        "hash": digest,
        "cells": cells,
        **after._asdict(),
    }
    connection.execute(insert(windows), values)
    return True


def find_window(connection: Connection, run: str, number: int) -> tuple[str, int, Decided] | None:
    """Hash, generation and outcome of a window that no rewind gave up."""
    chosen = (windows.c.hash, windows.c.generation, *(windows.c[name] for name in _DECIDED))
    query: Select[Any] = select(*chosen).where(windows.c.run == run, windows.c.number == number, _STANDING)
    row = connection.execute(query).one_or_none()
    return None if row is None else (row.hash, row.generation, Decided(*row[2:]))


def rewind_run(connection: Connection, owner: str, identity: str, number: int) -> StoredRun | None:
    """Make a window the next one again, unless it lies ahead; the run as it then stands."""
    lock = select(runs.c.generation, runs.c.next_number).where(runs.c.id == identity, runs.c.owner == owner)
    row = connection.execute(lock.with_for_update()).one_or_none()
    if row is None:
        return None
    if number < row.next_number:
        given_up = update(windows).where(windows.c.run == identity, windows.c.number >= number, _STANDING)
        connection.execute(given_up.values(superseded=True))
        back = {"generation": row.generation + 1, "next_number": number}
        connection.execute(update(runs).where(runs.c.id == identity).values(back))
    return find_run(connection, owner, identity)


def delete_run(connection: Connection, owner: str, identity: str) -> bool:
    """Remove a run with its windows; whether there was one."""
    return connection.execute(delete(runs).where(runs.c.id == identity, runs.c.owner == owner)).rowcount == 1


def list_runs(connection: Connection, owner: str, limit: int, after: tuple[int, str] | None) -> list[Summary]:
    """Runs from the newest on, those after one of them (created, id)."""
    query: Select[Any] = select(*_SUMMARY).where(runs.c.owner == owner)
    if after is not None:
        created, identity = after
        earlier = and_(runs.c.created == created, runs.c.id < identity)
        query = query.where(runs.c.created <= created, or_(runs.c.created < created, earlier))
    query = query.order_by(runs.c.created.desc(), runs.c.id.desc()).limit(limit)
    return [Summary(*row) for row in connection.execute(query)]


def list_windows(connection: Connection, run: str, limit: int, after: tuple[int, int] | None) -> list[Past]:
    """Windows in the order in which they were put, those after one of them (generation, number)."""
    place = (windows.c.generation, windows.c.number)
    query: Select[Any] = select(*_PAST, windows.c.decision).where(windows.c.run == run)
    if after is not None:
        query = query.where(tuple_(*place) > tuple_(*after))
    return [Past(*row) for row in connection.execute(query.order_by(*place).limit(limit))]
