"""Three workers on one PostgreSQL: each user is refreshed once, and a death loses nothing.

Real worker processes, which train the reference model on eight short texts a user, and a
real PostgreSQL with the store and the queue. The engine is scripted: what is tested is who
does which work, and not what is served.
"""

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import pytest
from dbos import DBOSClient
from engine_server import EngineServer
from fastapi.testclient import TestClient
from private_postgres import PrivatePostgres
from pydantic import SecretStr
from running_stack import wait_until
from scripted_engine import ScriptedEngine
from sqlalchemy import func, select

from perce.retrieval import Encoder
from perce.tokens import ChatTokenizer
from server import adapter_store
from server.app import create_app
from server.engine import connect_engines
from server.jobs import REFRESH_QUEUE
from server.services import Services
from server.settings import Settings
from server.store.database import Database
from server.store.tables.adapters import Adapter
from server.store.tables.people import User
from server.store.tables.refreshes import Refresh

REPOSITORY = Path(__file__).parents[2]
DEMO = REPOSITORY / "demo"
TEXTS = 10
WORKERS = 3
LEASE_S = 15.0
"""Silence after which the others take a worker's work over."""
START_S, REFRESH_S = 300.0, 60.0

Report = Callable[[str], None]


@dataclass
class Workers:
    """Worker processes that share a store and a queue, and the folder of their logs."""

    settings: Settings
    logs: Path
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def __enter__(self) -> Self:
        for number in range(1, WORKERS + 1):
            self._start(f"worker-{number}")
        wait_until(lambda: all(map(self._is_ready, self.processes)), START_S)
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes.values():
            process.terminate()
        for process in self.processes.values():
            process.wait(30)

    def kill(self, name: str) -> None:
        self.processes[name].kill()
        self.processes[name].wait()

    def _start(self, name: str) -> None:
        settings = self.settings
        environment = {
            "ATTUNE_HOME": str(settings.home),
            "ATTUNE_DATABASE_URL": settings.database_url,
            "ATTUNE_JOBS_URL": settings.jobs_url,
            "ATTUNE_ENGINE_URLS": f'["{settings.engine_urls[0]}"]',
            "ATTUNE_ADMIN_KEY": "admin",
            "ATTUNE_WORKER_ID": name,
            "ATTUNE_WORKER_LEASE_S": str(LEASE_S),
            "ATTUNE_TRAIN_THREADS": "1",
            "ATTUNE_CONTEXT_TOKENS": "48",
            "ATTUNE_CONTEXT_TEXTS": "1",
            "ATTUNE_MAX_LENGTH": "192",
            "PYTHONUNBUFFERED": "1",
        }
        with self._log(name).open("wb") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-m", "adapt"],
                env={**os.environ, **environment},
                cwd=REPOSITORY,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def _is_ready(self, name: str) -> bool:
        log = self._log(name).read_text()
        assert self.processes[name].poll() is None, log
        return "worker ready" in log

    def _log(self, name: str) -> Path:
        return self.logs / f"{name}.log"


@dataclass
class Installation:
    """Three workers, a gateway in this process, and users with texts."""

    workers: Workers
    gateway: TestClient
    database: Database
    queue: DBOSClient

    def add_users(self, count: int) -> None:
        authors = sorted(folder for folder in DEMO.iterdir() if folder.is_dir())
        for number in range(count):
            lines = (authors[number % len(authors)] / "history.jsonl").read_text().splitlines()
            start = number // len(authors) % (len(lines) - TEXTS)
            self.gateway.post("/v1/users", json={"name": f"u{number}"}).raise_for_status()
            self.gateway.post(
                f"/v1/users/u{number}/history", content="\n".join(lines[start : start + TEXTS])
            ).raise_for_status()

    def run_now(self) -> None:
        self.gateway.post("/v1/schedule/run").raise_for_status()

    def ended(self) -> int:
        with self.database.read() as session:
            done = select(func.count(Refresh.id)).where(
                Refresh.status.not_in(("queued", "running"))
            )
            return session.scalars(done).one()

    def executors(self) -> Counter[str]:
        """Which workers work on how many workflows, or did so last."""
        return Counter(workflow[0] for workflow in self._workflows())

    def attempts(self) -> list[int]:
        return [workflow[1] for workflow in self._workflows()]

    def busy_worker(self) -> str | None:
        """A worker that is in the middle of a training."""
        with self.database.read() as session:
            training = session.scalars(
                select(Refresh.id).where(Refresh.status == "running", Refresh.stage == "train")
            ).all()
        if not training:
            return None
        return next((who for who, _, status in self._workflows() if status == "PENDING"), None)

    def _workflows(self) -> list[tuple[str, int, str]]:
        """Worker, attempts and status of each workflow that refreshes."""
        return [
            (one.executor_id or "", one.recovery_attempts or 0, one.status)
            for one in self.queue.list_workflows(queue_name=REFRESH_QUEUE)
        ]


