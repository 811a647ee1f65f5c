"""Runs one command and leaves nothing of it behind, however the one who started it ends.

A program of its own between supervisor and service, on the standard library alone. The
kernel tells it when its parent dies (also by SIGKILL), and hands it whatever orphans the
service leaves, such as an engine's processes when their parent was killed.

Usage: `python guard.py PARENT_PID GRACE_S COMMAND...`; the exit status is the command's.
"""

import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_libc = ctypes.CDLL(None, use_errno=True)


class _Stop(BaseException):
    """The guard was asked to stop its command."""


def main(parent: int, grace_s: float, command: list[str]) -> int:
    """Run the command to its end or until SIGTERM; returns its exit status."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, _stop)
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1)
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        return 0  # it died before the kernel was asked to tell
    child: subprocess.Popen[bytes] | None = None
    try:
        child = subprocess.Popen(command, start_new_session=True, preexec_fn=_die_with_guard)
        status = child.wait()
    except _Stop:
        status = _stopped(child, grace_s) if child else 0
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    _sweep()
    return status if status >= 0 else 128 - status


def _stop(_number: int, _frame: FrameType | None) -> None:
    raise _Stop


def _die_with_guard() -> None:
    # The guard has one thread, so code between fork and exec is safe here.
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _stopped(child: subprocess.Popen[bytes], grace_s: float) -> int:
    """Ask the command to end, wait, then end it."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    child.terminate()
    try:
        return child.wait(grace_s)
    except subprocess.TimeoutExpired:
        child.kill()
        return child.wait()


def _sweep() -> None:
    """End every process that the command left, which are the guard's children by now."""
    children = Path(f"/proc/self/task/{os.getpid()}/children")
    while left := [int(pid) for pid in children.read_text().split()]:
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)
        _reap()


def _reap() -> None:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), float(sys.argv[2]), sys.argv[3:]))
