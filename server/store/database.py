"""The connection to the store: reading and writing transactions, and migrations.

SQLite runs in WAL mode, and writers take the write lock at once: a transaction that
reads first and writes later would fail under load instead of waiting its turn.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from filelock import FileLock
from sqlalchemy import Connection, create_engine, event, text
from sqlalchemy.orm import Session

MIGRATIONS = Path(__file__).resolve().parent.parent / "migrations"
# Of bulk work, in one transaction: a fraction of a second, so that chats need not wait for
# their turn.
ROWS_AT_ONCE = 5000
_MIGRATION_LOCK = 0x61747475  # any number that only Attune's migrations use


class Database:
    """Short transactions on the store. None may stay open while a reply is streamed."""

    def __init__(self, url: str) -> None:
        # Errors end up in logs: they must not carry what people wrote.
        self.engine = create_engine(url, hide_parameters=True, **_engine_options(url))
        if self.engine.dialect.name == "sqlite":
            event.listen(self.engine, "connect", _sqlite_connect)
            event.listen(self.engine, "begin", _sqlite_begin)
        self._writer = self.engine.execution_options(attune_write=True)

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A transaction that only reads."""
        with Session(self.engine, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def write(self) -> Iterator[Session]:
        """A transaction that writes: committed at the end, rolled back on any error."""
        with Session(self._writer, expire_on_commit=False) as session, session.begin():
            yield session

    def migrate(self, lock_folder: Path, to: str = "head") -> None:
        """Bring the schema to a version; safe when several processes start at once.

        Args:
            lock_folder: Where SQLite's lock file goes; PostgreSQL takes a lock of its own.
            to: The version; by default the newest.
        """
        lock_folder.mkdir(parents=True, exist_ok=True)
        with FileLock(lock_folder / "migrate.lock"), self._writer.begin() as connection:
            if self.engine.dialect.name == "postgresql":
                connection.execute(text(f"SELECT pg_advisory_xact_lock({_MIGRATION_LOCK})"))
            config = Config()
            config.set_main_option("script_location", str(MIGRATIONS))
            config.attributes["connection"] = connection
            command.upgrade(config, to)

    def close(self) -> None:
        """Give all connections back."""
        self.engine.dispose()


def take_turn(session: Session, number: int) -> None:
    """Let one writing transaction at a time go on, of those that name the same number.

    SQLite has one writer anyway.
    """
    if session.get_bind().dialect.name == "postgresql":
        session.execute(text("SELECT pg_advisory_xact_lock(:number)"), {"number": number})


def _engine_options(url: str) -> dict[str, Any]:
    if url.startswith("sqlite"):
        return {"connect_args": {"timeout": 30, "check_same_thread": False}}
    return {"pool_pre_ping": True}


def _sqlite_connect(connection: Any, _record: object) -> None:  # noqa: ANN401 - the driver's own
    # The driver must not open transactions by itself: `_sqlite_begin` does, with the right kind.
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _sqlite_begin(connection: Connection) -> None:
    write = connection.get_execution_options().get("attune_write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")
