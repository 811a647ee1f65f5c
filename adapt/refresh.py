"""What goes before and behind the training: the dataset, and the gate's verdict.

Each step can run again after a crash and then ends in the same state: its inputs are on
disk or in the store, and nobody but this refresh sees what it makes. The training between
them is `adapt.training`, what follows `adapt.rollout`, the durable order `adapt.workflow`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from adapt.claims import Claims
from adapt.curation import StoredText, explain
from adapt.dataset import ContextBudget, Dataset, Recipe
from adapt.errors import StepFailedError
from adapt.gate import HeldOutLosses, Verdict
from adapt.history import History, learn_from
from adapt.replay import Coverage
from adapt.trainer import Trainer
from adapt.window import EngineWindow
from perce.hyperparameters import Hyperparameters
from perce.retrieval import Encoder
from server import adapter_store, registry
from server.settings import Settings
from server.store import counters, memory
from server.store.database import Database
from server.store.tables.adapters import Adapter
from server.store.tables.people import User


@dataclass(frozen=True, slots=True)
class Prepared:
    """What a refresh learns from: the dataset's counts, and the version that it goes on from."""

    counts: dict[str, Any]
    parent_id: int | None


@dataclass(frozen=True, slots=True)
class Judged:
    """The gate's verdict, and which version was active when it was given."""

    verdict: Verdict
    active_id: int | None


class Workplace:
    """The folders of unfinished refreshes."""

    def __init__(self, home: Path, worker: str) -> None:
        self.root = home.resolve() / "work"
        self._worker = worker

    def folder(self, refresh_id: str) -> Path:
        """Where a refresh keeps everything until it ends."""
        return self.root / refresh_id

    def save(self, refresh_id: str, dataset: Dataset) -> None:
        """Keep its examples for the steps that follow, here or on another worker."""
        dataset.save(self.folder(refresh_id) / "dataset.json")

    def load(self, refresh_id: str) -> Dataset:
        """Read its examples.

        Raises:
            StepFailedError: They are not here, because workers do not share their `home`.
        """
        try:
            return Dataset.load(self.folder(refresh_id) / "dataset.json")
        except FileNotFoundError as error:
            raise StepFailedError(
                f"What another worker prepared is not in {self.root}: give all workers the same "
                "ATTUNE_HOME, on a disk that they share, and refresh again."
            ) from error

    def adapter(self, refresh_id: str) -> Path:
        """Where this worker trains: one that was taken over writes elsewhere."""
        return self.folder(refresh_id) / self._worker / "adapter"


class CandidateSteps:
    """Makes and judges candidates, for one worker process."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        encoder: Encoder,
        trainer: Trainer,
        hyper: Hyperparameters,
        judge: Callable[[HeldOutLosses], Verdict],
        claims: Claims,
        window: EngineWindow,
    ) -> None:
        self._settings = settings
        self._database = database
        self._encoder = encoder
        self._trainer = trainer
        self._hyper = hyper
        self._judge = judge
        self._claims = claims
        self._window = window
        self._workplace = Workplace(settings.home, claims.worker)

    def dataset(self, refresh_id: str) -> Prepared:
        """Turn the user's history into examples, on disk.

        Raises:
            NothingToLearnError: No text is left to train on.
        """
        with self._database.write() as session:
            refresh, user = self._claims.enter(session, refresh_id, "dataset")
            parent = self._whole_parent(session, user)
            facts = [fact.text for fact in memory.facts(session, user)]
            replies = memory.logged_replies(session, user)
            # Last: from its turn on, the user's chats and imports wait for the end.
            refresh.status, refresh.started_at = "running", counters.turn(session, user.id)
            texts = [StoredText.of(text) for text in memory.texts(session, user)]
        history = History(texts, facts, replies)
        recipe = Recipe(
            budget=ContextBudget(self._settings.context_tokens, self._settings.context_texts),
            max_length=self._hyper.max_length,
            group_size=self._hyper.group_size,
            replay_share=self._settings.replay_share,
            max_texts=self._settings.max_texts,
            seed=self._hyper.seed,
        )
        learnt = Coverage.of(parent.metrics) if parent else None
        dataset = learn_from(history, self._encoder, self._trainer.tokenizer, recipe, learnt)
        self._workplace.save(refresh_id, dataset)
        counts = dataset.counts() | {"left_out_in_words": explain(dataset.left_out)}
        return Prepared(counts, parent.id if parent else None)

    def gate(self, refresh_id: str, candidate: Path) -> Judged:
        """Judge the candidate on the held-out texts, against what answers now."""
        self._window.open()
        with self._database.write() as session:
            refresh, user = self._claims.enter(session, refresh_id, "gate")
            refresh.step = refresh.steps = refresh.seconds_left = None
            incumbent = self._whole_parent(session, user)
            active = registry.active(session, user)
        dataset = self._workplace.load(refresh_id)
        losses = self._trainer.held_out_losses(
            dataset.held_out,
            Path(incumbent.folder) if incumbent else None,
            candidate,
            dataset.train,
        )
        return Judged(self._judge(losses), active.id if active else None)

    def _whole_parent(self, session: Session, user: User) -> Adapter | None:
        """The version that answers now, if its files are whole and it fits the base model."""
        fitting = [
            adapter
            for adapter in registry.lineage(session, user)
            if adapter.base_model == self._trainer.base_fingerprint
        ]
        return adapter_store.first_whole(fitting)