@pytest.fixture
def installation(
    postgres: PrivatePostgres,
    tmp_path: Path,
    scripted_engine: ScriptedEngine,
    reference_tokenizer: ChatTokenizer,
    word_encoder: Encoder,
) -> Iterator[Installation]:
    with EngineServer(scripted_engine) as engine:
        settings = Settings(
            home=tmp_path,
            engine_urls=(engine.url,),
            admin_key=SecretStr("admin"),
            database_url=postgres.new_database(f"store_{tmp_path.name}"),
            jobs_url=postgres.new_database(f"jobs_{tmp_path.name}"),
        )
        services = Services.build(
            settings, connect_engines(settings), reference_tokenizer, word_encoder
        )
        headers = {"Authorization": "Bearer admin"}
        with (
            TestClient(create_app(services), headers=headers) as gateway,
            Workers(settings, tmp_path) as workers,
        ):
            database = Database(settings.store_url())
            queue = DBOSClient(system_database_url=settings.queue_url())
            yield Installation(workers, gateway, database, queue)
            queue.destroy()
            database.close()


def test_each_user_is_refreshed_once(installation: Installation, report: Report) -> None:
    refresh_all(installation, 12, report)
    assert set(installation.executors()) == {"worker-1", "worker-2", "worker-3"}


def test_what_a_killed_worker_did_others_finish(installation: Installation, report: Report) -> None:
    refresh_all(installation, 6, report, kill=True)


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_two_hundred_users_are_refreshed_once(installation: Installation, report: Report) -> None:
    refresh_all(installation, 200, report)


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_two_hundred_users_survive_a_killed_worker(
    installation: Installation, report: Report
) -> None:
    refresh_all(installation, 200, report, kill=True)


def refresh_all(installation: Installation, users: int, report: Report, kill: bool = False) -> None:
    """Refresh everybody who is due; with `kill`, one worker dies while it trains."""
    installation.add_users(users)
    started = time.monotonic()
    installation.run_now()
    killed = _kill_a_busy_worker(installation) if kill else None
    wait_until(lambda: installation.ended() >= users, REFRESH_S * users)
    seconds = time.monotonic() - started
    report(
        f"{users} users in {seconds:.0f} s, {3600 * users / seconds:.0f} an hour; fleets by "
        f"worker {dict(installation.executors())}; killed {killed}"
    )
    assert_each_once(installation, users)
    if killed is None:
        # Nobody died, so nothing was begun twice.
        assert set(installation.attempts()) == {1}, installation.attempts()


def assert_each_once(installation: Installation, users: int) -> None:
    with installation.database.read() as session:
        refreshes = session.scalars(select(Refresh)).all()
        adapters = session.scalars(select(Adapter)).all()
        everybody = session.scalars(select(User)).all()
    bad = [(r.user_id, r.status, r.error) for r in refreshes if r.status != "succeeded"]
    assert not bad, f"{len(bad)} of {len(refreshes)} refreshes did not succeed: {bad[:5]}"
    once = {user.id: 1 for user in everybody}
    assert len(once) == users
    by_user = Counter(refresh.user_id for refresh in refreshes)
    assert by_user == once, f"refreshes by user: {_other_than_one(by_user)}"
    made = Counter(adapter.user_id for adapter in adapters)
    assert made == once, f"versions by user: {_other_than_one(made)}"
    assert {user.new_texts for user in everybody} == {0}
    states = Counter(adapter.state for adapter in adapters)
    assert set(states) <= {"active", "rejected"}, states
    for adapter in adapters:
        if adapter.state == "active":
            adapter_store.verify(adapter)


def _kill_a_busy_worker(installation: Installation) -> str:
    busy: list[str] = []

    def found() -> bool:
        worker = installation.busy_worker()
        busy.extend([worker] if worker else [])
        return bool(busy)

    wait_until(found, REFRESH_S)
    installation.workers.kill(busy[0])
    return busy[0]


def _other_than_one(counts: Counter[int]) -> dict[int, int]:
    return {user: count for user, count in counts.items() if count != 1}
