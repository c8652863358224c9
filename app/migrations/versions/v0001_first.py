"""Keys, runs with their windows, recommendations and pilots."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "keys",
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
        sa.Column("created", sa.BigInteger, nullable=False),
        sa.Column("revoked", sa.BigInteger),
        sa.PrimaryKeyConstraint("id", name="pk_keys"),
        sa.UniqueConstraint("hash", name="uq_keys_hash"),
    )
    op.create_table(
        "runs",
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column("owner", sa.String(40), nullable=False),
        sa.Column("created", sa.BigInteger, nullable=False),
        sa.Column("settings", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("decision", sa.Text, nullable=False),
        sa.Column("objective", sa.Text, nullable=False),
        sa.Column("idempotency_key", sa.String(255)),
        sa.Column("request_hash", sa.String(64)),
        sa.Column("generation", sa.Integer, nullable=False),
        sa.Column("next_number", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_runs"),
        sa.UniqueConstraint("owner", "idempotency_key", name="uq_runs_owner_idempotency_key"),
    )
    op.create_index("ix_runs_owner_created_id", "runs", ["owner", "created", "id"])
    op.create_table(
        "windows",
        sa.Column("run", sa.String(40), nullable=False),
        sa.Column("generation", sa.Integer, nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("superseded", sa.Boolean, nullable=False),
        sa.Column("put", sa.BigInteger, nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
        sa.Column("cells", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("decision", sa.Text, nullable=False),
        sa.Column("objective", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("run", "generation", "number", name="pk_windows"),
        sa.ForeignKeyConstraint(["run"], ["runs.id"], name="fk_windows_run", ondelete="CASCADE"),
    )
    standing = sa.column("superseded", sa.Boolean) == sa.false()
    op.create_index(
        "uq_windows_run_number",
        "windows",
        ["run", "number"],
        unique=True,
        sqlite_where=standing,
        postgresql_where=standing,
    )
    for name, column in (("recommendations", sa.Column("body", sa.LargeBinary, nullable=False)),
                         ("pilots", sa.Column("cells", sa.Text, nullable=False))):  # fmt: skip
        op.create_table(
            name,
            sa.Column("id", sa.String(40), nullable=False),
            sa.Column("created", sa.BigInteger, nullable=False),
            column,
            sa.PrimaryKeyConstraint("id", name=f"pk_{name}"),
        )
        op.create_index(f"ix_{name}_created", name, ["created"])
