"""The store and the registry on the databases that they run on: SQLite and PostgreSQL."""

from pathlib import Path
from typing import Any, SupportsIndex

import pytest
from numbered_texts import texts
from simultaneous import at_once
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError

from server import adapter_store, leases, pointer, refreshes, registry
from server.damage import Damage, ServedBase
from server.errors import (
    BadRequestError,
    ConflictError,
    EncoderChangedError,
    NotFoundError,
    UnknownUserError,
    UnprocessableError,
)
from server.leases import Leases
from server.store import encoders, memory
from server.store.database import ROWS_AT_ONCE, Database
from server.store.memory import NewText
from server.store.tables.adapters import Adapter, Lease
from server.store.tables.base import now
from server.store.tables.people import AuditEntry, Conversation, Fact, User, UserText
from server.store.users import add_user, erase_user, find_user, summarize


@pytest.fixture
def user(database: Database) -> User:
    with database.write() as session:
        return add_user(session, "mina")[0]


def publish(database: Database, user: User, folder: Path) -> Adapter:
    source = folder / "source"
    source.mkdir(exist_ok=True)
    (source / "adapter_model.safetensors").write_bytes(b"weights")
    with database.write() as session:
        provenance = registry.Provenance("base", "perce", None)
        adapter = registry.add_candidate(session, user, provenance, {}, folder / "adapters")
    placed = adapter_store.place(source, Path(adapter.folder))
    with database.write() as session:
        registry.attach_files(session, adapter.id, placed.checksums, placed.size_bytes)
    with database.write() as session:
        pointer.activate(session, adapter)
    with database.read() as session:
        return session.get_one(Adapter, adapter.id)


def test_a_change_of_memory_forgets_pinned_contexts(database: Database, user: User) -> None:
    with database.write() as session:
        fact = memory.add_fact(session, user, "I bake.")
        session.add(Conversation(key="one", user_id=user.id, memory_version=1, context=["I bake."]))
    with database.write() as session:
        memory.remove_fact(session, user, fact.id)
    with database.read() as session:
        assert session.get(Conversation, "one") is None


def test_a_large_import_lets_others_write_in_between(database: Database, user: User) -> None:
    many = [*texts(ROWS_AT_ONCE + 10), *texts(3)]
    versions = []

    class Watched(list[NewText]):
        """Says how far the store was when the import came for more."""

        def __getitem__(self, index: SupportsIndex | slice) -> Any:  # noqa: ANN401
            with database.write() as session:
                versions.append(find_user(session, "mina").memory_version)
            return super().__getitem__(index)

    assert memory.import_texts(database, user, Watched(many)) == ROWS_AT_ONCE + 10
    assert versions == [0, 1]
    assert memory.import_texts(database, user, many) == 0
    with database.read() as session:
        assert find_user(session, "mina").text_count == ROWS_AT_ONCE + 10


def test_vectors_of_another_encoder_are_removed_once(database: Database, user: User) -> None:
    encoders.take_over(database, "one")
    with database.write() as session:
        memory.add_texts(session, user, texts(3))
        memory.add_fact(session, user, "I bake.").embedding = b"vector"
        memory.texts(session, user)[0].embedding = b"vector"
    assert encoders.take_over(database, "one") == 0
    at_once([lambda: encoders.take_over(database, "other") for _ in range(3)])
    with database.read() as session:
        rows: list[Fact | UserText] = [
            *memory.facts(session, user),
            *memory.texts(session, user),
        ]
        assert len(rows) == 4 and all(row.embedding is None for row in rows)
        encoders.require(session, "other")
        with pytest.raises(EncoderChangedError):
            encoders.require(session, "one")


def test_a_name_is_given_once(database: Database, user: User) -> None:
    with pytest.raises(ConflictError), database.write() as session:
        add_user(session, user.name)


@pytest.mark.parametrize("name", ["", "a/b", "../x", "-x", "a" * 65, "ä", "a b", "x\n"])
def test_names_that_would_break_paths_are_refused(database: Database, name: str) -> None:
    with pytest.raises(BadRequestError), database.write() as session:
        add_user(session, name)


def test_times_come_back_in_utc(database: Database, user: User) -> None:
    with database.read() as session:
        assert abs((find_user(session, "mina").created_at - now()).total_seconds()) < 60


def test_texts_are_read_page_by_page_in_their_order(database: Database, user: User) -> None:
    with database.write() as session:
        later = [NewText("q", f"text {i}", 0.1) for i in range(3)]
        memory.add_texts(session, user, [*later, NewText("q", "first", -1e-9)])
    read, after = list[str](), 0
    with database.read() as session:
        while page := memory.texts_behind(session, user, after, 2):
            read += [text.text for text in page]
            after = page[-1].id
    assert read == ["first", "text 0", "text 1", "text 2"]


def test_a_second_import_adds_nothing(database: Database, user: User) -> None:
    with database.write() as session:
        assert memory.add_texts(session, user, texts(3)) == 3
    with database.write() as session:
        assert memory.add_texts(session, user, [*texts(3), *texts(1, start=3)]) == 1
    with database.read() as session:
        assert [t.text for t in memory.texts(session, user)] == [f"text {i}" for i in range(4)]


