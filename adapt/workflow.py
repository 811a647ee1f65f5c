"""The durable workflows: a fleet's refreshes, and the drain behind each.

A fleet are users who are refreshed together, or one user alone. DBOS records each finished
step; a worker that was killed, or another one in its place, continues behind the last one. A
step that had its effect but not its record runs again, which all steps allow. What becomes
of one user of a fleet changes nothing for the others.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

import structlog
from dbos import DBOS
from dbos import error as dbos_error

from adapt import errors
from adapt.claims import Claims
from adapt.patience import STORE_AWAY, patiently, persist, store_error
from adapt.refresh import CandidateSteps, Judged, Prepared
from adapt.rollout import RolloutSteps
from adapt.training import Training, TrainingSteps
from server.errors import EngineAsleepError, EngineRefusedError, EngineUnavailableError
from server.jobs import DRAIN_WORKFLOW, REFRESH_WORKFLOW, Jobs

log = structlog.get_logger()
STEP_ERRORS = (
    *errors.OUTCOMES,
    errors.StoreUnavailableError,
    EngineUnavailableError,
    dbos_error.DBOSMaxStepRetriesExceeded,
)
"""What a step ends with. Anything else is the queue's own trouble, and stops the run unrecorded."""
P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Steps:
    """What the workflows are made of, for one worker process."""

    claims: Claims
    candidate: CandidateSteps
    training: TrainingSteps
    rollout: RolloutSteps
    jobs: Jobs


@dataclass(slots=True)
class _Member:
    """One refresh of a fleet, and what its steps have made so far."""

    id: str
    prepared: Prepared | None = None
    training: Training | None = None
    judged: Judged | None = None


def register(steps: Steps) -> None:
    """Register the workflows; must happen before DBOS is launched."""

    @DBOS.workflow(name=REFRESH_WORKFLOW)
    def refresh(refresh_ids: list[str]) -> None:
        _Fleet(steps, refresh_ids).run()

    @DBOS.workflow(name=DRAIN_WORKFLOW)
    def drain(user_id: int) -> None:
        _patient_step("drain", steps.rollout.drain, user_id)


