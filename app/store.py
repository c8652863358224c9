"""What outlives a request: SQLite in a file by default, PostgreSQL by URL for several replicas.

Both are driven by one synchronous engine in threads of its own. SQLite has nothing to wait for but a lock and the disk,
an event loop gains nothing on either, and a stalled disk must not stall `/healthz`. SQLite has one writer, so it gets
one thread; more would only wait for each other.
"""

import asyncio
import shutil
import tempfile
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Concatenate, Final, NamedTuple, ParamSpec, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event, insert, make_url, select, text, update
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from app.database_errors import BUSY, UNAVAILABLE, problem_of
from app.problems import Problem
from app.settings import Settings
from app.tables import keys

__all__ = ["Key", "NewerSchema", "Store", "add_key", "find_keys", "now", "revoke_key"]

P = ParamSpec("P")
T = TypeVar("T")

FILE: Final = "rl2ml.sqlite3"
_MIGRATIONS: Final = Path(__file__).parent / "migrations"
_MIGRATION_LOCK: Final = 0x724C324D4C  # of PostgreSQL's advisory locks: any number that others do not take
_PAGE_BYTES: Final = 4096
#: Calls waiting for a thread; more are answered 503 at once rather than after their patience.
_MOST_WAITING: Final = 512
#: Seconds until another attempt, after one to open the store failed.
_REST: Final = 1.0


class NewerSchema(RuntimeError):
    """The store was made by a newer version of the service."""


