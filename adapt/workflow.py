"""The durable workflows: a refresh, a drain, and the nightly round over due users.

DBOS records each finished step; a worker that was killed continues behind the last one.
Workflows are registered under the names that `server.jobs` enqueues.
"""

from datetime import datetime
from typing import Any

from dbos import DBOS, StepOptions

from adapt.errors import UserErasedError
from adapt.refresh import RefreshSteps
from server.jobs import (
    DEFAULT_MIN_NEW_TEXTS,
    DRAIN_WORKFLOW,
    NIGHTLY_WORKFLOW,
    REFRESH_WORKFLOW,
    Jobs,
)


def register(steps: RefreshSteps, jobs: Jobs) -> None:
    """Register the workflows; must happen before DBOS is launched."""

    @DBOS.workflow(name=REFRESH_WORKFLOW)
    def refresh(refresh_id: str) -> None:
        try:
            _refresh(steps, refresh_id)
        except Exception as error:
            message = str(error) or type(error).__name__
            DBOS.run_step({"name": "fail"}, steps.fail, refresh_id, message)
            if not isinstance(error, UserErasedError):
                raise

    @DBOS.workflow(name=DRAIN_WORKFLOW)
    def drain(user_id: int) -> None:
        DBOS.run_step(_patiently("drain"), steps.drain, user_id)

    @DBOS.workflow(name=NIGHTLY_WORKFLOW)
    def nightly(_scheduled: datetime, context: Any) -> None:  # noqa: ANN401 - DBOS's own shape
        least = (context or {}).get("min_new_texts", DEFAULT_MIN_NEW_TEXTS)
        for refresh_id in DBOS.run_step({"name": "due"}, steps.due, least):
            DBOS.run_step({"name": "enqueue"}, jobs.refresh, refresh_id)


def _refresh(steps: RefreshSteps, refresh_id: str) -> None:
    counts = DBOS.run_step({"name": "dataset"}, steps.dataset, refresh_id)
    training = DBOS.run_step({"name": "train"}, steps.train, refresh_id)
    verdict = DBOS.run_step({"name": "gate"}, steps.gate, refresh_id)
    adapter_id = DBOS.run_step(
        {"name": "publish"}, steps.publish, refresh_id, counts, training, verdict
    )
    if adapter_id is not None:
        DBOS.run_step(_patiently("warm"), steps.warm, refresh_id, adapter_id)
        DBOS.run_step({"name": "activate"}, steps.activate, refresh_id, adapter_id)
        user_id = DBOS.run_step({"name": "enter drain"}, steps.enter_drain, refresh_id)
        DBOS.run_step(_patiently("drain"), steps.drain, user_id)
    DBOS.run_step({"name": "succeed"}, steps.succeed, refresh_id)


def _patiently(name: str) -> StepOptions:
    """Options of a step that needs the engines: a restart of one takes up to a minute."""
    return {
        "name": name,
        "retries_allowed": True,
        "interval_seconds": 2.0,
        "backoff_rate": 1.5,
        "max_attempts": 8,
    }
