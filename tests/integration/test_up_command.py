"""`attune up` as a command: what stops it before anything starts, a sentence and exit 1 each."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from free_ports import free_ports

from scripts.attune.up.home import Home

ATTUNE = Path(sys.executable).parent / "attune"


def up(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("ATTUNE_")}
    return subprocess.run(
        [ATTUNE, "up", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        env=environment,
        check=False,
    )


def refused(result: subprocess.CompletedProcess[str]) -> str:
    """The one line on standard error of a command that failed as it should."""
    assert result.returncode == 1, result
    (line,) = result.stderr.strip().splitlines()
    return line


def test_a_port_in_use(tmp_path: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        said = refused(up("--home", tmp_path, "--port", str(port)))
    assert said.startswith(f"Port {port}, where the gateway belongs, is in use by ")


def test_a_second_up_on_the_same_home(tmp_path: Path) -> None:
    with Home(tmp_path).locked("process 7, http://127.0.0.1:8000"):
        said = refused(up("--home", tmp_path))
    assert said.startswith(f"Attune already runs on {tmp_path} (process 7, http://127.0.0.1:8000)")


@pytest.mark.parametrize(
    ("arguments", "start"),
    [
        (("--model", "/no/such/model"), "/no/such/model can't be served: there is no such folder"),
        (("--report", "r.json"), "--report is what --once writes"),
        (("--once", "--report", "/no/such/folder/r.json"), "--report /no/such/folder/r.json can't"),
        (("--port", "7860"), "Gateway, UI and engine need three different ports"),
    ],
)
def test_options_that_cannot_work(tmp_path: Path, arguments: tuple[str, ...], start: str) -> None:
    assert refused(up("--home", tmp_path, *arguments)).startswith(start)


def test_an_engine_that_cannot_start(tmp_path: Path) -> None:
    """A model folder that looks whole, and that the engine refuses: its last lines are shown."""
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text('{"model_type": "qwen3", "architectures": ["NoSuchModel"]}')
    (model / "model.safetensors").touch()
    (model / "tokenizer.json").write_text("{}")
    ports = [str(port) for port in free_ports(3)]
    options = ["--port", ports[0], "--ui-port", ports[1], "--engine-port", ports[2]]
    result = up("--home", tmp_path / "home", "--model", model, *options)
    assert result.returncode == 1
    first, *log = result.stderr.strip().splitlines()
    assert first.startswith("The ") and "ended with status 1 while starting" in first
    assert str(tmp_path / "home" / "logs") in first
    assert 1 <= len(log) <= 12 and all(line.startswith("  ") for line in log)
    assert not _mention(str(tmp_path)), "a process was left behind"


def _mention(text: str) -> list[str]:
    """Command lines of running processes that name this test's folder."""
    found = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True)
    return [line for line in found.stdout.splitlines() if text in line]
