"""The window in which engines sleep, from the worker's note to the gateway's answer."""

from collections.abc import Callable
from datetime import timedelta
from threading import Thread

import httpx
import pytest

from adapt.errors import EngineWindowError
from adapt.window import EngineWindow
from server import naps
from server.engine import Engine
from server.errors import EngineAsleepError, EngineUnavailableError
from server.naps import Naps, note_nap
from server.store.database import Database
from server.store.tables.base import now
from server.store.tables.workers import EngineNap, WorkerBeat


class SleepyEngine:
    """An engine that can be put to sleep, unless it was started without that."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.able = True
        self.down = False
        self.during: Callable[[str], None] = lambda path: None

    def client(self, url: str = "http://one") -> Engine:
        return Engine(url, transport=httpx.MockTransport(self._answer))

    def _answer(self, request: httpx.Request) -> httpx.Response:
        if self.down:
            raise httpx.ConnectError("refused", request=request)
        self.calls.append(f"{request.url.path}?{request.url.query.decode()}".rstrip("?"))
        self.during(request.url.path)
        return httpx.Response(200 if self.able else 404, json={})


@pytest.fixture
def engine() -> SleepyEngine:
    return SleepyEngine()


def window(
    database: Database, engine: SleepyEngine, worker: str = "w.1", wanted: bool = True
) -> EngineWindow:
    def make_room() -> None:
        engine.calls.append("make room")

    return EngineWindow(database, lambda: [engine.client()], worker, wanted, make_room, 0.0)


def noted(database: Database) -> list[str]:
    with database.read() as session:
        return [nap.worker for nap in session.query(EngineNap)]


def test_engines_sleep_once_and_wake_when_the_gpu_is_free(
    database: Database, engine: SleepyEngine
) -> None:
    opened = window(database, engine)
    opened.open()
    opened.open()
    assert engine.calls == ["/sleep?level=1&mode=wait"]
    assert noted(database) == ["w.1"]
    opened.close()
    assert engine.calls[1:] == ["make room", "/wake_up"]
    assert noted(database) == []
    opened.close()
    assert len(engine.calls) == 3


def test_where_no_window_is_wanted_nothing_happens(
    database: Database, engine: SleepyEngine
) -> None:
    shut = window(database, engine, wanted=False)
    shut.open()
    shut.expect(10)
    shut.close()
    assert engine.calls == [] and noted(database) == []


def test_an_engine_that_cannot_sleep_is_named_and_stays_in_service(
    database: Database, engine: SleepyEngine
) -> None:
    engine.able = False
    with pytest.raises(EngineWindowError, match="--enable-sleep-mode"):
        window(database, engine).open()
    assert noted(database) == []


def test_engines_that_a_dead_worker_left_asleep_are_woken_by_another(
    database: Database, engine: SleepyEngine
) -> None:
    window(database, engine, "w.1").open()
    with database.write() as session:
        session.add(WorkerBeat(id="w", token="w.1", host="h", pid=1))
    other = window(database, engine, "v.1")
    other.close_forgotten()
    assert noted(database) == ["w.1"]  # it lives
    with database.write() as session:
        session.get_one(WorkerBeat, "w").token = "w.2"
    other.close_forgotten()
    assert noted(database) == [] and engine.calls[-1] == "/wake_up"


@pytest.fixture
def unclosed(database: Database, engine: SleepyEngine) -> EngineWindow:
    """A window whose engine was away when it was to be woken; it is back now."""
    opened = window(database, engine)
    opened.open()
    engine.down = True
    with pytest.raises(EngineUnavailableError):
        opened.close()
    assert noted(database) == ["w.1"]
    engine.down = False
    return opened


def test_an_engine_that_could_not_be_woken_is_tried_again(
    database: Database, unclosed: EngineWindow
) -> None:
    unclosed.close()
    assert noted(database) == []


def test_recovery_leaves_a_window_alone_that_is_opening(
    database: Database, engine: SleepyEngine
) -> None:
    opened = window(database, engine)

    def recover(path: str) -> None:
        if path == "/sleep":
            chore = Thread(target=opened.close_forgotten)
            chore.start()
            chore.join()

    engine.during = recover
    opened.open()
    assert engine.calls == ["/sleep?level=1&mode=wait"]
    assert noted(database) == ["w.1"]


def test_a_worker_wakes_its_engines_whoever_lifted_its_note(
    database: Database, engine: SleepyEngine
) -> None:
    opened = window(database, engine)
    opened.open()
    with database.write() as session:
        session.query(EngineNap).delete()
    opened.close()
    assert engine.calls[1:] == ["make room", "/wake_up"]


def test_an_engine_that_sleeps_for_another_worker_by_now_is_left_asleep(
    database: Database, engine: SleepyEngine
) -> None:
    opened = window(database, engine)
    opened.open()
    with database.write() as session:
        session.add(WorkerBeat(id="v", token="v.1", host="h", pid=1))
        note_nap(session, ["http://one"], "v.1", now() + timedelta(seconds=30))
    opened.close()
    assert engine.calls[1:] == ["make room"]
    assert noted(database) == ["v.1"]


def test_recovery_goes_on_waking_where_closing_failed(
    database: Database, engine: SleepyEngine, unclosed: EngineWindow
) -> None:
    unclosed.close_forgotten()
    assert noted(database) == [] and engine.calls[-1] == "/wake_up"


def test_requests_go_to_engines_that_are_awake(
    database: Database, engine: SleepyEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(naps, "LOOK_EVERY_S", 0.0)
    engines = [engine.client("http://one"), engine.client("http://two")]
    known = Naps(database)
    assert [known.awake(engines, user).url for user in (0, 1, 2)] == [
        "http://one",
        "http://two",
        "http://one",
    ]
    with database.write() as session:
        note_nap(session, ["http://one"], "w.1", now() + timedelta(seconds=30))
    assert {known.awake(engines, user).url for user in (0, 1)} == {"http://two"}
    with database.write() as session:
        note_nap(session, ["http://two"], "w.1", now() + timedelta(seconds=90))
    with pytest.raises(EngineAsleepError) as caught:
        known.awake(engines, 0)
    assert 25 <= caught.value.retry_after_s <= 30
