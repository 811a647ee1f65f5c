"""How alembic reaches the store: always through the connection that `Database.migrate` holds."""

from alembic import context

# All modules: the base knows only the tables of those that were imported.
from server.store.tables import adapters, embeddings, people, refreshes, workers  # noqa: F401
from server.store.tables.base import Base

connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=Base.metadata,
    render_as_batch=connection.dialect.name == "sqlite",
)
with context.begin_transaction():
    context.run_migrations()
