"""The supervisor with real processes: small Python programs in place of the services."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from scripts.attune.up.errors import ServiceDiedError
from scripts.attune.up.process import ROOT, Child, Service
from scripts.attune.up.supervisor import Event, RestartPolicy, Supervisor

FAST = RestartPolicy(first_wait_s=0.05, longest_wait_s=0.1, steady_s=60.0, most_deaths=3)

READY_THEN_SLEEP = """
    import pathlib, sys, time
    pathlib.Path(sys.argv[1]).touch()
    time.sleep(60)
"""
WITH_GRANDCHILD = """
    import pathlib, subprocess, sys, time
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    pathlib.Path(sys.argv[1]).write_text(str(child.pid))
    time.sleep(60)
"""


def wait_for(holds: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def program(source: str, *arguments: Path) -> tuple[str, ...]:
    return (sys.executable, "-c", textwrap.dedent(source), *map(str, arguments))


def service(name: str, source: str, flag: Path, **more: object) -> Service:
    options = {"start_timeout_s": 20.0, **more}
    return Service(name, program(source, flag), {}, flag.exists, clear=(flag,), **options)  # type: ignore[arg-type]  # the tests' own keywords


class Fleet:
    """A supervisor on a temporary folder, and what it said."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.events: list[Event] = []
        self.supervisor: Supervisor | None = None

    def of(self, *services: Service, grace_s: float = 5.0) -> Supervisor:
        self.supervisor = Supervisor(services, self.folder, self.events.append, FAST, grace_s)
        return self.supervisor

    def kinds(self, name: str) -> list[str]:
        return [event.kind for event in self.events if event.service == name]


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    fleet = Fleet(tmp_path)
    yield fleet
    if fleet.supervisor is not None:
        fleet.supervisor.stop()


def test_starts_all_together_and_says_how_long_each_took(fleet: Fleet, tmp_path: Path) -> None:
    slow = "import time; time.sleep(0.5)\n" + textwrap.dedent(READY_THEN_SLEEP)
    seconds = fleet.of(
        service("quick", READY_THEN_SLEEP, tmp_path / "a"), service("slow", slow, tmp_path / "b")
    ).start()
    assert set(seconds) == {"quick", "slow"}
    assert seconds["slow"] > 0.5
    assert fleet.kinds("slow") == ["starting", "ready"]


def test_a_service_that_dies_while_starting_ends_the_start_with_its_last_lines(
    fleet: Fleet, tmp_path: Path
) -> None:
    source = "print('reading weights'); print('no weights there'); raise SystemExit(3)"
    supervisor = fleet.of(service("engine", source, tmp_path / "never"))
    with pytest.raises(ServiceDiedError) as failure:
        supervisor.start()
    said = str(failure.value)
    assert said.startswith("The engine ended with status 3 while starting; its last lines")
    assert said.endswith("\n  reading weights\n  no weights there")
    assert str(tmp_path / "engine.log") in said


def test_a_service_that_never_gets_ready_ends_the_start(fleet: Fleet, tmp_path: Path) -> None:
    supervisor = fleet.of(
        service("ui", "import time; time.sleep(60)", tmp_path / "never", start_timeout_s=0.3)
    )
    with pytest.raises(ServiceDiedError, match="was not ready after"):
        supervisor.start()


def test_a_killed_service_is_started_again(fleet: Fleet, tmp_path: Path) -> None:
    flag = tmp_path / "pid"
    supervisor = fleet.of(service("worker", WITH_GRANDCHILD, flag))
    supervisor.start()
    wait_for(lambda: flag.read_text() != "")
    grandchild = int(flag.read_text())
    parent = psutil.Process(grandchild).parent()
    assert parent is not None
    parent.kill()
    supervisor.watch(until=lambda: fleet.kinds("worker").count("ready") == 2)
    died = next(event for event in fleet.events if event.kind == "died")
    assert died.detail == "was killed by SIGKILL"
    assert not alive(grandchild), "the killed service left a process behind"
    assert (tmp_path / "worker.log.1").exists()


