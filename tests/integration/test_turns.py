"""Two transactions at once on PostgreSQL, in an order that the test decides.

SQLite has one writer at a time, and no such orders.
"""

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from refresh_workshop import ScriptedTrainer
from scripted_jobs import ScriptedJobs
from sqlalchemy import event, func, insert, select, text

from adapt.claims import Claims
from adapt.errors import NothingToLearnError
from adapt.gate import HeldOutLosses, Verdict
from adapt.nightly import Rounds
from adapt.refresh import CandidateSteps
from adapt.window import EngineWindow
from perce.hyperparameters import Hyperparameters
from perce.retrieval import Encoder, Vectors
from perce.tokens import ChatTokenizer
from server import refreshes
from server.schedule import Schedule
from server.settings import REFERENCE_MODEL, Settings
from server.store import counters, memory
from server.store.database import Database
from server.store.memory import NewText
from server.store.tables.adapters import Adapter
from server.store.tables.base import now
from server.store.tables.people import User
from server.store.tables.refreshes import Refresh
from server.store.users import add_user

OLD = [
    "The tide was low and we walked out to the wreck.",
    "Grandmother's kettle whistles in the wrong key.",
    "Nobody repairs umbrellas any more, so I learnt it.",
    "Three owls live behind the chapel, maybe four.",
    "Moss grows on my bicycle saddle every winter.",
    "Bread needs patience; my brother has none.",
    "I keep all letters in a biscuit tin from Leeds.",
    "That engine coughs before it rains, honestly.",
    "Fog again, so the ferry will not sail today.",
]
NEW = ["My knees hate stairs.", "Salt on melon is right!", "We lost the quiz by a single point."]