def test_every_change_of_memory_is_counted(database: Database, user: User) -> None:
    def version() -> int:
        with database.read() as session:
            return find_user(session, "mina").memory_version

    assert version() == 0
    with database.write() as session:
        fact = memory.add_fact(session, user, "I bake.")
        memory.add_texts(session, user, texts(2))
    assert version() == 2
    with database.write() as session:
        memory.add_texts(session, user, texts(2))
    assert version() == 2
    with database.write() as session:
        memory.remove_fact(session, user, fact.id)
    assert version() == 3
    with pytest.raises(NotFoundError), database.write() as session:
        memory.remove_fact(session, user, fact.id)


def test_the_flip_keeps_exactly_one_active(database: Database, user: User, tmp_path: Path) -> None:
    first = publish(database, user, tmp_path)
    second = publish(database, user, tmp_path)
    assert [first.name, second.name] == [f"u{user.id}@v1", f"u{user.id}@v2"]
    with database.read() as session:
        assert [a.state for a in registry.versions(session, user)] == ["active", "retired"]
        assert pointer.previous(session, user) is not None
    with database.write() as session:
        old = pointer.activate(session, registry.find(session, user, "v1"))
    assert old is not None and old.id == second.id
    with database.read() as session:
        active = registry.active(session, user)
        assert active is not None and active.label == "v1"


def test_the_database_itself_refuses_two_active_versions(
    database: Database, user: User, tmp_path: Path
) -> None:
    publish(database, user, tmp_path)
    publish(database, user, tmp_path)
    with pytest.raises(IntegrityError), database.write() as session:
        for adapter in registry.versions(session, user):
            adapter.state = "active"


def test_a_lease_names_the_version_that_was_active(
    database: Database, user: User, tmp_path: Path
) -> None:
    gateway = Leases(database, Damage(ServedBase("base")))
    first = publish(database, user, tmp_path)
    leased = gateway.take(user, "active")
    assert leased.token is not None and leased.adapter is not None
    publish(database, user, tmp_path)
    with database.read() as session:
        assert leases.count(session, first.id) == 1
    gateway.give_back(leased.token)
    with database.read() as session:
        assert leases.count(session, first.id) == 0


def test_a_lease_of_a_dead_gateway_expires(database: Database, user: User, tmp_path: Path) -> None:
    adapter = publish(database, user, tmp_path)
    with database.write() as session:
        session.add(Lease(id="dead", adapter_id=adapter.id, expires_at=now()))
        session.add(Lease(id="alive", adapter_id=adapter.id, expires_at=now() + leases.LEASE_TIME))
    with database.read() as session:
        assert leases.count(session, adapter.id) == 1
    with database.write() as session:
        assert leases.expire(session) == 1
        assert [lease.id for lease in session.scalars(select(Lease))] == ["alive"]


@pytest.mark.parametrize("label", ["7", "v0", "v-1", "latest", "v1/../v2", "v99999999999"])
def test_labels_that_name_no_version_are_refused(
    database: Database, user: User, label: str
) -> None:
    with pytest.raises(BadRequestError):
        Leases(database, Damage(ServedBase("base"))).take(user, label)


def test_one_refresh_at_a_time(database: Database, user: User) -> None:
    with database.write() as session:
        memory.add_texts(session, user, texts(refreshes.MIN_TEXTS))
    with database.write() as session:
        first = refreshes.open_refresh(session, user, "perce")
    with pytest.raises(ConflictError), database.write() as session:
        refreshes.open_refresh(session, user, "perce")
    with database.write() as session:
        refreshes.close(session, first.id, "succeeded")
    with database.write() as session:
        refreshes.open_refresh(session, user, "perce")


@pytest.mark.parametrize(("count", "words"), [(0, "no texts"), (1, "1 text,")])
def test_too_short_a_history_is_refused(
    database: Database, user: User, count: int, words: str
) -> None:
    with database.write() as session:
        memory.add_texts(session, user, texts(count))
    with pytest.raises(UnprocessableError, match=words), database.write() as session:
        refreshes.open_refresh(session, user, "perce")


def test_erasing_leaves_nothing_but_an_audit_entry(
    database: Database, user: User, tmp_path: Path
) -> None:
    publish(database, user, tmp_path)
    with database.write() as session:
        memory.add_fact(session, user, "I bake.")
        memory.add_texts(session, user, texts(8))
        refreshes.open_refresh(session, user, "perce")
    with database.write() as session:
        counts = erase_user(session, find_user(session, "mina"))
    assert counts == {"facts": 1, "texts": 8, "interactions": 0, "adapters": 1}
    with database.read() as session:
        assert summarize(session) == []
        with pytest.raises(UnknownUserError):
            find_user(session, "mina")
        entry = session.scalars(select(AuditEntry).order_by(AuditEntry.id.desc())).first()
    assert entry is not None and entry.action == "erase" and "mina" not in entry.subject
