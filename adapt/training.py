"""The step between dataset and gate: training candidates, one by one or a fleet together.

Together pays where one user's step does not fill the device; what comes out is the same
(`perce.fleet`). A training that died with its worker is begun again, at most `MAX_ATTEMPTS`
times, and alone after `TOGETHER_ATTEMPTS`: one user's data must not fail a whole fleet.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog
import torch

from adapt import errors
from adapt.claims import Claims
from adapt.progress import Progress
from adapt.refresh import Prepared, Workplace
from adapt.trainer import Trainer, TrainingSummary
from adapt.window import EngineWindow
from perce.adapter_files import BrokenWeights
from perce.fleet import FleetSize, Member
from perce.hyperparameters import Hyperparameters
from perce.run import Step, TrainingDiverged
from server.store.database import Database

log = structlog.get_logger()
MAX_ATTEMPTS = 20
TOGETHER_ATTEMPTS = 2


@dataclass(frozen=True, slots=True)
class Training:
    """A finished training run: how it went, and where its adapter lies."""

    summary: TrainingSummary
    folder: Path


class TrainingSteps:
    """Trains candidates, for one worker process."""

    def __init__(
        self,
        database: Database,
        trainer: Trainer,
        hyper: Hyperparameters,
        claims: Claims,
        window: EngineWindow,
        workplace: Workplace,
    ) -> None:
        self._database = database
        self._trainer = trainer
        self._hyper = hyper
        self._claims = claims
        self._window = window
        self._workplace = workplace
        self._size: FleetSize | None = None

    def fleet_size(self, refresh_ids: Sequence[str]) -> int:
        """How many of a fleet's users are trained together; 1 on a CPU, which one user fills.

        Timed at the first fleet that a worker meets, on the examples of one of its users, the
        first who was not erased meanwhile.
        """
        if len(refresh_ids) < 2:
            return 1
        if self._size is None:
            self._window.open()
            dataset = self._workplace.load_any(refresh_ids)
            self._size = self._trainer.fleet_size(dataset.train, self._hyper)
            log.info("fleet size chosen", users=self._size.users, micro=self._size.micro_batch)
        return self._size.users

    def train(self, refresh_id: str, prepared: Prepared) -> Training:
        """Train one candidate from the version that its dataset was made for, or from nothing.

        Raises:
            CandidateRefusedError: The loss or the weights are not finite.
            SharingEndedError: The version that it goes on from was withdrawn.
            TrainingMemoryError: The GPU is too full.
            StepFailedError: The training has killed its worker too often.
        """
        self._window.open()
        member, _ = self._begin(refresh_id, prepared)
        try:
            summary = self._train_alone(refresh_id, member)
        except Exception as error:
            raise _as_outcome(error) from error
        return Training(summary, member.folder)

    def _train_alone(self, refresh_id: str, member: Member) -> TrainingSummary:
        """Train one candidate, in parts of its batch where the device has no room for all of it."""
        progress = self._progress(refresh_id)
        part = self._size.micro_batch if self._size else None
        if part is None:
            try:
                return self._trainer.train(
                    member.examples, member.hyper, member.start, member.folder, progress
                )
            except torch.OutOfMemoryError as error:
                log.warning("no room for a whole batch", refresh=refresh_id, reason=str(error))
        outcomes = self._trainer.train_fleet(
            {refresh_id: member}, FleetSize(1, part), lambda _, step: progress(step)
        )
        outcome = outcomes[refresh_id]
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def train_together(
        self, prepared: Mapping[str, Prepared], users: int
    ) -> dict[str, Training | Exception | None]:
        """Train the candidates of a fleet at once.

        Args:
            prepared: What each refresh learns from, by its id.
            users: Most that go through the model at once.

        Returns:
            For each refresh its training, or what ended it, as `train` would have raised it.
            None for those who have to be trained alone, because the worker died of the fleet.
        """
        self._window.open()
        outcomes: dict[str, Training | Exception | None] = {}
        members: dict[str, Member] = {}
        for refresh_id, one in prepared.items():
            try:
                member, attempts = self._begin(refresh_id, one)
            except errors.OUTCOMES as error:
                outcomes[refresh_id] = error
            else:
                outcomes[refresh_id] = None
                if attempts <= TOGETHER_ATTEMPTS:
                    members[refresh_id] = member
        progress = {refresh_id: self._progress(refresh_id) for refresh_id in members}

        def on_step(refresh_id: str, step: Step) -> None:
            progress[refresh_id](step)

        size = self._size or FleetSize(users)
        for refresh_id, found in self._trainer.train_fleet(members, size, on_step).items():
            if isinstance(found, Exception):
                outcomes[refresh_id] = _as_outcome(found)
            else:
                outcomes[refresh_id] = Training(found, members[refresh_id].folder)
        return outcomes

    def _begin(self, refresh_id: str, prepared: Prepared) -> tuple[Member, int]:
        """Begin a training; return what it needs, and how often it was begun.

        Raises:
            StepFailedError: It has killed its worker too often.
            SharingEndedError: The version that it goes on from was withdrawn.
            RefreshCancelledError: See `Claims.enter`, for the others too.
        """
        with self._database.write() as session:
            refresh, _ = self._claims.enter(session, refresh_id, "train")
            refresh.step = refresh.steps = refresh.tokens_per_s = refresh.seconds_left = None
            refresh.attempts += 1
            attempts, method = refresh.attempts, refresh.method
            parent = prepared.parent(session)
        if attempts > MAX_ATTEMPTS:
            raise errors.StepFailedError(
                f"The worker died {MAX_ATTEMPTS} times while it trained this user: look at its "
                "log and at the machine's memory, then refresh again."
            )
        member = Member(
            self._workplace.load(refresh_id).train,
            self._hyper.of_method(method),
            self._workplace.adapter(refresh_id),
            Path(parent.folder) if parent else None,
        )
        return member, attempts

    def _progress(self, refresh_id: str) -> Progress:
        return Progress(self._claims, refresh_id, self._window.expect)


def _as_outcome(error: Exception) -> Exception:
    """What a failed training is called in a refresh; of an unknown error, its message."""
    if isinstance(error, errors.OUTCOMES):
        return error
    if isinstance(error, TrainingDiverged | BrokenWeights):
        return errors.CandidateRefusedError(str(error))
    if isinstance(error, torch.OutOfMemoryError):
        return errors.TrainingMemoryError()
    log.error("training failed", exc_info=error)
    return errors.StepFailedError(str(error) or type(error).__name__)
