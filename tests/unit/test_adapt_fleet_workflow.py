"""Refreshes of several users at once, and what becomes of each where they are trained together."""

import shutil

from refresh_workshop import KilledError, Workshop
from running_stack import wait_until

from adapt import workflow
from adapt.errors import EngineWindowError
from server.cancellation import cancel_refresh
from server.store.tables.people import User


def test_one_user_of_a_fleet_does_not_change_what_becomes_of_the_others(
    workshop: Workshop,
) -> None:
    users = [workshop.user(name) for name in ("mina", "wilf", "anders")]
    calls: list[str] = []

    def fragile(steps: workflow.Steps) -> None:
        train = steps.training.train

        def failing(refresh_id: str, *args: object) -> object:
            calls.append(refresh_id)
            if len(calls) == 2:
                raise RuntimeError("broken")
            return train(refresh_id, *args)  # type: ignore[arg-type]

        setattr(steps.training, "train", failing)  # noqa: B010

    with workshop.worker(fragile=fragile):
        ids = workshop.open(*users, workflow_id="round-1")
        ended = [workshop.ended(refresh_id) for refresh_id in ids]
    assert [row.status for row in ended] == ["succeeded", "failed", "succeeded"]
    assert ended[1].error == "broken"
    with workshop.database.read() as session:
        failures = [session.get_one(User, user.id).failures for user in users]
        waits = [session.get_one(User, user.id).retry_at is not None for user in users]
    assert failures == [0, 1, 0] and waits == [False, True, False]


def test_a_fleet_is_trained_together_where_the_device_has_room(workshop: Workshop) -> None:
    users = [workshop.user(name) for name in ("mina", "wilf", "anders")]
    workshop.trainer.together = 2

    def during(step: int) -> None:
        if step == 1 and len(workshop.trainer.starts) == 2:
            with workshop.database.write() as session:
                cancel_refresh(session, users[1], workshop.open_of(users[1]))

    workshop.trainer.during = during
    with workshop.worker():
        ids = workshop.open(*users, workflow_id="round-1")
        ended = [workshop.ended(refresh_id) for refresh_id in ids]
    assert workshop.trainer.fleets == [ids]
    assert [row.status for row in ended] == ["succeeded", "cancelled", "succeeded"]
    assert [row.verdict for row in ended] == ["publish", None, "publish"]


def test_a_fleet_whose_size_cannot_be_found_out_is_trained_one_by_one(
    workshop: Workshop,
) -> None:
    users = [workshop.user(name) for name in ("mina", "wilf")]
    workshop.trainer.together = 2

    def fragile(steps: workflow.Steps) -> None:
        def fleet_size(refresh_ids: list[str]) -> int:
            raise RuntimeError("no trial")

        setattr(steps.training, "fleet_size", fleet_size)  # noqa: B010 - methods are not assigned to

    with workshop.worker(fragile=fragile):
        ended = [workshop.ended(one) for one in workshop.open(*users, workflow_id="round-1")]
    assert [row.verdict for row in ended] == ["publish"] * 2
    assert workshop.trainer.fleets == []


def test_a_fleets_size_is_found_out_on_a_user_who_is_still_there(workshop: Workshop) -> None:
    users = [workshop.user(name) for name in ("mina", "wilf", "anders")]
    workshop.trainer.together = 2

    def fragile(steps: workflow.Steps) -> None:
        original = steps.training.fleet_size

        def fleet_size(refresh_ids: list[str]) -> int:
            shutil.rmtree(workshop.home / "work" / refresh_ids[0])
            return original(refresh_ids)

        setattr(steps.training, "fleet_size", fleet_size)  # noqa: B010

    with workshop.worker(fragile=fragile):
        ids = workshop.open(*users, workflow_id="round-1")
        ended = [workshop.ended(one) for one in ids]
    assert workshop.trainer.fleets == [ids[1:]]
    assert [row.status for row in ended] == ["failed", "succeeded", "succeeded"]


def test_what_ends_a_joint_training_is_told_in_each_refresh(workshop: Workshop) -> None:
    users = [workshop.user(name) for name in ("mina", "wilf")]
    workshop.trainer.together = 2
    woken: list[bool] = []

    def fragile(steps: workflow.Steps) -> None:
        def train_together(*_: object) -> object:
            raise EngineWindowError("The engine cannot sleep.")

        setattr(steps.training, "train_together", train_together)  # noqa: B010
        setattr(steps.rollout, "wake", lambda: woken.append(True))  # noqa: B010

    with workshop.worker(fragile=fragile):
        ended = [workshop.ended(one) for one in workshop.open(*users, workflow_id="round-1")]
        wait_until(lambda: bool(woken), 60)
    assert [(row.status, row.error) for row in ended] == [
        ("failed", "The engine cannot sleep.")
    ] * 2


def test_engines_are_woken_however_a_fleet_stops(workshop: Workshop) -> None:
    user = workshop.user("mina")
    woken: list[bool] = []

    def fragile(steps: workflow.Steps) -> None:
        def broken(*_: object) -> object:
            raise RuntimeError("broken")

        setattr(steps.training, "train", broken)  # noqa: B010
        setattr(steps.rollout, "fail", broken)  # noqa: B010
        setattr(steps.rollout, "wake", lambda: woken.append(True))  # noqa: B010

    with workshop.worker(fragile=fragile):
        workshop.open(user)
        wait_until(lambda: bool(woken), 60)


def test_a_fleet_that_kills_its_worker_is_trained_one_by_one(workshop: Workshop) -> None:
    users = [workshop.user(name) for name in ("mina", "wilf")]
    workshop.trainer.together = 2
    ids: list[str] = []
    for _ in range(2):

        def during(step: int) -> None:
            raise KilledError

        workshop.trainer.during = during
        begun = len(workshop.trainer.fleets)
        with workshop.worker():
            ids = ids or workshop.open(*users, workflow_id="round-1")
            wait_until(lambda: len(workshop.trainer.fleets) > begun, 120)  # noqa: B023 - runs now
    workshop.trainer.during = lambda step: None
    with workshop.worker():
        ended = [workshop.ended(refresh_id) for refresh_id in ids]
    assert workshop.trainer.fleets == [ids, ids, []]
    assert [(row.verdict, row.attempts) for row in ended] == [("publish", 4)] * 2