class Store:
    """Transactions on the store, opened and brought up to date with the first one.

    Args:
        settings: `database_url`, else `data_folder`, else a temporary folder that goes with this value.

    Raises:
        ValueError: a URL that is not PostgreSQL's, or a missing driver.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._engine: Engine | None = None
        self._opening = threading.Lock()
        self._failed = -_REST  # when it could not be opened last
        url = settings.database_url
        self._url = None if url is None else _postgres_url(url.get_secret_value())
        threads = settings.store_threads
        self._readers = ThreadPoolExecutor(threads, "store")
        self._writers = self._readers if self._url else ThreadPoolExecutor(1, "store-writer")
        self._waiting = 0

    @property
    def is_lasting(self) -> bool:
        """Whether it outlives this process."""
        return self._url is not None or self._settings.data_folder is not None

    def open(self) -> Engine:
        """Connect and migrate, where that has not been done.

        Raises:
            NewerSchema: the schema is of a newer version.
            Problem: "store-unavailable" or "store-busy".
        """
        if self._engine is not None:
            return self._engine
        if time.monotonic() - self._failed < _REST or not self._opening.acquire(timeout=self._settings.store_seconds):
            raise Problem(UNAVAILABLE, headers={"Retry-After": "5"})
        try:
            if self._engine is None:
                engine = self._postgres() if self._url else self._sqlite()
                try:
                    _migrate(engine)
                except BaseException:
                    engine.dispose()
                    raise
                self._engine = engine
            return self._engine
        except DBAPIError as error:
            self._failed = time.monotonic()
            raise problem_of(error) or Problem(UNAVAILABLE) from error
        except OSError as error:
            self._failed = time.monotonic()
            raise Problem(UNAVAILABLE, "the data folder cannot be used", headers={"Retry-After": "5"}) from error
        finally:
            self._opening.release()

    def read(self, function: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """A function of a connection, in a transaction that changes nothing.

        Raises:
            Problem: "store-busy", "store-unavailable" or "storage-full".
        """
        return self._transact({"reads": True}, function, *args, **kwargs)

    def write(self, function: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """A function of a connection, in a transaction: once this returns it is on disk, and if it raises nothing is.

        Raises:
            Problem: as `read`.
            IntegrityError: what must be unique is not.
        """
        return self._transact({}, function, *args, **kwargs)

    async def reading(self, function: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """`read` off the event loop."""
        return await self._thread(self._readers, lambda: self.read(function, *args, **kwargs))

    async def writing(self, function: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """`write` off the event loop."""
        return await self._thread(self._writers, lambda: self.write(function, *args, **kwargs))

    async def check(self) -> None:
        """Whether the store answers and takes transactions.

        Raises:
            Problem: it does not.
        """
        await self.reading(lambda connection: connection.execute(select(keys.c.id).limit(1)).all())

    def close(self) -> None:
        """Finish what is under way and let go of the store."""
        self._writers.shutdown()
        self._readers.shutdown()
        if self._engine is not None:
            self._engine.dispose()
            self._engine = None

    async def _thread(self, threads: ThreadPoolExecutor, call: Callable[[], T]) -> T:
        if self._waiting >= _MOST_WAITING:
            raise Problem(BUSY, headers={"Retry-After": "1"})
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(threads, call)
        except asyncio.CancelledError:
            # The server stops and waits no longer. What was not acknowledged may have been kept: asking again tells.
            raise Problem("not-ready", "the service is stopping") from None
        finally:
            self._waiting -= 1

    def _transact(
        self,
        options: dict[str, Any],
        function: Callable[Concatenate[Connection, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        try:
            with self.open().connect().execution_options(**options) as connection, connection.begin():
                return function(connection, *args, **kwargs)
        except NewerSchema as error:
            raise Problem(UNAVAILABLE, str(error)) from error
        except PoolTimeout:
            raise Problem(BUSY, headers={"Retry-After": "1"}) from None
        except DBAPIError as error:
            found = problem_of(error)
            if found is None:
                raise
            raise found from error

    def _sqlite(self) -> Engine:
        folder = self._settings.data_folder
        if folder is None:
            folder = Path(tempfile.mkdtemp(prefix="rl2ml-"))
            weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        engine = create_engine(
            f"sqlite:///{folder / FILE}",
            connect_args={"timeout": self._settings.store_seconds, "check_same_thread": False},
            pool_size=self._settings.store_threads + 1,
            pool_reset_on_return=None,  # every transaction has ended by then
            pool_timeout=self._settings.store_seconds,
        )
        pages = self._settings.store_bytes // _PAGE_BYTES

        @event.listens_for(engine, "connect")
        def _prepare(connection: Any, _: object) -> None:
            connection.isolation_level = None  # transactions begin below, not where the driver thinks they should
            if connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
                connection.execute("PRAGMA journal_mode=WAL")
            # FULL: what was acknowledged survives a power cut, for one fsync per transaction.
            connection.execute("PRAGMA synchronous=FULL")
            connection.execute("PRAGMA foreign_keys=ON")
            if pages:
                connection.execute(f"PRAGMA max_page_count={pages}")

        @event.listens_for(engine, "begin")
        def _begin(connection: Connection) -> None:
            # A writer that began as a reader could not wait for its turn.
            reads = connection.get_execution_options().get("reads")
            connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")

        return engine

    def _postgres(self) -> Engine:
        milliseconds = round(1e3 * self._settings.store_seconds)
        limits = ("lock_timeout", "statement_timeout", "idle_in_transaction_session_timeout")
        assert self._url is not None
        return create_engine(
            self._url,
            connect_args={
                "connect_timeout": max(2, round(self._settings.store_seconds)),
                "tcp_user_timeout": 2 * milliseconds,
                "options": " ".join(f"-c {name}={milliseconds}" for name in limits),
            },
            pool_size=self._settings.store_threads,
            max_overflow=1,
            pool_timeout=self._settings.store_seconds,
            pool_pre_ping=True,  # a database that was restarted costs no request
        )


def _postgres_url(url: str) -> str:
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise ValueError("database_url is not a URL; expected postgresql://user:password@host/database") from None
    if parsed.drivername not in ("postgresql", "postgres", "postgresql+psycopg"):
        raise ValueError(f"database_url must be PostgreSQL's; got {parsed.drivername}://")
    try:
        import psycopg  # noqa: F401
    except ImportError:
        raise ValueError("database_url needs PostgreSQL's driver: pip install 'rl2ml[postgres]'") from None
    return parsed.set(drivername="postgresql+psycopg").render_as_string(hide_password=False)


def _migrate(engine: Engine) -> None:
    """Bring the schema up to date, one process at a time.

    Raises:
        NewerSchema: it is of a revision that this version does not know.
    """
    from alembic import command  # not for pool processes, which never open the store
    from alembic.config import Config
    from alembic.migration import MigrationContext
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    scripts = ScriptDirectory.from_config(config)
    with engine.begin() as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _MIGRATION_LOCK})
        current = MigrationContext.configure(connection).get_current_revision()
        if current is not None and current not in {script.revision for script in scripts.walk_revisions()}:
            raise NewerSchema(
                f"the store is of schema {current:.20}, which this version does not know: run the newer version, or "
                "restore a backup of before"
            )
        if current != scripts.get_current_head():
            config.attributes["connection"] = connection
            command.upgrade(config, "head")


def now() -> int:
    """Microseconds since 1970, UTC."""
    return time.time_ns() // 1_000


# ---- API keys ----


class Key(NamedTuple):
    """A key as it is kept: never itself, only its hash."""

    id: str
    name: str
    hash: str
    created: int  # microseconds since 1970
    revoked: int | None


def add_key(connection: Connection, identity: str, name: str, digest: str) -> Key:
    """Keep a key.

    Raises:
        IntegrityError: the id or the hash is there.
    """
    key = Key(identity, name, digest, now(), None)
    connection.execute(insert(keys).values(key._asdict()))
    return key


def find_keys(connection: Connection, *, good: bool = False) -> list[Key]:
    """All keys, oldest first; with `good` those that were not revoked."""
    query = select(keys).order_by(keys.c.created, keys.c.id)
    if good:
        query = query.where(keys.c.revoked.is_(None))
    return [Key(*row) for row in connection.execute(query)]


def revoke_key(connection: Connection, identity: str) -> bool:
    """Revoke a key by its id; whether there was a good one."""
    query = update(keys).where(keys.c.id == identity, keys.c.revoked.is_(None)).values(revoked=now())
    return connection.execute(query).rowcount == 1
