"""A running Attune, as tests of the real thing see it."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import httpx
import psutil
from pydantic import SecretStr

from server.settings import Settings

ServiceName = Literal["engine", "gateway", "worker"]
_MODULES: dict[ServiceName, str] = {
    "engine": "vllm.entrypoints.openai.api_server",
    "gateway": "server",
    "worker": "adapt",
}


@dataclass(frozen=True)
class Stack:
    """A running Attune: the real engine, gateway, worker and UI, started by `attune up`."""

    gateway_url: str
    ui_url: str
    engine_url: str
    admin_key: str
    engine_key: str
    home: Path

    def client(self, key: str | None = None) -> httpx.Client:
        headers = {"Authorization": f"Bearer {key or self.admin_key}"}
        return httpx.Client(base_url=self.gateway_url, headers=headers, timeout=300)

    def settings(self) -> Settings:
        """What its worker was started with, as far as the store and the engine go."""
        return Settings(
            home=self.home, engine_urls=(self.engine_url,), engine_key=SecretStr(self.engine_key)
        )

    def wait_ready(self, seconds: float = 180) -> None:
        """Wait until chats are answered again."""
        wait_until(lambda: httpx.get(f"{self.gateway_url}/readyz").is_success, seconds)

    def process(self, service: ServiceName) -> psutil.Process | None:
        """The process of a service itself, not its guard; None while there is none."""
        port = self.engine_url.rsplit(":", 1)[1]
        for process in psutil.process_iter(["cmdline"]):
            command = process.info["cmdline"] or []
            if command[1:3] != ["-m", _MODULES[service]]:
                continue
            ours = port in command if service == "engine" else _home_of(process) == str(self.home)
            if ours:
                return process
        return None

    def is_up(self, service: ServiceName) -> bool:
        """Whether a service takes work."""
        if service == "worker":
            return self.process(service) is not None and self._worker_ready.exists()
        try:
            return httpx.get(f"{self.gateway_url}/readyz").is_success
        except httpx.TransportError:
            return False

    def kill(self, service: ServiceName) -> None:
        """End a service as the kernel does when memory is short: SIGKILL."""
        process = self.process(service)
        assert process is not None, f"no {service} runs"
        if service == "worker":
            self._worker_ready.unlink(missing_ok=True)
        process.kill()
        process.wait(10)

    @property
    def _worker_ready(self) -> Path:
        return self.home / "run" / "worker.ready"


def _home_of(process: psutil.Process) -> str | None:
    try:
        environment: dict[str, str] = process.environ()
    except psutil.NoSuchProcess:
        return None
    return environment.get("ATTUNE_HOME")


def wait_until(holds: Callable[[], bool], seconds: float) -> None:
    """Wait until a condition holds; a service that does not answer yet does not hold it."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if holds():
                return
        except httpx.TransportError:
            pass
        time.sleep(0.25)
    raise TimeoutError(f"not within {seconds} s")
