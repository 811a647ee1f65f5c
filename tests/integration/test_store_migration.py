"""What migrations make of a store, and of an older one; and ids, which are never given again."""

from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from numbered_texts import texts
from sqlalchemy import delete, select, text

from server.errors import NotFoundError
from server.store import memory
from server.store.database import Database
from server.store.tables.base import Base
from server.store.tables.people import Conversation, User, UserText
from server.store.users import add_user, erase_user, find_user


@pytest.fixture
def user(database: Database) -> User:
    with database.write() as session:
        return add_user(session, "mina")[0]


def test_a_second_migration_changes_nothing(database: Database, tmp_path: Path) -> None:
    database.migrate(tmp_path)
    with database.write() as session:
        add_user(session, "mina")


def test_migrations_make_the_tables_that_the_code_knows(database: Database) -> None:
    with database.engine.connect() as connection:
        differences = compare_metadata(MigrationContext.configure(connection), Base.metadata)
    if database.engine.dialect.name == "sqlite":
        # What a column's own REFERENCES says of deletion is not read back there.
        differences = [one for one in differences if one[0] not in ("add_fk", "remove_fk")]
    assert differences == []


def test_older_stores_keep_their_texts(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'old.db'}")
    database.migrate(tmp_path, to="0003")
    with database.engine.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO users (name, consent, memory_version, text_count, new_texts,"
                " failures, created_at) VALUES ('mina', 1, 1, 3, 3, 0, '2026-01-01 00:00:00')"
            )
        )
        for number, one in enumerate(texts(3)):
            row = {"text": one.text, "position": number, "fingerprint": one.fingerprint()}
            connection.execute(
                text(
                    "INSERT INTO texts (user_id, query, text, position, source, fingerprint,"
                    " created_at) VALUES (1, 'q', :text, :position, 'import', :fingerprint,"
                    " '2026-01-01 00:00:00')"
                ),
                row,
            )
    database.migrate(tmp_path)
    with database.write() as session:
        user = find_user(session, "mina")
        kept = memory.texts(session, user)
        assert [(one.id, one.text) for one in kept] == [(n + 1, f"text {n}") for n in range(3)]
        assert memory.add_texts(session, user, texts(4)) == 1
    database.close()


def test_no_text_gets_the_id_of_a_forgotten_one(database: Database, user: User) -> None:
    with database.write() as session:
        memory.add_texts(session, user, texts(2))
        newest = memory.texts(session, user)[-1].id
        session.execute(delete(UserText).where(UserText.id == newest))
        memory.add_texts(session, user, texts(1, start=2))
        assert memory.texts(session, user)[-1].id > newest


def test_no_fact_gets_the_id_of_a_forgotten_one(database: Database, user: User) -> None:
    with database.write() as session:
        forgotten = memory.add_fact(session, user, "I bake.").id
        memory.remove_fact(session, user, forgotten)
    with database.write() as session:
        assert memory.add_fact(session, user, "I swim.").id > forgotten
    with pytest.raises(NotFoundError), database.write() as session:
        memory.remove_fact(session, user, forgotten)


def test_an_older_store_keeps_its_facts_and_forgets_stale_contexts(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'old.db'}")
    database.migrate(tmp_path, to="0005")
    at = "'2026-01-01 00:00:00'"
    with database.engine.begin() as connection:
        for statement in (
            "INSERT INTO users (name, kind, consent, shares, memory_version, text_count,"
            f" new_texts, failures, created_at) VALUES ('mina', 'person', 1, 0, 2, 0, 0, 0, {at})",
            f"INSERT INTO facts (user_id, text, created_at) VALUES (1, 'I bake.', {at})",
            f"INSERT INTO conversations VALUES ('stale', 1, 1, '[]', {at})",
            f"INSERT INTO conversations VALUES ('fresh', 1, 2, '[]', {at})",
        ):
            connection.execute(text(statement))
    database.migrate(tmp_path)
    with database.read() as session:
        user = find_user(session, "mina")
        assert [(fact.id, fact.text) for fact in memory.facts(session, user)] == [(1, "I bake.")]
        assert session.scalars(select(Conversation.key)).all() == ["fresh"]
    database.close()


def test_ids_and_so_adapter_names_are_never_used_again(database: Database, user: User) -> None:
    with database.write() as session:
        erase_user(session, user)
    with database.write() as session:
        assert add_user(session, "other")[0].id > user.id
