"""What goes before and behind the training: the dataset, and the gate's verdict.

A person's refresh goes on from what answers that person now, be it the population's version.
The population's own starts afresh every time, so that nothing is left in it of who has gone.

Each step can run again after a crash and then ends in the same state: its inputs are on
disk or in the store, and nobody but this refresh sees what it makes. The training between
them is `adapt.training`, what follows `adapt.rollout`, the durable order `adapt.workflow`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from itertools import chain
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from adapt.claims import Claims
from adapt.curation import StoredText, explain
from adapt.dataset import ContextBudget, Dataset, Recipe
from adapt.errors import RefreshCancelledError, SharingEndedError, StepFailedError
from adapt.gate import HeldOutLosses, Verdict
from adapt.history import History, StoredFact, learn_from
from adapt.population import learn_from_population
from adapt.replay import Coverage
from adapt.trainer import Trainer
from adapt.window import EngineWindow
from perce.hyperparameters import Hyperparameters
from perce.retrieval import Encoder
from server import adapter_store, leases, population, registry, strays
from server.settings import Settings
from server.store import counters, memory
from server.store.database import Database
from server.store.tables.adapters import Adapter
from server.store.tables.people import User
from server.store.tables.refreshes import Refresh


@dataclass(frozen=True, slots=True)
class Prepared:
    """What a refresh learns from: the dataset's counts, and the version that it goes on from.

    `members` are the ids of those whose texts a version of the population is trained on.
    """

    counts: dict[str, Any]
    parent_id: int | None
    members: tuple[int, ...] = ()

    def __setstate__(self, state: Sequence[Any]) -> None:
        """Take what an older Attune recorded as well: it knew no members."""
        for one, value in zip(fields(self), (*state, ()), strict=False):
            object.__setattr__(self, one.name, value)

    def parent(self, session: Session) -> Adapter | None:
        """Return the version that training goes on from, or None for a fresh adapter.

        Raises:
            SharingEndedError: It was withdrawn.
        """
        if self.parent_id is None:
            return None
        adapter = session.get(Adapter, self.parent_id)
        if adapter is None or adapter.state == "withdrawn":
            raise SharingEndedError()
        return adapter


@dataclass(frozen=True, slots=True)
class Judged:
    """The gate's verdict, and which version answered the user when it was given.

    `active_id` is the user's active version, or else the population's.
    """

    verdict: Verdict
    active_id: int | None


class Workplace:
    """The folders of unfinished refreshes."""

    def __init__(self, home: Path, worker: str) -> None:
        self.root = strays.work_dir(home)
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

    def load_any(self, refresh_ids: Sequence[str]) -> Dataset:
        """Read the examples of the first refresh that still has them.

        Raises:
            StepFailedError: None has.
        """
        there = (one for one in refresh_ids if (self.folder(one) / "dataset.json").exists())
        return self.load(next(there, refresh_ids[0]))

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
        """Turn the user's history into examples, on disk; for the population, many users'.

        Raises:
            NothingToLearnError: No text is left to train on.
            RefreshCancelledError: The user took back their consent to training.
        """
        if self._is_of_population(refresh_id):
            return self._dataset_of_population(refresh_id)
        with self._database.write() as session:
            # Who takes consent back did so before, which is seen here, or finds this refresh.
            population.turn(session)
            refresh, user = self._claims.enter(session, refresh_id, "dataset")
            if not user.consent:
                raise RefreshCancelledError()
            parent = self._whole_parent(session, user)
            facts = [StoredFact.of(fact) for fact in memory.facts(session, user)]
            replies = memory.logged_replies(session, user)
            # Last: from its turn on, the user's chats and imports wait for the end.
            refresh.status, refresh.started_at = "running", counters.turn(session, user.id)
            texts = [StoredText.of(text) for text in memory.texts(session, user)]
        history = History(texts, facts, replies)
        # A version of the population covers nobody's texts.
        learnt = Coverage.of(parent.metrics) if parent else None
        dataset = learn_from(
            history, self._encoder, self._trainer.tokenizer, self._recipe(), learnt
        )
        self._workplace.save(refresh_id, dataset)
        return Prepared(_counts(dataset), parent.id if parent else None)

    def gate(self, refresh_id: str, candidate: Path) -> Judged:
        """Judge the candidate on the held-out texts, against what answers now."""
        self._window.open()
        with self._database.write() as session:
            refresh, user = self._claims.enter(session, refresh_id, "gate")
            refresh.step = refresh.steps = refresh.seconds_left = None
            incumbent = self._whole_parent(session, user)
            answering = leases.choose(session, user, "active")
        dataset = self._workplace.load(refresh_id)
        losses = self._trainer.held_out_losses(
            dataset.held_out,
            Path(incumbent.folder) if incumbent else None,
            candidate,
            dataset.train,
        )
        if population.is_population(user):
            # It starts afresh: what it was trained on the incumbent has learnt as well.
            losses = replace(losses, learnt=None)
        return Judged(self._judge(losses), answering.id if answering else None)

    def _is_of_population(self, refresh_id: str) -> bool:
        with self._database.read() as session:
            owner = session.scalar(
                select(User)
                .join(Refresh, Refresh.user_id == User.id)
                .where(Refresh.id == refresh_id)
            )
        return owner is not None and population.is_population(owner)

    def _dataset_of_population(self, refresh_id: str) -> Prepared:
        with self._database.write() as session:
            population.turn(session)
            refresh, user = self._claims.enter(session, refresh_id, "dataset")
            refresh.status, refresh.started_at = "running", counters.turn(session, user.id)
            stored = {one.id: one.text_count for one in population.sharing(session)}

        def read(user_id: int) -> History:
            # Whoever leaves cancels the refresh: nobody's texts are read after that.
            self._claims.note(refresh_id)
            with self._database.read() as session:
                one = session.get(User, user_id)
                return History.of(session, one) if one is not None else History((), ())

        found = learn_from_population(
            stored,
            read,
            self._encoder,
            self._trainer.tokenizer,
            self._recipe(),
            self._settings.population_texts,
        )
        self._workplace.save(refresh_id, found.dataset)
        users = {"users": len(found.members), "held_out_users": found.held_out_users}
        return Prepared(_counts(found.dataset) | users, None, found.members)

    def _recipe(self) -> Recipe:
        return Recipe(
            budget=ContextBudget(self._settings.context_tokens, self._settings.context_texts),
            max_length=self._hyper.max_length,
            group_size=self._hyper.group_size,
            replay_share=self._settings.replay_share,
            max_texts=self._settings.max_texts,
            seed=self._hyper.seed,
        )

    def _whole_parent(self, session: Session, user: User) -> Adapter | None:
        """The version that answers now, if its files are whole and it fits the base model."""
        fitting = [
            adapter
            for adapter in chain(registry.lineage(session, user), population.lineage(session))
            if adapter.base_model == self._trainer.base_fingerprint
        ]
        return adapter_store.first_whole(fitting)


def _counts(dataset: Dataset) -> dict[str, Any]:
    return dataset.counts() | {"left_out_in_words": explain(dataset.left_out)}
