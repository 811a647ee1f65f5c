"""The counters behind who is due, whatever happens to texts, on SQLite and PostgreSQL."""

import random
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import delete, select, text

from server import refreshes
from server.store import counters, memory
from server.store.database import MIGRATIONS, Database
from server.store.memory import NewText
from server.store.tables.adapters import Adapter
from server.store.tables.base import now
from server.store.tables.people import User, UserText
from server.store.tables.refreshes import Refresh
from server.store.users import add_user


def test_counters_follow_whatever_happens_to_texts(database: Database) -> None:
    """Random lives of users; a list in Python remembers what the rows should say."""
    chance = random.Random(7)
    with database.write() as session:
        user = add_user(session, "mina")[0]
    texts: dict[str, bool] = {}
    for turn in range(60):
        act = chance.choice(("add", "add", "add", "again", "forget", "refresh", "fail"))
        if act == "add":
            fresh = [f"text {turn}.{i}" for i in range(chance.randrange(1, 4))]
            with database.write() as session:
                memory.add_texts(session, user, [NewText("q", one, 0.0) for one in fresh])
                memory.add_texts(
                    session, user, [NewText("q", f"liked {turn}", 0.0, interaction_id=None)]
                )
            texts |= dict.fromkeys([*fresh, f"liked {turn}"], True)
        elif act == "again" and texts:
            with database.write() as session:
                memory.add_texts(session, user, [NewText("q", one, 0.0) for one in texts])
        elif act == "forget" and texts:
            gone = chance.choice(sorted(texts))
            with database.write() as session:
                session.execute(delete(UserText).where(UserText.text == gone))
                counters.recount(session, user.id)
            del texts[gone]
        elif act in ("refresh", "fail"):
            _refresh(database, user, turn, act == "refresh")
            if act == "refresh":
                texts = dict.fromkeys(texts, False)
        with database.read() as session:
            row = session.get_one(User, user.id)
            assert row.text_count == len(texts), (turn, act)
            assert row.new_texts == sum(texts.values()), (turn, act)


def _refresh(database: Database, user: User, version: int, succeeds: bool) -> None:
    """Leave the rows of a refresh that was rejected, or that failed before its version."""
    with database.write() as session:
        session.add(Refresh(id=f"r{version}", user_id=user.id, method="perce", status="running"))
        session.flush()
        refreshes.advance(session, f"r{version}", started_at=now())
    with database.write() as session:
        if succeeds:
            adapter = Adapter(
                user_id=user.id,
                version=version + 1,
                state="rejected",
                folder="",
                base_model="",
                method="perce",
                checksums={},
                metrics={},
            )
            session.add(adapter)
            session.flush()
            refreshes.advance(session, f"r{version}", adapter_id=adapter.id)
        refreshes.close(session, f"r{version}", "succeeded" if succeeds else "failed")


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_counters_of_an_older_store_are_filled_in(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    url = f"sqlite:///{tmp_path / 'old.db'}"
    if kind == "postgresql":
        url = request.getfixturevalue("postgres").new_database("old")
    database = Database(url)
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    with database.engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        for statement in _OLD_ROWS:
            connection.execute(text(statement))
    database.migrate(tmp_path)
    with database.read() as session:
        rows = session.scalars(select(User).order_by(User.id)).all()
        assert [(row.text_count, row.new_texts) for row in rows] == [(3, 1), (1, 1), (0, 0)]
        ends = [row.last_refresh_at and row.last_refresh_at.hour for row in rows]
        assert ends == [4, None, None]
        assert [row.last_message_at and row.last_message_at.hour for row in rows] == [7, None, None]
        for row in rows:
            before = row.text_count, row.new_texts
            counters.recount(session, row.id)
            session.refresh(row)
            assert (row.text_count, row.new_texts) == before
    database.close()


def _old_text(number: int, user: int, hour: int) -> str:
    return (
        "INSERT INTO texts (id, user_id, query, text, position, source, fingerprint, created_at) "
        f"VALUES ({number}, {user}, 'q', 't{number}', 0, 'import', 'f{number}', "
        f"'2026-11-01 {hour:02}:00:00')"
    )


_OLD_ROWS = (
    *(
        "INSERT INTO users (id, name, consent, memory_version, created_at) "
        f"VALUES ({i}, 'u{i}', true, 0, '2026-11-01 00:00:00')"
        for i in (1, 2, 3)
    ),
    _old_text(1, 1, 1),
    _old_text(2, 1, 2),
    # It came while the refresh was running: it is not among the version's data.
    _old_text(3, 1, 4),
    _old_text(4, 2, 1),
    "INSERT INTO adapters (id, user_id, version, state, folder, base_model, method, checksums, "
    "metrics, reason, trained_position, created_at) VALUES "
    "(1, 1, 1, 'active', '', '', 'perce', '{}', '{}', '', 0, '2026-11-01 04:30:00')",
    "INSERT INTO refreshes (id, user_id, method, status, adapter_id, report, created_at, "
    "started_at, finished_at) VALUES ('r', 1, 'perce', 'succeeded', 1, '{}', "
    "'2026-11-01 03:00:00', '2026-11-01 03:00:00', '2026-11-01 04:45:00')",
    "INSERT INTO interactions (id, user_id, messages, reply, prompt_token_ids, token_ids, "
    "logprobs, context, created_at) VALUES ('i', 1, '[]', '', '[]', '[]', '[]', '[]', "
    "'2026-11-01 07:00:00')",
)
