"""Fixtures of the tests against real services."""

from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from private_postgres import PrivatePostgres, private_postgres
from sqlalchemy import delete, select

from server.store.database import Database
from server.store.tables.people import AuditEntry, User
from server.store.tables.refreshes import Plan, PlanEntry
from server.store.users import erase_user


@pytest.fixture(scope="session")
def postgres() -> Iterator[PrivatePostgres]:
    # Not under pytest's own folder: a second session takes that away from all other accounts,
    # and PostgreSQL, which refuses to run as root, has one of its own.
    with TemporaryDirectory() as folder, private_postgres(Path(folder)) as server:
        yield server


@pytest.fixture(scope="module")
def postgres_url(postgres: PrivatePostgres, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A database of the test module's own."""
    return postgres.new_database(tmp_path_factory.mktemp("database").name)


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """An empty store on each kind of database."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path / 'attune.db'}"
    else:
        url = request.getfixturevalue("postgres_url")
    opened = Database(url)
    opened.migrate(tmp_path)
    yield opened
    with opened.write() as session:
        for user in session.scalars(select(User)).all():
            erase_user(session, user)
        for table in (PlanEntry, Plan, AuditEntry):
            session.execute(delete(table))
    opened.close()


@pytest.fixture
def report(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Says something in the terminal while the tests run: the figures that a test measured."""
    plugins = request.config.pluginmanager
    terminal, capture = plugins.getplugin("terminalreporter"), plugins.getplugin("capturemanager")

    def write(line: str) -> None:
        with capture.global_and_fixture_disabled():
            terminal.ensure_newline()
            terminal.write_line(f"{request.node.name}: {line}")

    return write
