"""What a database's error means to a client: wait, come back later, or nothing that waiting would change."""

import sqlite3
from typing import Final

from sqlalchemy.exc import DBAPIError, IntegrityError

from app.problems import Problem

__all__ = ["BUSY", "FULL", "UNAVAILABLE", "problem_of"]

BUSY: Final = "store-busy"
UNAVAILABLE: Final = "store-unavailable"
FULL: Final = "storage-full"

_SQLITE: Final = {
    sqlite3.SQLITE_BUSY: BUSY,
    sqlite3.SQLITE_LOCKED: BUSY,
    sqlite3.SQLITE_PROTOCOL: BUSY,  # WAL's own lock
    sqlite3.SQLITE_FULL: FULL,
    sqlite3.SQLITE_IOERR: UNAVAILABLE,
    sqlite3.SQLITE_CANTOPEN: UNAVAILABLE,
    sqlite3.SQLITE_READONLY: UNAVAILABLE,
    sqlite3.SQLITE_CORRUPT: UNAVAILABLE,
    sqlite3.SQLITE_NOTADB: UNAVAILABLE,
    sqlite3.SQLITE_PERM: UNAVAILABLE,
}
#: PostgreSQL's codes, by how they begin: the longest counts.
_POSTGRES: Final = {
    "40": BUSY,  # serialization failure, deadlock
    "55P03": BUSY,  # lock_timeout
    "57014": BUSY,  # statement_timeout
    "25P03": BUSY,  # idle in transaction for too long
    "53100": FULL,
    "53": UNAVAILABLE,  # out of memory, too many connections
    "08": UNAVAILABLE,  # no connection
    "28": UNAVAILABLE,  # the password
    "3D": UNAVAILABLE,  # no such database
    "57": UNAVAILABLE,  # shut down, starting up
    "58": UNAVAILABLE,  # the system around it
    "25006": UNAVAILABLE,  # read-only: a replica
}
_SECONDS: Final = {BUSY: "1", UNAVAILABLE: "5", FULL: "60"}


def problem_of(error: DBAPIError) -> Problem | None:
    """The problem that an error is; None for what can only be a mistake of ours, and for what should be unique."""
    if isinstance(error, IntegrityError):
        return None
    name = UNAVAILABLE if error.connection_invalidated else _name(error.orig)
    return None if name is None else Problem(name, headers={"Retry-After": _SECONDS[name]})


def _name(error: BaseException | None) -> str | None:
    code = getattr(error, "sqlite_errorcode", None)
    if code is not None:
        return _SQLITE.get(code & 0xFF)  # extended codes add a second byte
    state = getattr(error, "sqlstate", None)
    if state is None:  # psycopg has none where it never reached the server
        return UNAVAILABLE if type(error).__name__ == "OperationalError" else None
    return next((_POSTGRES[state[:length]] for length in (5, 2) if state[:length] in _POSTGRES), None)
