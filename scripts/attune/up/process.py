"""One service as a process: started under a guard, logged, probed, stopped whole."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil

ROOT = Path(__file__).resolve().parents[3]
GUARD = Path(__file__).with_name("guard.py")
GRACE_S = 10.0
"""How long a service may take to end before it is killed."""


@dataclass(frozen=True, slots=True)
class Service:
    """What to run, and how to see that it is ready.

    Attributes:
        name: As people read it, and the name of its log.
        command: Program and arguments. Secrets go into `environment`: arguments can be seen.
        environment: Variables added to this process's own.
        ready: Whether it answers by now; must not take long.
        start_timeout_s: How long it may take until it does.
        clear: Files of an earlier run that would look like this one's sign of readiness.
    """

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    ready: Callable[[], bool]
    start_timeout_s: float = 180.0
    clear: tuple[Path, ...] = field(default=())


def answers(url: str, path: str) -> Callable[[], bool]:
    """A probe: whether a GET at this address is answered with success."""

    def probe() -> bool:
        try:
            # Past any proxy of the environment: it could not reach this machine's loopback.
            return httpx.get(f"{url}{path}", timeout=2.0, trust_env=False).is_success
        except httpx.TransportError:
            return False

    return probe


class Child:
    """A running service. It and all its descendants end with this process."""

    def __init__(self, service: Service, logs: Path, grace_s: float = GRACE_S) -> None:
        self.service = service
        self.log = logs / f"{service.name}.log"
        self.started = time.monotonic()
        self._grace_s = grace_s
        for file in service.clear:
            file.unlink(missing_ok=True)
        if self.log.exists():
            self.log.rename(self.log.with_suffix(".log.1"))
        guarded = (sys.executable, "-I", "-S", str(GUARD), str(os.getpid()), str(grace_s))
        with self.log.open("wb") as output:
            self._guard = subprocess.Popen(
                (*guarded, *service.command),
                env={**os.environ, **service.environment},
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C reaches the supervisor alone, which stops in order
            )

    @property
    def age_s(self) -> float:
        """Seconds since its start."""
        return time.monotonic() - self.started

    def ended(self) -> str | None:
        """How it ended, such as `ended with status 1`; None while it runs."""
        status = self._guard.poll()
        if status is None:
            return None
        number = -status if status < 0 else status - 128
        if number in set(signal.Signals):
            return f"was killed by {signal.Signals(number).name}"
        return f"ended with status {status}"

    def last_lines(self, most: int = 12) -> list[str]:
        """The end of its log."""
        with self.log.open("rb") as log:
            log.seek(max(0, self.log.stat().st_size - 16_384))
            lines = log.read().decode(errors="replace").splitlines()
        return [line.rstrip() for line in lines if line.strip()][-most:]

    def terminate(self) -> None:
        """Ask it to end; its guard sees to it that it does."""
        if self._guard.poll() is None:
            self._guard.terminate()

    def wait(self) -> None:
        """Wait for its end, which comes within the grace; if need be by force."""
        try:
            self._guard.wait(self._grace_s + 5.0)
        except subprocess.TimeoutExpired:
            self._kill()

    def _kill(self) -> None:
        guard = psutil.Process(self._guard.pid)
        for process in [*guard.children(recursive=True), guard]:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        self._guard.wait()