def test_a_service_that_keeps_dying_is_given_up(fleet: Fleet, tmp_path: Path) -> None:
    source = "import pathlib, sys, time; pathlib.Path(sys.argv[1]).touch(); time.sleep(0.8)"
    supervisor = fleet.of(service("gateway", source, tmp_path / "ready"))
    supervisor.start()
    with pytest.raises(ServiceDiedError, match="ended with status 0, 3 times in a row"):
        supervisor.watch(until=lambda: False)
    assert fleet.kinds("gateway").count("starting") == 3


def test_stop_ends_grandchildren_too(fleet: Fleet, tmp_path: Path) -> None:
    flag = tmp_path / "pid"
    supervisor = fleet.of(service("engine", WITH_GRANDCHILD, flag))
    supervisor.start()
    wait_for(lambda: flag.read_text() != "")
    grandchild = int(flag.read_text())
    supervisor.stop()
    assert not alive(grandchild)


def test_a_service_that_ignores_sigterm_is_killed_after_the_grace(
    fleet: Fleet, tmp_path: Path
) -> None:
    stubborn = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    flag = tmp_path / "ready"
    supervisor = fleet.of(
        service("worker", stubborn + textwrap.dedent(READY_THEN_SLEEP), flag), grace_s=0.3
    )
    # Other tests of the session keep processes too, such as a database and a browser.
    others = {child.pid for child in psutil.Process().children(recursive=True)}
    supervisor.start()
    pids = {child.pid for child in psutil.Process().children(recursive=True)} - others
    assert pids
    began = time.monotonic()
    supervisor.stop()
    assert time.monotonic() - began < 5.0
    assert not any(alive(pid) for pid in pids)


def test_nothing_is_left_when_the_supervisor_itself_is_killed(tmp_path: Path) -> None:
    flag = tmp_path / "pid"
    source = f"""
        import sys, time
        from pathlib import Path
        from scripts.attune.up.process import Child, Service
        service = Service("engine", {program(WITH_GRANDCHILD, flag)!r}, {{}}, lambda: True)
        Child(service, Path({str(tmp_path)!r}))
        time.sleep(60)
    """
    supervisor = subprocess.Popen(program(source), cwd=ROOT)
    wait_for(lambda: flag.exists() and flag.read_text() != "")
    descendants = psutil.Process(supervisor.pid).children(recursive=True)
    assert len(descendants) == 3  # guard, service, its child
    os.kill(supervisor.pid, signal.SIGKILL)
    supervisor.wait()
    wait_for(lambda: not any(alive(process.pid) for process in descendants))


def test_secrets_travel_in_the_environment(tmp_path: Path) -> None:
    source = "import os, sys; print(os.environ['KEY_OF_ENGINE']); print(len(sys.argv))"
    child = Child(
        Service("engine", program(source), {"KEY_OF_ENGINE": "s3cret"}, lambda: True), tmp_path
    )
    wait_for(lambda: child.ended() is not None)
    assert child.ended() == "ended with status 0"
    assert child.last_lines() == ["s3cret", "1"]


def test_the_log_of_the_run_before_is_kept(tmp_path: Path) -> None:
    for line in ("first", "second"):
        child = Child(Service("ui", program(f"print({line!r})"), {}, lambda: True), tmp_path)
        wait_for(lambda child=child: child.ended() is not None)  # type: ignore[misc]  # bound now
    assert (tmp_path / "ui.log").read_text() == "second\n"
    assert (tmp_path / "ui.log.1").read_text() == "first\n"


def test_the_waits_double_up_to_their_limit() -> None:
    policy = RestartPolicy(first_wait_s=1.0, longest_wait_s=5.0)
    assert [policy.wait_s(deaths) for deaths in (1, 2, 3, 4)] == [1.0, 2.0, 4.0, 5.0]
