"""The steps of one refresh: dataset, train, gate, publish, warm, activate, drain.

Each step can run again after a crash and then ends in the same state: its inputs are on
disk or in the store, and what it made before is found instead of made twice. The durable
order of the steps is `adapt.workflow`.
"""

import asyncio
import shutil
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import structlog
from sqlalchemy.orm import Session

from adapt.dataset import ContextBudget, Dataset, build_dataset, past_texts
from adapt.errors import NothingToLearnError, UserErasedError
from adapt.gate import Verdict, judge
from adapt.trainer import Trainer, TrainingSummary
from perce.hyperparameters import Hyperparameters
from perce.retrieval import Encoder
from perce.train import Step
from server import refreshes, registry, swap
from server.engine import Engine, connect_engines
from server.settings import Settings
from server.store import memory
from server.store.database import Database
from server.store.tables import Adapter, Refresh, User, now

log = structlog.get_logger()
_PROGRESS_EVERY_S = 0.5


@dataclass(frozen=True, slots=True)
class Training:
    """A finished training run, and the version that it went on from."""

    summary: TrainingSummary
    parent_id: int | None


class RefreshSteps:
    """What a refresh does, step by step, for one worker process."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        encoder: Encoder,
        trainer: Trainer,
        hyper: Hyperparameters,
    ) -> None:
        self._settings = settings
        self._database = database
        self._encoder = encoder
        self._trainer = trainer
        self._hyper = hyper

    def dataset(self, refresh_id: str) -> dict[str, int]:
        """Turn the user's history into examples, on disk; return how many.

        Raises:
            NothingToLearnError: No text is left to train on.
        """
        with self._database.write() as session:
            _, user = self._find(session, refresh_id)
            refreshes.advance(
                session, refresh_id, status="running", stage="dataset", started_at=now()
            )
            facts = [fact.text for fact in memory.facts(session, user)]
            texts = list(memory.texts(session, user))
        budget = ContextBudget(self._settings.context_tokens, self._settings.context_texts)
        dataset = build_dataset(
            past_texts(((t.id, t.query, t.text, t.position) for t in texts), self._encoder),
            facts,
            self._trainer.tokenizer,
            budget,
            self._hyper.max_length,
        )
        if not dataset.train:
            raise NothingToLearnError(
                f"Of {len(texts)} texts {dataset.too_long} are longer than "
                f"{self._hyper.max_length} tokens, and too few are left: import shorter ones."
            )
        dataset.save(self._work(refresh_id) / "dataset.json")
        return {
            "train": len(dataset.train),
            "held_out": len(dataset.held_out),
            "too_long": dataset.too_long,
        }

    def train(self, refresh_id: str) -> Training:
        """Train a candidate from the active version, or from nothing for a new user.

        Raises:
            DamagedAdapterError: The active version's files are not those published.
            TrainingDiverged: The loss is not finite.
        """
        with self._database.write() as session:
            refresh, user = self._find(session, refresh_id)
            incumbent = registry.active(session, user)
            refreshes.advance(session, refresh_id, stage="train")
        if incumbent is not None:
            registry.verify(incumbent)
        hyper = self._hyper.plain_ce() if refresh.method == "ce" else self._hyper
        summary = self._trainer.train(
            Dataset.load(self._work(refresh_id) / "dataset.json").train,
            hyper,
            Path(incumbent.folder) if incumbent else None,
            self._work(refresh_id) / "adapter",
            self._progress(refresh_id),
        )
        return Training(summary, incumbent.id if incumbent else None)

    def gate(self, refresh_id: str) -> Verdict:
        """Judge the candidate on the held-out texts."""
        with self._database.write() as session:
            _, user = self._find(session, refresh_id)
            incumbent = registry.active(session, user)
            refreshes.advance(session, refresh_id, stage="gate", step=None, steps=None)
        losses = self._trainer.held_out_losses(
            Dataset.load(self._work(refresh_id) / "dataset.json").held_out,
            Path(incumbent.folder) if incumbent else None,
            self._work(refresh_id) / "adapter",
        )
        return judge(losses)

    def publish(
        self, refresh_id: str, counts: dict[str, int], training: Training, verdict: Verdict
    ) -> int | None:
        """Store the verdict, and for a good one the version; return the version's id.

        The row comes first and names the folder, so a second run finds it and places the
        same files again; a version whose files are not complete never becomes active.
        """
        dataset = Dataset.load(self._work(refresh_id) / "dataset.json")
        report = {**asdict(verdict), "examples": counts, "training": asdict(training.summary)}
        with self._database.write() as session:
            refresh, user = self._find(session, refresh_id)
            refreshes.advance(session, refresh_id, stage="publish")
            adapter = session.get(Adapter, refresh.adapter_id) if refresh.adapter_id else None
            if adapter is None:
                provenance = registry.Provenance(
                    self._trainer.base_fingerprint,
                    refresh.method,
                    training.parent_id,
                    dataset.trained_position,
                )
                adapter = registry.add_candidate(
                    session, user, provenance, report, self._settings.adapters_dir()
                )
                adapter.reason = verdict.reason
            if verdict.decision == "reject":
                adapter.state = "rejected"
            refreshes.advance(
                session,
                refresh_id,
                adapter_id=adapter.id,
                verdict=verdict.decision,
                reason=verdict.reason,
                report=report,
            )
        if verdict.decision == "reject":
            return None
        sums = registry.place_files(self._work(refresh_id) / "adapter", Path(adapter.folder))
        with self._database.write() as session:
            placed = session.get(Adapter, adapter.id)
            if placed is None:
                swap.delete_files([adapter])
                raise UserErasedError()
            placed.checksums = sums
        return adapter.id

    def warm(self, refresh_id: str, adapter_id: int) -> None:
        """Load the new version on every engine, before anybody is sent to it."""
        adapter = self._enter(refresh_id, "warm", adapter_id)
        self._on_engines(lambda engines: swap.warm(engines, adapter))

    def activate(self, refresh_id: str, adapter_id: int) -> None:
        """Flip the user to the new version, in one transaction."""
        adapter = self._enter(refresh_id, "activate", adapter_id)
        with self._database.write() as session:
            registry.activate(session, adapter)

    def drain(self, user_id: int) -> None:
        """Unload retired versions that nobody uses, and delete those beyond the kept ones."""
        self._on_engines(lambda engines: swap.drain(self._database, engines, user_id))
        with self._database.write() as session:
            user = session.get(User, user_id)
            old = registry.surplus(session, user, self._settings.keep_versions) if user else ()
            for adapter in old:
                adapter.state = "erased"
        swap.delete_files(old)

    def enter_drain(self, refresh_id: str) -> int:
        """Note that the old version is being drained; return the user's id."""
        with self._database.write() as session:
            refreshes.advance(session, refresh_id, stage="drain")
            return self._find(session, refresh_id)[1].id

    def succeed(self, refresh_id: str) -> None:
        """Close the refresh; its verdict says whether a version was published."""
        with self._database.write() as session:
            refreshes.close(session, refresh_id, "succeeded")
        self._clean(refresh_id)

    def fail(self, refresh_id: str, message: str) -> None:
        """Close the refresh with what went wrong, and leave no files of an erased user."""
        log.error("refresh failed", refresh=refresh_id, reason=message)
        with self._database.write() as session:
            refreshes.close(session, refresh_id, "failed", error=message)
        self._clean(refresh_id)

    def due(self, min_new_texts: int) -> list[str]:
        """Open a refresh for every user who is due; return their ids."""
        with self._database.write() as session:
            return [refresh.id for refresh in refreshes.open_due(session, min_new_texts)]

    def _find(self, session: Session, refresh_id: str) -> tuple[Refresh, User]:
        refresh = session.get(Refresh, refresh_id)
        user = session.get(User, refresh.user_id) if refresh else None
        if refresh is None or user is None:
            raise UserErasedError()
        return refresh, user

    def _enter(self, refresh_id: str, stage: str, adapter_id: int) -> Adapter:
        """Note the stage, and return the version that it is about."""
        with self._database.write() as session:
            self._find(session, refresh_id)
            refreshes.advance(session, refresh_id, stage=stage)
            return session.get_one(Adapter, adapter_id)

    def _progress(self, refresh_id: str) -> Callable[[Step], None]:
        """Write progress now and then: a row write per optimizer step would be wasted."""
        last = 0.0

        def note(step: Step) -> None:
            nonlocal last
            if time.monotonic() - last < _PROGRESS_EVERY_S and step.step < step.steps:
                return
            last = time.monotonic()
            with self._database.write() as session:
                refreshes.advance(session, refresh_id, step=step.step, steps=step.steps)

        return note

    def _on_engines(self, action: Callable[[Sequence[Engine]], Awaitable[None]]) -> None:
        async def run() -> None:
            engines = connect_engines(self._settings)
            try:
                await action(engines)
            finally:
                for engine in engines:
                    await engine.close()

        asyncio.run(run())

    def _work(self, refresh_id: str) -> Path:
        return self._settings.home.resolve() / "work" / refresh_id

    def _clean(self, refresh_id: str) -> None:
        shutil.rmtree(self._work(refresh_id), ignore_errors=True)