class _Fleet:
    """One run of a fleet's workflow: stage by stage, so that engines sleep but once."""

    def __init__(self, steps: Steps, refresh_ids: Sequence[str]) -> None:
        self._steps = steps
        self._members = [_Member(refresh_id) for refresh_id in refresh_ids]
        self._ended = 0

    def run(self) -> None:
        # No step: whoever runs the workflow now is whose the refreshes are.
        ids = [member.id for member in self._members]
        persist("claim", lambda: self._steps.claims.claim(ids))
        try:
            going = self._through(self._members, self._prepare)
            going = self._through(self._train_together(going), self._train)
            going = self._through(going, self._judge)
            self._through(going, self._roll_out)
        except Exception:
            self._wake_unrecorded()
            raise
        self._wake()

    def _wake_unrecorded(self) -> None:
        """Wake engines as no step: the run may still go on behind the steps that it recorded."""
        try:
            self._steps.rollout.wake()
        except Exception:
            # What stopped the run is raised; the recovery of the workers goes on waking.
            log.exception("engines are still asleep")

    def _wake(self) -> None:
        try:
            _patient_step("wake", self._steps.rollout.wake)
        except STEP_ERRORS as error:
            # The recovery of the workers goes on trying.
            log.error("engines are still asleep", reason=_message(error))

    def _prepare(self, member: _Member) -> None:
        member.prepared = _step("dataset", self._steps.candidate.dataset, member.id)

    def _train_together(self, members: Sequence[_Member]) -> list[_Member]:
        """Train as many at once as the device has room for; return who is still going."""
        users = self._fleet_size(members)
        if users < 2:
            return list(members)
        prepared = {member.id: member.prepared for member in members if member.prepared}
        outcomes: Mapping[str, Training | Exception | None]
        try:
            outcomes = _patient_step("train", self._steps.training.train_together, prepared, users)
        except STEP_ERRORS as error:
            outcomes = dict.fromkeys(prepared, error)

        def settle(member: _Member) -> None:
            outcome = outcomes[member.id]
            if isinstance(outcome, Exception):
                raise outcome
            member.training = outcome

        return self._through(members, settle)

    def _fleet_size(self, members: Sequence[_Member]) -> int:
        """How many are trained together; 1 where that cannot be found out."""
        ids = [member.id for member in members]
        try:
            return _patient_step("fleet size", self._steps.training.fleet_size, ids)
        except STEP_ERRORS as error:
            # If it concerns training itself, each user's own says so.
            log.warning("fleet size unknown: one user at a time", reason=_message(error))
            return 1

    def _train(self, member: _Member) -> None:
        if member.training is None:
            assert member.prepared is not None
            member.training = _patient_step(
                "train", self._steps.training.train, member.id, member.prepared
            )

    def _judge(self, member: _Member) -> None:
        assert member.training is not None
        member.judged = _patient_step(
            "gate", self._steps.candidate.gate, member.id, member.training.folder
        )

    def _roll_out(self, member: _Member) -> None:
        assert member.prepared and member.training and member.judged
        rollout = self._steps.rollout
        adapter_id = _step(
            "publish", rollout.publish, member.id, member.prepared, member.training, member.judged
        )
        if adapter_id is not None:
            _patient_step("warm", rollout.warm, member.id, adapter_id)
            _step("activate", rollout.activate, member.id, adapter_id, member.judged)
        user_id = _step("succeed", rollout.succeed, member.id)
        self._note_end(member)
        if adapter_id is not None and user_id is not None:
            self._drain_later(user_id, member.id)

    def _through(
        self, members: Sequence[_Member], stage: Callable[[_Member], None]
    ) -> list[_Member]:
        """Take members through a stage; return those who are still going."""
        going = []
        for member in members:
            try:
                stage(member)
            except STEP_ERRORS as error:
                self._end(member, error)
            else:
                going.append(member)
        return going

    def _end(self, member: _Member, error: Exception) -> None:
        """Close a refresh that did not get through."""
        rollout = self._steps.rollout
        match error:
            case errors.UserErasedError() | errors.RefreshOverError():
                _step("clean", rollout.clean, member.id)
            case errors.RefreshCancelledError():
                _step("cancel", rollout.cancel, member.id)
            case errors.SharingEndedError():
                user_id = _step("take back", rollout.take_back, member.id, _message(error))
                if user_id is not None:
                    self._drain_later(user_id, member.id)
            case errors.NothingToLearnError() | errors.CandidateRefusedError():
                _step("refuse", rollout.refuse, member.id, _message(error))
            case _:
                user_id = _step("fail", rollout.fail, member.id, _message(error))
                if user_id is not None:
                    self._drain_later(user_id, member.id)
        self._note_end(member)

    def _drain_later(self, user_id: int, refresh_id: str) -> None:
        """Have the version that was replaced drained; the refresh itself is done without it."""
        try:
            _step("drain", self._steps.jobs.drain, user_id, f"drain-{refresh_id}")
        except STEP_ERRORS as error:
            # The gateway's upkeep finds what is loaded without need.
            log.warning("drain not enqueued", user=user_id, reason=_message(error))

    def _note_end(self, member: _Member) -> None:
        self._ended += 1
        if len(self._members) > 1:
            log.info("fleet", refresh=member.id, users_done=self._ended, users=len(self._members))


def _step(name: str, action: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run a recorded step that waits some minutes for a store that is away."""
    options = patiently(name, lambda error: isinstance(error, errors.StoreUnavailableError))
    return DBOS.run_step(options, _storable(name, action), *args, **kwargs)


def _patient_step(name: str, action: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run a recorded step that waits some minutes for an engine that restarts, as well."""
    away = (EngineUnavailableError, errors.StoreUnavailableError)
    options = patiently(name, lambda error: isinstance(error, away))
    return DBOS.run_step(options, _storable(name, action), *args, **kwargs)


def _storable(name: str, action: Callable[P, T]) -> Callable[P, T]:
    """Let only errors out of a step that can be stored with its record."""

    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return action(*args, **kwargs)
        except (*errors.OUTCOMES, EngineUnavailableError):
            raise
        except STORE_AWAY as error:
            raise store_error(error) from None
        except EngineAsleepError as error:
            raise EngineUnavailableError(str(error)) from None
        except EngineRefusedError as error:
            if error.status >= 500:
                raise EngineUnavailableError(str(error)) from None
            raise errors.StepFailedError(_message(error)) from None
        except Exception as error:
            # What is raised from here has the message; the log keeps the rest.
            log.exception("step failed", step=name)
            raise errors.StepFailedError(_message(error)) from None

    return run


def _message(error: BaseException) -> str:
    """What a person is told: of a step that was tried often, the last thing that went wrong."""
    if isinstance(error, dbos_error.DBOSMaxStepRetriesExceeded) and error.errors:
        return _message(error.errors[-1])
    return str(error) or (type(error).__doc__ or type(error).__name__).strip()
