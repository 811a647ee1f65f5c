"""A running Attune, as tests of the real thing see it."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import httpx


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

    def wait_ready(self, seconds: float = 180) -> None:
        """Wait until chats are answered again."""
        wait_until(lambda: httpx.get(f"{self.gateway_url}/readyz").is_success, seconds)


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
