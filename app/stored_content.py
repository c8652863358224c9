"""What is kept under the hash of its content: recommendations and pilots. The oldest make room for new ones."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, Table, delete, func, select, update
from sqlalchemy.dialects import postgresql, sqlite

from app.store import now
from app.tables import pilots, recommendations

__all__ = ["add_pilot", "add_recommendations", "find_pilot", "find_recommendation"]


def find_recommendation(connection: Connection, identity: str) -> bytes | None:
    """An answer's JSON."""
    return connection.execute(
        select(recommendations.c.body).where(recommendations.c.id == identity)
    ).scalar_one_or_none()


def add_recommendations(connection: Connection, bodies: Mapping[str, bytes], most: int) -> None:
    """Keep answers, and at most so many of them."""
    _add(connection, recommendations, [{"id": name, "body": body} for name, body in bodies.items()], most)


def find_pilot(connection: Connection, identity: str) -> str | None:
    """A pilot's cells as JSON."""
    return connection.execute(select(pilots.c.cells).where(pilots.c.id == identity)).scalar_one_or_none()


def add_pilot(connection: Connection, identity: str, cells: str, most: int) -> bool:
    """Keep a pilot, the newest again where it is there; whether it is new."""
    again = connection.execute(update(pilots).where(pilots.c.id == identity).values(created=now())).rowcount == 1
    if not again:
        _add(connection, pilots, [{"id": identity, "cells": cells}], most)
    return not again


def _add(connection: Connection, table: Table, rows: list[dict[str, Any]], most: int) -> None:
    created = now()
    make = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    connection.execute(make(table).on_conflict_do_nothing(), [{"created": created, **row} for row in rows])
    count = connection.execute(select(func.count()).select_from(table)).scalar_one()
    if count > most:
        # Some more than need be, so that not every one of those that follow finds the table full.
        oldest = select(table.c.id).order_by(table.c.created).limit(count - most + most // 10)
        connection.execute(delete(table).where(table.c.id.in_(oldest)))
