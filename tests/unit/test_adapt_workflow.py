"""Refreshes through the real durable queue, with a scripted trainer and engine."""

import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from refresh_workshop import KilledError, Workshop
from running_stack import wait_until

from adapt import workflow
from perce.train import TrainingDiverged
from server import pointer
from server.cancellation import cancel_refresh
from server.errors import ConflictError
from server.naps import LOOK_EVERY_S, end_nap, note_nap
from server.store.tables.base import now
from server.store.tables.people import User
from server.store.tables.workers import WorkerBeat

STEPS = {
    "candidate": ("dataset", "gate"),
    "training": ("train",),
    "rollout": ("publish", "warm", "activate", "succeed"),
}
POINTS = [(part, name, when) for part in STEPS for name in STEPS[part] for when in (0, 1)]


def killed_at(part: str, name: str, after: int) -> Callable[[workflow.Steps], None]:
    """Kill the worker at a step: before its effect, or behind it and before its record."""

    def fragile(steps: workflow.Steps) -> None:
        owner = getattr(steps, part)
        original = getattr(owner, name)

        def step(*args: object) -> object:
            if not after:
                raise KilledError
            original(*args)
            raise KilledError

        setattr(owner, name, step)

    return fragile


def unfinished(workshop: Workshop) -> list[str]:
    work = workshop.home / "work"
    return [path.name for path in work.iterdir()] if work.exists() else []


@pytest.mark.parametrize(("part", "name", "after"), POINTS)
def test_a_worker_killed_at_any_step_publishes_once(
    workshop: Workshop, part: str, name: str, after: int
) -> None:
    user = workshop.user("mina")
    killed: list[str] = []

    def fragile(steps: workflow.Steps) -> None:
        killed_at(part, name, after)(steps)
        owner = getattr(steps, part)
        step = getattr(owner, name)

        def noting(*args: object) -> object:
            try:
                return step(*args)
            finally:
                killed.append(name)

        setattr(owner, name, noting)

    with workshop.worker(fragile=fragile):
        (refresh_id,) = workshop.open(user)
        workshop.until(refresh_id, lambda row: bool(killed))
    before = workshop.refresh(refresh_id)
    assert (before.status in ("queued", "running")) == ((name, after) != ("succeed", 1))
    with workshop.worker():
        ended = workshop.ended(refresh_id)
    assert (ended.status, ended.verdict, ended.error) == ("succeeded", "publish", None)
    (adapter,) = workshop.adapters(user)
    assert (adapter.state, adapter.version) == ("active", 1)
    assert adapter.reason == "Better: published."
    folder = Path(adapter.folder)
    assert (folder / "adapter_model.safetensors").read_text().startswith("training")
    assert [path.name for path in folder.parent.iterdir()] == ["v1"]
    assert list(workshop.engine.loaded) == [adapter.name]
    assert unfinished(workshop) == []


def test_a_rollback_after_the_activation_is_not_undone_by_its_second_run(
    workshop: Workshop,
) -> None:
    user = workshop.user("mina")
    with workshop.worker(fragile=killed_at("rollout", "activate", 1)):
        (refresh_id,) = workshop.open(user)
        workshop.until(
            refresh_id, lambda row: any(a.state == "active" for a in workshop.adapters(user))
        )
    with workshop.database.write() as session:
        pointer.deactivate(session, session.get_one(User, user.id))
    with workshop.worker():
        assert workshop.ended(refresh_id).status == "succeeded"
    assert [adapter.state for adapter in workshop.adapters(user)] == ["retired"]


def test_a_version_that_became_active_meanwhile_is_not_replaced(workshop: Workshop) -> None:
    user = workshop.user("mina")
    with workshop.worker():
        workshop.ended(workshop.open(user)[0])

    def fragile(steps: workflow.Steps) -> None:
        gate = steps.candidate.gate

        def gate_then_rollback(*args: object) -> object:
            judged = gate(*args)  # type: ignore[arg-type]  # passed through as they are
            with workshop.database.write() as session:
                pointer.deactivate(session, session.get_one(User, user.id))
            return judged

        setattr(steps.candidate, "gate", gate_then_rollback)  # noqa: B010 - methods are not assigned to

    with workshop.worker(fragile=fragile):
        ended = workshop.ended(workshop.open(user)[0])
    assert (ended.status, ended.verdict) == ("succeeded", "reject")
    assert "the base model became active" in (ended.reason or "")
    assert all(adapter.state != "active" for adapter in workshop.adapters(user))


@pytest.mark.parametrize(("expected_in_s", "stage"), [(60, "publish"), (-60, "warm")])
def test_a_version_waits_for_engines_that_sleep_for_another_worker(
    workshop: Workshop, expected_in_s: float, stage: str
) -> None:
    user = workshop.user("mina")
    with workshop.database.write() as session:
        session.add(WorkerBeat(id="other", token="other.1", host="h", pid=1))
        until = now() + timedelta(seconds=expected_in_s)
        note_nap(session, ["http://engine"], "other.1", until)
    with workshop.worker():
        (refresh_id,) = workshop.open(user)
        workshop.until(refresh_id, lambda row: row.verdict is not None)
        time.sleep(2 * LOOK_EVERY_S)
        assert workshop.engine.requests == []
        # Only a nap that lasts too long takes of the patience that a step has.
        waiting = workshop.refresh(refresh_id)
        assert (waiting.status, waiting.stage) == ("running", stage)
        with workshop.database.write() as session:
            end_nap(session, "http://engine")
        ended = workshop.ended(refresh_id)
    assert (ended.status, ended.verdict, ended.error) == ("succeeded", "publish", None)
    assert list(workshop.engine.loaded) == ["u1@v1"]


