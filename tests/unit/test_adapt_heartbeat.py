"""Who is alive among workers, on a real store; leases are short so that nobody waits."""

import os
import socket
from collections.abc import Callable, Iterator

import pytest
from running_stack import wait_until

from adapt.errors import WorkerNameTakenError
from adapt.heartbeat import STOPPED, Heartbeat, Watch
from server.store.database import Database
from server.store.tables.workers import WorkerBeat

LEASE_S = 0.6
NO_PROCESS = 2**22 + 1  # beyond the largest process id of Linux


@pytest.fixture
def heart(database: Database) -> Iterator[Callable[[str, list[str]], Heartbeat]]:
    made: list[Heartbeat] = []

    def make(name: str, lost: list[str]) -> Heartbeat:
        made.append(Heartbeat(database, name, LEASE_S, lost.append))
        return made[-1]

    yield make
    for heartbeat in made:
        heartbeat.stop()


Heart = Callable[[str, list[str]], Heartbeat]


def leave(database: Database, worker_id: str, host: str, pid: int, beats: int = 7) -> None:
    with database.write() as session:
        session.add(WorkerBeat(id=worker_id, token="old", host=host, pid=pid, beats=beats))


def row(database: Database, worker_id: str) -> WorkerBeat | None:
    with database.read() as session:
        return session.get(WorkerBeat, worker_id)


def test_beats_rise_and_end_with_the_worker_s_word(database: Database, heart: Heart) -> None:
    lost: list[str] = []
    heartbeat = heart("a", lost)
    heartbeat.start()
    wait_until(lambda: (found := row(database, "a")) is not None and found.beats >= 2, 20)
    heartbeat.stop()
    found = row(database, "a")
    assert found is not None and (found.beats, found.token) == (STOPPED, heartbeat.token)
    assert lost == []


@pytest.mark.parametrize(
    ("host", "pid", "beats"),
    [
        (socket.gethostname(), NO_PROCESS, 7),
        (socket.gethostname(), os.getpid(), 7),
        ("elsewhere", os.getpid(), STOPPED),
        ("elsewhere", os.getpid(), 7),
    ],
    ids=["its process is gone", "this container's earlier life", "it said so", "it is silent"],
)
def test_the_name_of_a_worker_that_is_gone_is_taken(
    database: Database, heart: Heart, host: str, pid: int, beats: int
) -> None:
    leave(database, "a", host, pid, beats)
    heartbeat = heart("a", [])
    heartbeat.start()
    found = row(database, "a")
    assert found is not None
    assert (found.token, found.pid) == (heartbeat.token, os.getpid())


def test_the_name_of_a_running_worker_is_refused(database: Database, heart: Heart) -> None:
    first = heart("a", [])
    first.start()
    with database.write() as session:
        session.get_one(WorkerBeat, "a").host = "elsewhere"
    with pytest.raises(WorkerNameTakenError, match="ATTUNE_WORKER_ID"):
        Heartbeat(database, "a", 20 * LEASE_S, lambda why: None).start()


def test_a_worker_that_was_taken_over_ends_itself(database: Database, heart: Heart) -> None:
    lost: list[str] = []
    heart("a", lost).start()
    with database.write() as session:
        session.delete(session.get_one(WorkerBeat, "a"))
    wait_until(lambda: bool(lost), 20)
    assert "took over" in lost[0]


def test_a_worker_that_cannot_reach_the_store_ends_itself(database: Database, heart: Heart) -> None:
    lost: list[str] = []
    heartbeat = heart("a", lost)
    heartbeat.start()
    with database.write() as session:
        session.connection().exec_driver_sql("ALTER TABLE workers RENAME TO gone")
    wait_until(lambda: bool(lost), 20)
    with database.write() as session:
        session.connection().exec_driver_sql("ALTER TABLE gone RENAME TO workers")
    assert "could not be reached" in lost[0]


def test_silence_is_noticed_and_a_beat_ends_it(database: Database, heart: Heart) -> None:
    leave(database, "b", "elsewhere", 1)
    watch = Watch(database, heart("a", []))
    assert watch.silent() == []
    wait_until(lambda: bool(watch.silent()), 20)
    (sign,) = watch.silent()
    assert (sign.worker_id, sign.beats) == ("b", 7)
    with database.write() as session:
        session.get_one(WorkerBeat, "b").beats = 8
    assert watch.silent() == []


def test_a_worker_that_stopped_in_order_is_silent_at_once(database: Database, heart: Heart) -> None:
    leave(database, "b", "elsewhere", 1, STOPPED)
    watch = Watch(database, heart("a", []))
    assert [sign.worker_id for sign in watch.silent()] == ["b"]
