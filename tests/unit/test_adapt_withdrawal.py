"""Somebody leaves the population while it, or who goes on from it, is being refreshed."""

from types import MethodType

import pytest
from running_stack import wait_until
from shared_workshop import SharedWorkshop, before

from adapt import workflow
from server import erasure, fleets, permissions
from server.store.tables.people import User


def test_whoever_leaves_stops_what_the_population_learns(workshop: SharedWorkshop) -> None:
    mina, _ = workshop.sharing("mina", "wilf")
    shared = workshop.population()
    seen: list[int] = []

    def during(step: int) -> None:
        seen.append(step)
        if step == 1:
            workshop.leave(mina)

    workshop.trainer.during = during
    with workshop.worker():
        ended = workshop.refreshed(shared)
    assert (ended.status, ended.verdict, seen) == ("cancelled", None, [1])
    assert "left the population" in (ended.reason or "")
    assert (workshop.adapters(shared), workshop.files()) == ([], [])
    assert workshop.read(shared).failures == 0


def test_nobodys_texts_are_read_after_somebody_left(workshop: SharedWorkshop) -> None:
    users = workshop.sharing("mina", "wilf", "anders")
    shared = workshop.population()
    read: list[int] = []

    def fragile(steps: workflow.Steps) -> None:
        note = steps.claims.note

        def leaving(_claims: object, refresh_id: str, **progress: object) -> None:
            read.append(len(read))
            if len(read) == 2:
                workshop.leave(users[0])
            note(refresh_id, **progress)

        setattr(steps.claims, "note", MethodType(leaving, steps.claims))  # noqa: B010

    with workshop.worker(fragile=fragile):
        ended = workshop.refreshed(shared)
    assert (ended.status, read) == ("cancelled", [0, 1])
    assert (workshop.trainer.starts, workshop.files()) == ([], [])


def test_what_is_made_of_a_member_who_is_gone_is_not_published(workshop: SharedWorkshop) -> None:
    users = workshop.sharing("mina", "wilf", "anders")
    shared = workshop.population()

    def vanish() -> None:
        with workshop.database.write() as session:
            session.delete(session.get_one(User, users[0].id))

    with workshop.worker(fragile=before("rollout", "publish", vanish)):
        ended = workshop.refreshed(shared)
    assert (ended.status, ended.verdict) == ("cancelled", None)
    assert "refresh again" in (ended.reason or "")
    assert (workshop.adapters(shared), workshop.files()) == ([], [])


@pytest.mark.parametrize(
    ("part", "step"), [("training", "train"), ("candidate", "gate"), ("rollout", "publish")]
)
def test_nothing_goes_on_from_a_version_that_was_withdrawn(
    workshop: SharedWorkshop, part: str, step: str
) -> None:
    mina, _ = workshop.sharing("mina", "wilf")
    ada = workshop.user("ada")
    shared = workshop.population()
    with workshop.worker():
        workshop.refreshed(shared)
    with workshop.worker(fragile=before(part, step, lambda: workshop.leave(mina))):
        ended = workshop.refreshed(ada)
    assert (ended.status, ended.verdict, ended.error) == ("cancelled", None, None)
    assert "left the population" in (ended.reason or "")
    assert workshop.adapters(ada) == []
    assert not (workshop.home / "work" / ended.id).exists()
    person = workshop.read(ada)
    assert (person.failures, person.retry_at, person.new_texts) == (0, None, 16)
    with workshop.worker():
        again = workshop.refreshed(ada)
    assert (again.verdict, workshop.trainer.starts[-1]) == ("publish", None)


@pytest.mark.parametrize("step", ["_place", "warm", "activate"])
def test_a_version_that_is_withdrawn_before_it_answers_never_does(
    workshop: SharedWorkshop, step: str
) -> None:
    mina, _ = workshop.sharing("mina", "wilf")
    ada = workshop.user("ada")
    shared = workshop.population()
    with workshop.worker():
        workshop.refreshed(shared)
    with workshop.worker(fragile=before("rollout", step, lambda: workshop.leave(mina))) as steps:
        ended = workshop.refreshed(ada)
        steps.jobs.drain(shared.id)
        wait_until(lambda: workshop.files() == [], 120)
        wait_until(lambda: not workshop.engine.loaded, 120)
    assert (ended.status, ended.verdict, ended.error) == ("cancelled", None, None)
    assert "left the population" in (ended.reason or "")
    assert [one.state for one in workshop.adapters(ada)] == ["withdrawn"]
    assert workshop.read(ada).new_texts == 16


def test_what_was_to_be_published_when_somebody_left_says_so(workshop: SharedWorkshop) -> None:
    mina, _ = workshop.sharing("mina", "wilf")
    shared = workshop.population()
    with workshop.worker(fragile=before("rollout", "activate", lambda: workshop.leave(mina))):
        ended = workshop.refreshed(shared)
    assert (ended.status, ended.verdict, ended.error) == ("cancelled", None, None)
    assert "left the population" in (ended.reason or "")


def test_a_refresh_that_is_opened_after_consent_was_taken_back_learns_nothing(
    workshop: SharedWorkshop,
) -> None:
    mina = workshop.user("mina")
    with workshop.worker() as steps:
        # A round found her due before, and opens her refresh behind the change.
        with workshop.database.write() as session:
            permissions.change(session, mina, consent=False)
        with workshop.database.write() as session:
            opened = fleets.open_refreshes(session, [(mina.id, "round-1")], "run", "nightly")
        steps.jobs.refresh(opened, "round-1", "nightly")
        ended = workshop.ended(opened[0])
    assert (ended.status, ended.verdict, ended.started_at) == ("cancelled", None, None)
    assert (workshop.trainer.starts, workshop.files()) == ([], [])


@pytest.mark.parametrize(
    ("part", "step"),
    [("training", "train"), ("rollout", "publish"), ("rollout", "warm"), ("rollout", "activate")],
)
def test_the_refresh_of_who_is_erased_publishes_nothing(
    workshop: SharedWorkshop, part: str, step: str
) -> None:
    mina = workshop.user("mina")

    def erase() -> None:
        with workshop.database.write() as session:
            erasure.begin(session, mina)

    with workshop.worker(fragile=before(part, step, erase)):
        ended = workshop.refreshed(mina)
    assert (ended.status, ended.verdict, ended.error) == ("cancelled", None, None)
    assert {one.state for one in workshop.adapters(mina)} <= {"withdrawn"}
    assert not (workshop.home / "work" / ended.id).exists()
