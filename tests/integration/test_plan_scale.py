"""A night's plan for 100,000 users: at most 5 s and 500 MB; asking who is due, at most 1 s."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
USERS = 100_000


def _measure(url: str) -> dict[str, Any]:
    """Plan in a process of its own, whose memory is nobody else's."""
    done = subprocess.run(
        [sys.executable, str(REPOSITORY / "tests" / "fakes" / "plan_crowd.py"), url, str(USERS)],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=True,
    )
    measured: dict[str, Any] = json.loads(done.stdout)
    return measured


def test_on_sqlite(tmp_path: Path) -> None:
    measured = _measure(f"sqlite:///{tmp_path / 'attune.db'}")
    # The database works in this very process, so its time is counted.
    assert measured["due_cpu_s"] <= 1.0, measured
    assert measured["plan_cpu_s"] <= 5.0, measured
    assert measured["peak_mb"] <= 500, measured
    assert 10_000 < measured["due"] < USERS
    assert sum(measured["planned"].values()) > 50_000
    assert measured["planned"]["carried over"] > measured["planned"]["planned"] > 100


@pytest.mark.slow
def test_on_postgresql(postgres_url: str) -> None:
    """By the clock, as the server's time counts too: the machine must be quiet."""
    measured = _measure(postgres_url)
    assert measured["due_s"] <= 1.0, measured
    assert measured["plan_s"] <= 5.0, measured
    assert measured["peak_mb"] <= 500, measured
