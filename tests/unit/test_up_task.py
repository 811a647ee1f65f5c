"""Work beside the services: how it ends where they have to stop."""

from collections.abc import Callable
from pathlib import Path
from threading import Event

import pytest

from scripts.attune.up.errors import NotRestoredError, ServiceDiedError
from scripts.attune.up.supervisor import Supervisor
from scripts.attune.up.task import done_meanwhile

DIED = ServiceDiedError("engine", "was killed by SIGKILL", Path("engine.log"), [])
KEPT = NotRestoredError("anders", "v4", None, "no gateway")


class ScriptedSupervisor(Supervisor):
    """Without services; its watch ends as it is told, by default with the work."""

    def __init__(self, ending: BaseException | None = None) -> None:
        super().__init__((), Path(), lambda _: None)
        self.ending = ending
        self.stopped = Event()

    def watch(self, until: Callable[[], bool]) -> None:
        if self.ending is not None:
            raise self.ending
        super().watch(until)

    def stop(self) -> None:
        self.stopped.set()


def test_what_the_work_returns_or_raises_is_passed_on() -> None:
    supervisor = ScriptedSupervisor()
    assert done_meanwhile(supervisor, lambda leave: 3 if not leave.is_set() else 4) == 3
    with pytest.raises(ZeroDivisionError):
        done_meanwhile(supervisor, lambda _: 1 / 0)
    assert not supervisor.stopped.is_set()


@pytest.mark.parametrize("ending", [KeyboardInterrupt(), DIED])
def test_work_that_is_to_leave_still_has_the_services(ending: BaseException) -> None:
    supervisor = ScriptedSupervisor(ending)
    seen: list[bool] = []

    def work(leave: Event) -> None:
        assert leave.wait(20)
        seen.append(supervisor.stopped.wait(0.2))

    with pytest.raises(type(ending)):
        done_meanwhile(supervisor, work)
    assert seen == [False]
    assert supervisor.stopped.is_set()


def test_work_that_does_not_leave_loses_the_services_and_says_what_it_left() -> None:
    supervisor = ScriptedSupervisor(KeyboardInterrupt())

    def work(_: Event) -> None:
        assert supervisor.stopped.wait(20)
        raise KEPT

    with pytest.raises(NotRestoredError, match="rollback anders --to v4"):
        done_meanwhile(supervisor, work, leave_s=0.05)
