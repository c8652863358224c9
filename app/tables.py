"""What the store keeps. The migrations in `app/migrations` make these tables: a test holds the two together."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    false,
)

__all__ = ["keys", "metadata", "pilots", "recommendations", "runs", "windows"]

# Names that do not depend on the database, so that a migration can refer to them.
metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    }
)

#: Times are microseconds since 1970, UTC. JSON is text that was written once and is sent as it is.
keys = Table(
    "keys",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("name", String(200), nullable=False),
    Column("hash", String(64), nullable=False, unique=True),
    Column("created", BigInteger, nullable=False),
    Column("revoked", BigInteger),  # when; null while it is good
)

runs = Table(
    "runs",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("owner", String(40), nullable=False),  # a key's id; "" for runs without one, as null is equal to nothing
    Column("created", BigInteger, nullable=False),
    Column("settings", Text, nullable=False),  # of the controller
    Column("state", Text, nullable=False),  # before the first window, without the settings
    Column("decision", Text, nullable=False),  # the first one, without its objective
    Column("objective", Text, nullable=False),
    Column("idempotency_key", String(255)),
    Column("request_hash", String(64)),
    Column("generation", Integer, nullable=False),  # rewinds so far that gave up windows
    Column("next_number", Integer, nullable=False),  # of the window that comes next
    UniqueConstraint("owner", "idempotency_key"),
    Index("ix_runs_owner_created_id", "owner", "created", "id"),
)

windows = Table(
    "windows",
    metadata,
    Column("run", String(40), ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True),
    Column("generation", Integer, primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("superseded", Boolean, nullable=False, default=False),  # by a rewind
    Column("put", BigInteger, nullable=False),
    Column("hash", String(64), nullable=False),  # of the cells
    Column("cells", Text, nullable=False),
    Column("state", Text, nullable=False),  # after it, without the settings
    Column("decision", Text, nullable=False),  # without its objective, so that histories are read without them
    Column("objective", Text, nullable=False),
)
# Whatever goes wrong above, a run has one window of a number: the other writer's transaction fails.
Index(
    "uq_windows_run_number",
    windows.c.run,
    windows.c.number,
    unique=True,
    sqlite_where=windows.c.superseded == false(),
    postgresql_where=windows.c.superseded == false(),
)

recommendations = Table(
    "recommendations",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("created", BigInteger, nullable=False, index=True),
    Column("body", LargeBinary, nullable=False),
)

pilots = Table(
    "pilots",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("created", BigInteger, nullable=False, index=True),
    Column("cells", Text, nullable=False),
)
