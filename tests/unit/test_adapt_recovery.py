"""What becomes of the work of workers and gateways that died, with the real durable queue."""

from collections.abc import Iterator
from datetime import timedelta

import pytest
from dbos import DBOS
from refresh_workshop import KilledError, Workshop
from running_stack import wait_until

from adapt import workflow
from adapt.errors import TakenOverError
from adapt.heartbeat import Heartbeat, Sign, Watch
from adapt.recovery import LOST_AFTER, Recovery, take_over
from server.refreshes import open_refresh
from server.store.tables.base import now
from server.store.tables.refreshes import Refresh
from server.store.tables.workers import WorkerBeat


@pytest.fixture
def lost_refresh(workshop: Workshop) -> Iterator[str]:
    """A refresh whose worker, `gone`, was killed while it trained."""
    killed: list[int] = []

    def during(step: int) -> None:
        killed.append(step)
        raise KilledError

    workshop.trainer.during = during
    user = workshop.user("mina")
    with workshop.worker("gone"):
        (refresh_id,) = workshop.open(user)
        workshop.until(refresh_id, lambda row: bool(killed))
    workshop.trainer.during = lambda step: None
    with workshop.database.write() as session:
        session.add(WorkerBeat(id="gone", token="t", host="elsewhere", pid=1, beats=3))
    yield refresh_id


def recovery(workshop: Workshop, steps: workflow.Steps) -> Recovery:
    heartbeat = Heartbeat(workshop.database, "here", 60, lambda why: None)
    return Recovery(
        Watch(workshop.database, heartbeat),
        workshop.database,
        workshop.home / "work",
        steps.jobs.refresh,
        steps.rollout.give_up,
        every_s=0.05,
    )


def test_another_worker_finishes_what_a_lost_one_began(
    workshop: Workshop, lost_refresh: str
) -> None:
    with workshop.worker("here"):
        assert take_over(workshop.database, Sign("gone", "t", 3)) == 1
        ended = workshop.ended(lost_refresh)
    assert (ended.status, ended.verdict, ended.attempts) == ("succeeded", "publish", 2)
    assert ended.worker is not None and ended.worker.startswith("here.")
    with workshop.database.read() as session:
        assert session.get(WorkerBeat, "gone") is None


@pytest.mark.parametrize("sign", [Sign("gone", "t", 2), Sign("gone", "another", 3)])
def test_a_worker_that_gave_a_sign_meanwhile_keeps_its_work(
    workshop: Workshop, lost_refresh: str, sign: Sign
) -> None:
    with workshop.worker("here"):
        assert take_over(workshop.database, sign) is None
        (pending,) = DBOS.list_workflows(workflow_ids=[lost_refresh])
        assert (pending.status, pending.executor_id) == ("PENDING", "gone")


def test_two_takers_take_over_once(workshop: Workshop, lost_refresh: str) -> None:
    with workshop.worker("here"):
        sign = Sign("gone", "t", 3)
        assert [take_over(workshop.database, sign) for _ in range(2)] == [1, None]
        assert workshop.ended(lost_refresh).attempts == 2


def test_a_run_that_was_taken_over_changes_nothing_any_more(
    workshop: Workshop, lost_refresh: str
) -> None:
    with workshop.worker("here") as steps:
        with workshop.database.write() as session:
            session.get_one(Refresh, lost_refresh).worker = "somebody else's"
        with pytest.raises(TakenOverError):
            steps.rollout.fail(lost_refresh, "too late")
        with pytest.raises(TakenOverError):
            steps.claims.note(lost_refresh, step=1)
        with workshop.database.write() as session, pytest.raises(TakenOverError):
            steps.claims.enter(session, lost_refresh, "gate")
    assert workshop.refresh(lost_refresh).status == "running"
    assert (workshop.home / "work" / lost_refresh / "dataset.json").exists()


def test_a_refresh_that_was_never_enqueued_is(workshop: Workshop) -> None:
    user = workshop.user("mina")
    with workshop.worker() as steps:
        with workshop.database.write() as session:
            refresh_id = open_refresh(session, user, "perce").id
        watcher = recovery(workshop, steps)
        watcher.resume_lost()
        assert DBOS.list_workflows(workflow_ids=[refresh_id]) == []  # its gateway may still do it
        age(workshop, refresh_id)
        watcher.start()
        assert workshop.ended(refresh_id).verdict == "publish"
        watcher.stop()


@pytest.mark.parametrize(("published", "status"), [(False, "failed"), (True, "succeeded")])
def test_a_refresh_whose_workflow_ended_without_it_is_closed(
    workshop: Workshop, published: bool, status: str
) -> None:
    user = workshop.user("mina")
    with workshop.worker() as steps:
        (refresh_id,) = workshop.open(user)
        workshop.ended(refresh_id)
        wait_until(lambda: DBOS.retrieve_workflow(refresh_id).get_status().status == "SUCCESS", 120)
        with workshop.database.write() as session:
            row = session.get_one(Refresh, refresh_id)
            row.status, row.finished_at = "running", None
            if not published:
                row.adapter_id = None
        age(workshop, refresh_id)
        recovery(workshop, steps).resume_lost()
    row = workshop.refresh(refresh_id)
    assert row.status == status
    assert ("refresh again" in (row.error or "")) == (not published)


def test_files_of_refreshes_that_are_over_are_swept(workshop: Workshop) -> None:
    user = workshop.user("mina")
    with workshop.database.write() as session:
        refresh_id = open_refresh(session, user, "perce").id
    for name in (refresh_id, "of-nobody"):
        (workshop.home / "work" / name).mkdir(parents=True)
    with workshop.worker() as steps:
        recovery(workshop, steps).sweep()
    assert [path.name for path in (workshop.home / "work").iterdir()] == [refresh_id]


def age(workshop: Workshop, refresh_id: str) -> None:
    with workshop.database.write() as session:
        row = session.get_one(Refresh, refresh_id)
        row.created_at = now() - LOST_AFTER - timedelta(seconds=1)
