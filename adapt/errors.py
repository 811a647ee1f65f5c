"""Errors of the offline side. Their messages end up in the refresh that they ended.

All must survive pickling: a durable step's error is stored and raised again after a crash.
"""

from perce.errors import AttuneError


class NothingToLearnError(AttuneError):
    """No text is left to train on: import more, or shorter, texts."""


class UserErasedError(AttuneError):
    """The user was erased while the refresh ran; nothing of it is kept."""


class RefreshCancelledError(AttuneError):
    """The refresh was cancelled; what answered before goes on answering."""


class RefreshOverError(AttuneError):
    """The refresh was closed already, by a cancellation while it waited."""


class TakenOverError(AttuneError):
    """Another worker took this refresh over, because this one was silent for too long."""


class SharingEndedError(AttuneError):
    """Somebody whose texts went into this left the population: refresh again, without them."""


class CandidateRefusedError(AttuneError):
    """The candidate cannot be served whatever its losses; the message says why."""


class StepFailedError(AttuneError):
    """A step of a refresh failed; the message is that of what went wrong."""


class StoreUnavailableError(AttuneError):
    """The store could not be reached: see that its database runs."""


class TrainingMemoryError(AttuneError):
    """The GPU has too little free memory for training: see docs/refreshes.md for what helps."""


class WorkerNameTakenError(AttuneError):
    """A running worker has this name: give each its own with ATTUNE_WORKER_ID."""


class PlacementError(AttuneError):
    """Training cannot run where the settings put it; the message says why."""


class EngineWindowError(AttuneError):
    """The engine cannot sleep: start it with --enable-sleep-mode and VLLM_SERVER_DEV_MODE=1."""


OUTCOMES = (
    NothingToLearnError,
    UserErasedError,
    RefreshCancelledError,
    RefreshOverError,
    TakenOverError,
    SharingEndedError,
    CandidateRefusedError,
    StepFailedError,
    TrainingMemoryError,
    EngineWindowError,
)
"""What a step may end with; everything else becomes a `StepFailedError` with its message."""
