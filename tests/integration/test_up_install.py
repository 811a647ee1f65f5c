"""`scripts/install` on copies of the project whose locks are small enough to fail quickly."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project whose lock names a package that no index has, and a pip without indexes."""
    (tmp_path / "scripts").mkdir()
    (tmp_path / "requirements").mkdir()
    shutil.copy(REPOSITORY / "scripts" / "install", tmp_path / "scripts")
    shutil.copy(REPOSITORY / "pyproject.toml", tmp_path)
    for name in ("cpu", "gpu", "dev"):
        (tmp_path / "requirements" / f"{name}.txt").write_text("# lock\nno-such-wheel==1.0\n")
    tool(tmp_path, "nvidia-smi", "exit 9")
    return tmp_path


def install(project: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    base = {key: value for key, value in os.environ.items() if not key.startswith("PIP_")}
    base |= {"PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": "/dev/null", "PYTHON": sys.executable}
    base["PATH"] = f"{project / 'tools'}:{base['PATH']}"
    return subprocess.run(
        ["bash", "scripts/install"],
        cwd=project,
        capture_output=True,
        text=True,
        timeout=120,
        env=base | environment,
        check=False,
    )


def tool(project: Path, name: str, script: str) -> None:
    """Replace a program by a script, for this project's installs."""
    folder = project / "tools"
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


def last_line(result: subprocess.CompletedProcess[str]) -> str:
    assert result.returncode == 1, result
    return result.stderr.strip().splitlines()[-1]


def test_no_wheel_for_this_python(project: Path) -> None:
    said = last_line(install(project))
    assert said.startswith("attune: no wheel of no-such-wheel==1.0 for Python 3.")
    assert "use Python 3.11, 3.12 or 3.13" in said
    assert not (project / ".venv" / "attune.stamp").exists(), "a failed install looks finished"


def test_an_interrupted_install_is_made_anew(project: Path) -> None:
    leftover = project / ".venv" / "lib" / "half-a-package"
    leftover.parent.mkdir(parents=True)
    leftover.touch()
    install(project)
    assert not leftover.exists()


def test_a_python_that_is_too_old(project: Path) -> None:
    said = last_line(install(project, PYTHON=f"{project}/python-of-old"))
    assert said.endswith("is not a Python of 3.11 or newer: name one that is.")


def test_no_python_at_all(project: Path) -> None:
    for name in ("python3", "python3.11", "python3.12", "python3.13"):
        tool(project, name, "echo 9")
    said = last_line(install(project, PYTHON=""))
    assert said.startswith("attune: Python 3.11 or newer is needed and none was found")


def test_a_disk_that_is_too_full(project: Path) -> None:
    answer = "printf 'Filesystem 1024-blocks Used Available\\n/dev/x 9 9 2500000\\n'"
    tool(project, "df", answer)
    said = last_line(install(project))
    assert said.startswith("attune: the first install needs 6 GB of free disk")
    assert "has 2.3: make room" in said
    assert not (project / ".venv").exists()


def test_a_python_that_cannot_make_environments(project: Path) -> None:
    tool(project, "python-bare", 'case "$*" in *sys.version_info*) echo 11;; *) exit 1;; esac')
    said = last_line(install(project, PYTHON="python-bare"))
    assert "has no venv module or no pip" in said
