"""Run by alembic, on the connection and in the transaction of `app.store`."""

from alembic import context

from app.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
context.run_migrations()
