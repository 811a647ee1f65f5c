"""A store that is away for a moment: refreshes go on, and what answers has succeeded."""

from collections.abc import Callable
from pathlib import Path
from types import MethodType

import pytest
from refresh_workshop import Workshop
from sqlalchemy.exc import OperationalError

from adapt import workflow
from adapt.claims import Claims
from adapt.errors import StoreUnavailableError
from adapt.patience import patiently, persist
from adapt.progress import Progress
from perce.train import Step
from server.store.database import Database
from server.store.tables.people import User

AWAY = OperationalError("UPDATE refreshes", {}, Exception("server closed the connection"))


def failing(
    part: str, name: str, error: Exception, times: int = 1
) -> Callable[[workflow.Steps], None]:
    """Let a step fail for the first few times."""

    def fragile(steps: workflow.Steps) -> None:
        owner = getattr(steps, part)
        original = getattr(owner, name)
        left = [error] * times

        def step(_owner: object, *args: object, **values: object) -> object:
            if left:
                raise left.pop()
            return original(*args, **values)

        setattr(owner, name, MethodType(step, owner))

    return fragile


@pytest.mark.parametrize(
    ("part", "name"),
    [
        ("claims", "claim"),
        ("claims", "note"),
        ("candidate", "dataset"),
        ("rollout", "publish"),
        ("rollout", "activate"),
        ("rollout", "succeed"),
    ],
)
def test_a_store_that_is_away_for_a_moment_fails_no_refresh(
    workshop: Workshop, part: str, name: str
) -> None:
    user = workshop.user("mina")
    with workshop.worker(fragile=failing(part, name, AWAY)):
        ended = workshop.ended(workshop.open(user)[0])
    assert (ended.status, ended.verdict, ended.error) == ("succeeded", "publish", None)
    assert [adapter.state for adapter in workshop.adapters(user)] == ["active"]
    assert ended.attempts == 1


def test_what_fails_behind_the_activation_is_no_failure(workshop: Workshop) -> None:
    user = workshop.user("mina")
    with workshop.worker(fragile=failing("rollout", "succeed", RuntimeError("broken"))):
        ended = workshop.ended(workshop.open(user)[0])
    assert (ended.status, ended.verdict, ended.error) == ("succeeded", "publish", None)
    with workshop.database.read() as session:
        person = session.get_one(User, user.id)
    assert (person.failures, person.retry_at) == (0, None)


@pytest.mark.parametrize(
    ("decision", "step"), [("publish", "warm"), ("publish", "activate"), ("reject", "succeed")]
)
def test_a_failure_has_no_verdict(workshop: Workshop, decision: str, step: str) -> None:
    user = workshop.user("mina")
    workshop.decision = decision
    with workshop.worker(fragile=failing("rollout", step, RuntimeError("broken"))):
        ended = workshop.ended(workshop.open(user)[0])
    assert (ended.status, ended.error) == ("failed", "broken")
    assert (ended.verdict, ended.reason) == (None, None)
    (adapter,) = workshop.adapters(user)
    assert adapter.state != "active"
    assert adapter.reason == ("" if decision == "publish" else "Worse: rejected.")


def test_a_step_is_tried_for_minutes() -> None:
    options = patiently("step", lambda error: True)
    attempts = range(options["max_attempts"] - 1)
    waits = [options["interval_seconds"] * options["backoff_rate"] ** n for n in attempts]
    assert options["retries_allowed"] and 300 < sum(waits) < 900


def test_what_is_no_step_is_done_again_and_other_errors_are_not() -> None:
    outcomes: list[Exception | int] = [AWAY, 7]

    def action() -> int:
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    assert persist("work", action) == 7
    outcomes.append(StoreUnavailableError())
    with pytest.raises(StoreUnavailableError):
        persist("work", action)


class AwayClaims(Claims):
    """Claims on a store that takes every second note."""

    def __init__(self, database: Database) -> None:
        super().__init__(database, "worker")
        self.noted: list[int] = []
        self.calls = 0

    def note(self, refresh_id: str, **progress: object) -> None:
        self.calls += 1
        if self.calls % 2:
            raise AWAY
        assert isinstance(progress["step"], int)
        self.noted.append(progress["step"])


def test_progress_that_cannot_be_noted_ends_no_training(tmp_path: Path) -> None:
    claims = AwayClaims(Database(f"sqlite:///{tmp_path / 'attune.db'}"))
    progress = Progress(claims, "r1", lambda seconds: None)
    progress(Step(1, 2, 1.0, 1.0, 0.1, 100, 0.5))
    progress(Step(2, 2, 1.0, 1.0, 0.1, 100, 0.5))
    assert (claims.calls, claims.noted) == (2, [2])