def test_a_rejected_candidate_is_a_success_that_changes_nothing(workshop: Workshop) -> None:
    user = workshop.user("mina")
    workshop.decision = "reject"
    with workshop.worker():
        ended = workshop.ended(workshop.open(user)[0])
    assert (ended.status, ended.verdict, ended.reason) == (
        "succeeded",
        "reject",
        "Worse: rejected.",
    )
    (adapter,) = workshop.adapters(user)
    assert (adapter.state, adapter.reason) == ("rejected", "Worse: rejected.")
    assert workshop.engine.loaded == {}
    assert ended.report["examples"]["train"] + ended.report["examples"]["held_out"] == 16
    assert unfinished(workshop) == []


def test_a_cancellation_takes_effect_between_optimizer_steps(workshop: Workshop) -> None:
    user = workshop.user("mina")
    seen: list[int] = []

    def during(step: int) -> None:
        seen.append(step)
        if step == 1:
            with workshop.database.write() as session:
                assert cancel_refresh(session, user, workshop.open_of(user)).cancel_requested

    workshop.trainer.during = during
    with workshop.worker():
        (refresh_id,) = workshop.open(user)
        ended = workshop.ended(refresh_id)
    assert (ended.status, seen) == ("cancelled", [1])
    assert workshop.adapters(user) == []
    assert unfinished(workshop) == []
    with workshop.database.write() as session, pytest.raises(ConflictError, match="cancelled"):
        cancel_refresh(session, user, refresh_id)


@pytest.mark.parametrize("error", [TrainingDiverged("Loss NaN."), RuntimeError("Broken.")])
def test_a_training_that_fails_leaves_the_incumbent_alone(
    workshop: Workshop, error: Exception
) -> None:
    user = workshop.user("mina")
    with workshop.worker():
        workshop.ended(workshop.open(user)[0])
        workshop.trainer.error = error
        ended = workshop.ended(workshop.open(user)[0])
    refused = isinstance(error, TrainingDiverged)
    assert ended.status == ("succeeded" if refused else "failed")
    assert (ended.verdict, ended.reason) == (("reject", "Loss NaN.") if refused else (None, None))
    assert ended.error == (None if refused else "Broken.")
    assert [adapter.state for adapter in workshop.adapters(user)] == ["active"]
    assert unfinished(workshop) == []


def test_training_goes_on_from_the_active_version(workshop: Workshop) -> None:
    user = workshop.user("mina")
    with workshop.worker():
        workshop.ended(workshop.open(user)[0])
        workshop.ended(workshop.open(user)[0])
    first, second = workshop.adapters(user)
    assert workshop.trainer.starts == [None, Path(first.folder)]
    assert (second.parent_id, first.state, second.state) == (first.id, "retired", "active")
    assert second.settings["rank"] == 16 and second.code_version and second.data_fingerprint


def test_an_erased_user_leaves_nothing(workshop: Workshop) -> None:
    user = workshop.user("mina")

    def during(step: int) -> None:
        with workshop.database.write() as session:
            session.delete(session.get_one(User, user.id))

    workshop.trainer.during = during
    with workshop.worker():
        workshop.open(user)
        wait_until(lambda: not unfinished(workshop) and bool(workshop.trainer.starts), 120)
    assert not (workshop.home / "adapters").exists()


def test_a_batch_that_does_not_fit_is_trained_in_parts(workshop: Workshop) -> None:
    user = workshop.user("mina")
    workshop.trainer.room = False
    with workshop.worker():
        ended = workshop.ended(workshop.open(user)[0])
    assert (ended.verdict, ended.error) == ("publish", None)
    assert workshop.trainer.fleets == [[ended.id]]


def test_a_version_of_plain_cross_entropy_records_its_own_settings(workshop: Workshop) -> None:
    user = workshop.user("mina")
    with workshop.worker():
        workshop.ended(workshop.open(user, method="ce")[0])
    (adapter,) = workshop.adapters(user)
    assert (adapter.settings["clip_min"], adapter.settings["clip_max"]) == (1.0, 1.0)


def test_the_pace_of_a_training_is_in_its_record(workshop: Workshop) -> None:
    user = workshop.user("mina")
    noted: list[tuple[int | None, int | None, float | None, float | None]] = []

    def during(step: int) -> None:
        if step == 2:
            row = workshop.refresh(workshop.open_of(user))
            noted.append((row.step, row.steps, row.tokens_per_s, row.seconds_left))

    workshop.trainer.during = during
    with workshop.worker():
        ended = workshop.ended(workshop.open(user)[0])
    # A step of the scripted trainer has 100 tokens and takes half a second.
    assert noted == [(1, 4, 200.0, 1.5)]
    assert (ended.step, ended.seconds_left) == (None, None)
