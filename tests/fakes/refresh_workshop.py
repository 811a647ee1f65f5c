"""Refreshes with the real queue, store and steps, and without a model or an engine process.

Training writes a small file and says what it went on from; the gate's verdict is scripted.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from dbos import DBOS
from scripted_engine import ScriptedEngine, WordEncoder
from sqlalchemy import select

from adapt import workflow
from adapt.claims import Claims
from adapt.gate import HeldOutLosses, Losses, Verdict
from adapt.refresh import CandidateSteps, Workplace
from adapt.rollout import RolloutSteps
from adapt.trainer import Trainer, TrainingSummary
from adapt.training import TrainingSteps
from adapt.window import EngineWindow
from perce.example import Example
from perce.fleet import FleetSize, Member
from perce.hyperparameters import Hyperparameters
from perce.tokens import ChatTokenizer
from perce.train import Step
from server.engine import Engine
from server.jobs import APP, REFRESH_QUEUE, UPKEEP_QUEUE, Jobs
from server.refreshes import OPEN, Method, open_refresh
from server.settings import Settings
from server.store import memory
from server.store.database import Database
from server.store.memory import NewText
from server.store.tables.adapters import Adapter
from server.store.tables.people import User
from server.store.tables.refreshes import Refresh
from server.store.users import add_user

STEPS = 4
SUBJECTS = ["tides", "kettles", "bridges", "moss", "engines", "letters", "owls", "bread"]


class KilledError(BaseException):
    """What a killed process looks like from inside: no handler of errors sees it."""


class ScriptedTrainer(Trainer):
    """A trainer that takes no time; each training writes another file."""

    def __init__(self, tokenizer: ChatTokenizer) -> None:
        super().__init__("scripted", tokenizer, "cpu")
        self.starts: list[Path | None] = []
        self.during: Callable[[int], None] = lambda step: None
        self.error: Exception | None = None
        self.together = 1
        self.room = True
        self.fleets: list[list[str]] = []

    @property
    def base_fingerprint(self) -> str:
        return "scripted-base"

    def train(
        self,
        examples: Sequence[Example],
        hyper: Hyperparameters,
        start: Path | None,
        folder: Path,
        on_step: Callable[[Step], None],
    ) -> TrainingSummary:
        if not self.room:
            raise torch.OutOfMemoryError("injected")
        self.starts.append(start)
        for number in range(1, STEPS + 1):
            self.during(number)
            on_step(Step(number, STEPS, 1.0, 1.0, 0.1, 100, 0.5))
        if self.error is not None:
            raise self.error
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "adapter_config.json").write_text("{}")
        (folder / "adapter_model.safetensors").write_text(f"training {len(self.starts)}")
        return TrainingSummary(STEPS, 100 * STEPS, 2.0, 2.0, 1.0, 1.1)

    def fleet_size(self, examples: Sequence[Example], hyper: Hyperparameters) -> FleetSize:
        return FleetSize(self.together)

    def train_fleet(
        self,
        members: Mapping[str, Member],
        size: FleetSize,
        on_step: Callable[[str, Step], None],
    ) -> dict[str, TrainingSummary | Exception]:
        assert size.users == self.together
        self.fleets.append(list(members))
        self.room = True
        outcomes: dict[str, TrainingSummary | Exception] = {}
        for name, one in members.items():
            try:
                outcomes[name] = self.train(
                    one.examples, one.hyper, one.start, one.folder, partial(on_step, name)
                )
            except Exception as error:
                outcomes[name] = error
        return outcomes

    def held_out_losses(
        self,
        examples: Sequence[Example],
        incumbent: Path | None,
        candidate: Path,
        learnt: Sequence[Example] = (),
    ) -> HeldOutLosses:
        assert (candidate / "adapter_model.safetensors").exists()
        return HeldOutLosses((), None if incumbent is None else (), (), ())


@dataclass
class Workshop:
    """One home with its store and engine, over which workers come and go."""

    home: Path
    tokenizer: ChatTokenizer
    engine: ScriptedEngine
    decision: str = "publish"
    engine_down: bool = False
    workers: int = 0
    trainer: ScriptedTrainer = field(init=False)
    settings: Settings = field(init=False)
    database: Database = field(init=False)
    jobs: Jobs = field(init=False)

    def __post_init__(self) -> None:
        self.settings = Settings(home=self.home, engine_urls=("http://engine",))
        self.database = Database(self.settings.store_url())
        self.database.migrate(self.home)
        self.trainer = ScriptedTrainer(self.tokenizer)

    def user(self, name: str, texts: int = 16) -> User:
        with self.database.write() as session:
            user = add_user(session, name)[0]
            memory.add_texts(session, user, [_text(i) for i in range(texts)])
        return user

    def open(
        self, *users: User, workflow_id: str | None = None, method: Method = "perce"
    ) -> list[str]:
        """Open refreshes, as one fleet if there are several, and enqueue them."""
        with self.database.write() as session:
            rows = [open_refresh(session, user, method) for user in users]
            for row in rows:
                row.workflow_id = workflow_id or row.id
        ids = [row.id for row in rows]
        self.jobs.refresh(ids, workflow_id or ids[0])
        return ids

    @contextmanager
    def worker(
        self, name: str = "worker-1", fragile: Callable[[workflow.Steps], None] | None = None
    ) -> Iterator[workflow.Steps]:
        """Run a worker in this process; what it left unfinished stays in the queue."""
        self.workers += 1
        steps = self._steps(f"{name}.{self.workers}")
        if fragile is not None:
            fragile(steps)
        DBOS(
            config={
                "name": APP,
                "system_database_url": self.settings.queue_url(),
                "application_version": "1",
                "executor_id": name,
                "console_log_level": "CRITICAL",
            }
        )
        workflow.register(steps)
        DBOS.launch()
        DBOS.register_queue(REFRESH_QUEUE, worker_concurrency=1, polling_interval_sec=0.05)
        DBOS.register_queue(UPKEEP_QUEUE, worker_concurrency=8, polling_interval_sec=0.05)
        self.jobs = steps.jobs
        try:
            yield steps
        finally:
            DBOS.destroy(destroy_registry=True)
            steps.jobs.close()

    def refresh(self, refresh_id: str) -> Refresh:
        with self.database.read() as session:
            return session.get_one(Refresh, refresh_id)

    def open_of(self, user: User) -> str:
        """The id of the user's refresh that waits or runs: known before it is enqueued."""
        with self.database.read() as session:
            open_ones = select(Refresh.id).where(Refresh.status.in_(OPEN))
            return session.scalars(open_ones.where(Refresh.user_id == user.id)).one()

    def ended(self, refresh_id: str, seconds: float = 120) -> Refresh:
        """Wait for a refresh's end."""
        return self.until(refresh_id, lambda row: row.finished_at is not None, seconds)

    def until(
        self, refresh_id: str, holds: Callable[[Refresh], bool], seconds: float = 120
    ) -> Refresh:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            row = self.refresh(refresh_id)
            if holds(row):
                return row
            time.sleep(0.02)
        raise TimeoutError(f"{row.status} {row.stage} {row.error}")

    def adapters(self, user: User) -> list[Adapter]:
        with self.database.read() as session:
            return list(session.query(Adapter).filter_by(user_id=user.id).order_by(Adapter.id))

    def _steps(self, token: str) -> workflow.Steps:
        claims = Claims(self.database, token)
        window = EngineWindow(self.database, self._connect, token, False, self.trainer.release)
        hyper = Hyperparameters(max_length=512)
        candidate = CandidateSteps(
            self.settings,
            self.database,
            WordEncoder(),
            self.trainer,
            hyper,
            self._judge,
            claims,
            window,
        )
        rollout = RolloutSteps(
            self.settings, self.database, hyper, "scripted-base", claims, window, self._connect
        )
        training = TrainingSteps(
            self.database, self.trainer, hyper, claims, window, Workplace(self.home, token)
        )
        jobs = Jobs(self.settings.queue_url())
        return workflow.Steps(claims, candidate, training, rollout, jobs)

    def _connect(self) -> tuple[Engine, ...]:
        return (Engine("http://engine", transport=self.engine.transport()),)

    def _judge(self, losses: HeldOutLosses) -> Verdict:
        means = Losses(2.0, None if losses.incumbent is None else 1.9, 1.5)
        if self.decision == "publish":
            return Verdict("publish", "Better: published.", means, None, 10, 0)
        return Verdict("reject", "Worse: rejected.", means, None, 10, 0)


def _text(number: int) -> NewText:
    one, other = SUBJECTS[number % len(SUBJECTS)], SUBJECTS[(number * 5 + 1) % len(SUBJECTS)]
    return NewText(
        f"What about {one} number {number}?",
        f"Well, my {number} {one} always remind me of {other}, and I say so every single morning.",
        float(number),
    )
