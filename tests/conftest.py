"""Fixtures that tests of several folders share: a scripted engine, and one real stack."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from free_ports import free_ports
from running_stack import Stack, wait_until
from scripted_engine import ScriptedEngine, WordEncoder

from perce.retrieval import Encoder
from perce.tokens import ChatTokenizer
from server.settings import REFERENCE_MODEL

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def reference_tokenizer() -> ChatTokenizer:
    return ChatTokenizer.load(str(REFERENCE_MODEL))


@pytest.fixture
def scripted_engine(reference_tokenizer: ChatTokenizer) -> ScriptedEngine:
    return ScriptedEngine(reference_tokenizer)


@pytest.fixture(scope="session")
def word_encoder() -> Encoder:
    return WordEncoder()


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """One real stack for all tests of a session: starting it takes most of a minute."""
    home = tmp_path_factory.mktemp("attune")
    gateway, ui, engine = free_ports(1)[0], free_ports(1)[0], free_ports(1)[0]
    command = [str(Path(sys.executable).parent / "attune"), "up", "--home", str(home)]
    ports = ["--port", gateway, "--ui-port", ui, "--engine-port", engine]
    with (home / "up.log").open("w") as log:
        process = subprocess.Popen(
            [*command, *map(str, ports)], stdout=log, stderr=subprocess.STDOUT, cwd=REPOSITORY
        )
    url = f"http://127.0.0.1:{gateway}"
    try:
        started = Stack(
            gateway_url=url,
            ui_url=f"http://127.0.0.1:{ui}",
            engine_url=f"http://127.0.0.1:{engine}",
            admin_key=_when_written(home / "admin.key", process),
            engine_key=_when_written(home / "engine.key", process),
            home=home,
        )
        _wait_for_personas(started, process)
        yield started
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            raise


def _when_written(file: Path, process: subprocess.Popen[bytes]) -> str:
    wait_until(lambda: file.exists() or process.poll() is not None, 60)
    return file.read_text().strip()


def _wait_for_personas(stack: Stack, process: subprocess.Popen[bytes]) -> None:
    """Wait for everything that `attune up` prints its addresses after."""

    def ready() -> bool:
        if process.poll() is not None:
            raise RuntimeError((stack.home / "up.log").read_text())
        with stack.client() as client:
            users = client.get("/v1/users").json()["data"]
        texts = [user["texts"] for user in users]
        return len(texts) == 4 and min(texts) >= 40 and httpx.get(stack.ui_url).is_success

    wait_until(ready, 300)
    stack.wait_ready()
    wait_until((stack.home / "run" / "worker.ready").exists, 120)