class Onlooker(Encoder):
    """Notes the texts that a refresh has taken, and ends the step there."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def encode(self, texts: Sequence[str]) -> Vectors:
        self.seen += texts
        raise NothingToLearnError("Seen enough.")


@pytest.fixture
def opened(postgres_url: str, tmp_path: Path) -> Iterator[tuple[Database, Database]]:
    """The store as two processes have it open."""
    both = Database(postgres_url), Database(postgres_url)
    both[0].migrate(tmp_path)
    yield both
    with both[0].write() as session:
        session.execute(text("TRUNCATE users CASCADE"))
    for one in both:
        one.close()


@contextmanager
def held_up(database: Database, words: str) -> Iterator[tuple[Event, Event]]:
    """Stop the process before its first statement with these words: (is there, may go on)."""
    there, go_on = Event(), Event()

    def stop(_c: object, _cursor: object, statement: str, *_rest: object) -> None:
        if words in statement and not there.is_set():
            there.set()
            assert go_on.wait(60)

    event.listen(database.engine, "before_cursor_execute", stop)
    try:
        yield there, go_on
    finally:
        go_on.set()
        event.remove(database.engine, "before_cursor_execute", stop)


def settle(database: Database, work: "Future[Any]") -> None:
    """Return when the work is done, or waits for somebody else's transaction."""
    waiting = text(
        "SELECT count(*) FROM pg_stat_activity "
        "WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    deadline = time.monotonic() + 60
    while not work.done():
        with database.read() as session:
            if session.scalar(waiting):
                return
        assert time.monotonic() < deadline
        time.sleep(0.01)


def add(database: Database, user: User, texts: Sequence[str]) -> None:
    with database.write() as session:
        memory.add_texts(session, user, [NewText(one, one, 0.0) for one in texts])


def user_with_refresh(database: Database) -> User:
    with database.write() as session:
        user = add_user(session, "mina")[0]
    add(database, user, OLD)
    with database.write() as session:
        session.add(Refresh(id="r", user_id=user.id, method="perce", worker="worker"))
    return user


def take_texts(database: Database, home: Path) -> list[str]:
    """Run a refresh's dataset step; return the texts that it took."""
    onlooker = Onlooker()

    def judge(losses: HeldOutLosses) -> Verdict:
        raise AssertionError(losses)

    steps = CandidateSteps(
        Settings(home=home),
        database,
        onlooker,
        ScriptedTrainer(ChatTokenizer.load(str(REFERENCE_MODEL))),
        Hyperparameters(max_length=512),
        judge,
        Claims(database, "worker"),
        EngineWindow(database, lambda: (), "worker", False, lambda: None),
    )
    with pytest.raises(NothingToLearnError):
        steps.dataset("r")
    return onlooker.seen


def new_texts_after_its_end(database: Database, user: User) -> int:
    with database.write() as session:
        adapter = Adapter(
            user_id=user.id, version=1, state="rejected", folder="", base_model="",
            method="perce", checksums={}, metrics={},
        )  # fmt: skip
        session.add(adapter)
        session.flush()
        refreshes.close(session, "r", "succeeded", adapter_id=adapter.id)
    with database.read() as session:
        return session.get_one(User, user.id).new_texts


def test_texts_that_were_added_before_a_refresh_started_are_learnt(
    opened: tuple[Database, Database], tmp_path: Path
) -> None:
    gateway, worker = opened
    user = user_with_refresh(gateway)
    with ThreadPoolExecutor() as pool:
        with gateway.write() as session:
            memory.add_texts(session, user, [NewText(one, one, 0.0) for one in NEW])
            # Not committed yet when the refresh comes to take what there is.
            step = pool.submit(take_texts, worker, tmp_path)
            settle(gateway, step)
        seen = step.result()
    assert sorted(seen) == sorted(OLD + NEW)
    assert new_texts_after_its_end(gateway, user) == 0


def test_texts_that_arrive_after_a_refresh_started_are_new(
    opened: tuple[Database, Database], tmp_path: Path
) -> None:
    gateway, worker = opened
    user = user_with_refresh(gateway)
    with ThreadPoolExecutor() as pool, held_up(worker, "FROM texts") as (there, go_on):
        step = pool.submit(take_texts, worker, tmp_path)
        assert there.wait(60)
        importing = pool.submit(add, gateway, user, NEW)
        settle(gateway, importing)
        go_on.set()
        importing.result()
        seen = step.result()
    assert sorted(seen) == sorted(OLD)
    assert new_texts_after_its_end(gateway, user) == len(NEW)


def test_a_text_that_arrives_while_texts_are_counted_is_counted(
    opened: tuple[Database, Database],
) -> None:
    gateway, other = opened
    user = user_with_refresh(gateway)

    def recount() -> None:
        with other.write() as session:
            counters.recount(session, user.id)

    with ThreadPoolExecutor() as pool:
        with gateway.write() as session:
            memory.add_texts(session, user, [NewText(one, one, 0.0) for one in NEW])
            counting = pool.submit(recount)
            settle(gateway, counting)
        counting.result()
    with gateway.read() as session:
        row = session.get_one(User, user.id)
        assert (row.text_count, row.new_texts) == (len(OLD + NEW), len(OLD + NEW))


def add_due(database: Database, ids: Sequence[int], new_texts: int) -> None:
    row = {"text_count": 400, "created_at": now() - timedelta(days=9), "new_texts": new_texts}
    with database.write() as session:
        session.execute(insert(User), [{**row, "id": i, "name": f"u{i}"} for i in ids])


def test_two_online_rounds_at_once_keep_to_one_budget(
    opened: tuple[Database, Database], tmp_path: Path
) -> None:
    jobs = ScriptedJobs(Schedule(online=True, online_per_hour=2))
    one, other = (Rounds(Settings(home=tmp_path), database, jobs) for database in opened)
    add_due(opened[0], [1, 2], new_texts=20)
    with ThreadPoolExecutor() as pool, held_up(opened[0], "INSERT INTO refreshes") as events:
        there, go_on = events
        first = pool.submit(one.online, "online-1")
        assert there.wait(60)
        # The second round finds others who are more urgent: no index keeps it from them.
        add_due(opened[1], [3, 4], new_texts=200)
        second = pool.submit(other.online, "online-2")
        settle(opened[1], second)
        go_on.set()
        assert (first.result(), second.result()) == (2, 0)
    with opened[0].read() as session:
        assert session.scalar(select(func.count(Refresh.id))) == 2


def test_an_online_round_passes_over_who_got_a_refresh_meanwhile(
    opened: tuple[Database, Database], tmp_path: Path
) -> None:
    jobs = ScriptedJobs(Schedule(online=True, online_per_hour=2))
    one, other = (Rounds(Settings(home=tmp_path), database, jobs) for database in opened)
    add_due(opened[0], [1], new_texts=200)
    with ThreadPoolExecutor() as pool, held_up(opened[0], "INSERT INTO refreshes") as events:
        there, go_on = events
        first = pool.submit(one.online, "online-1")
        assert there.wait(60)
        add_due(opened[1], [2], new_texts=20)
        second = pool.submit(other.online, "online-2")
        settle(opened[1], second)
        go_on.set()
        assert (first.result(), second.result()) == (1, 1)
    assert [run for _, run, _ in jobs.handed] == ["online-1-user-1", "online-2-user-2"]
