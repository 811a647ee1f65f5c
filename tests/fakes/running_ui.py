"""The real UI as a process of its own, before any gateway."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from free_ports import free_ports
from scripted_records import KEY

STARTS_WITHIN_S = 60


@contextmanager
def running_ui(gateway_url: str, log: Path, host: str = "127.0.0.1") -> Iterator[str]:
    """Serve the UI, bound to an address; yields where it is reached from this machine."""
    port = free_ports(1)[0]
    settings = {
        "ATTUNE_GATEWAY_URL": gateway_url,
        "ATTUNE_KEY": KEY,
        "ATTUNE_UI_HOST": host,
        "ATTUNE_UI_PORT": str(port),
        "ATTUNE_UI_POLL_S": "0.05",
    }
    url = f"http://127.0.0.1:{port}/"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "ui"], env=os.environ | settings, stdout=out, stderr=out
        )
        try:
            _wait_for(url, process, log)
            yield url
        finally:
            process.terminate()
            process.wait(timeout=20)


def _wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until the UI answers; say what it logged where it does not."""
    end = time.monotonic() + STARTS_WITHIN_S
    while time.monotonic() < end and process.poll() is None:
        try:
            if httpx.get(url).is_success:
                return
        except httpx.TransportError:
            time.sleep(0.2)
    pytest.fail(f"the UI did not start: {log.read_text()}")
