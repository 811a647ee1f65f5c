"""The folder of one installation: its keys, its logs, and the lock of the one who runs it."""

import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from scripts.attune.up.errors import AlreadyRunningError


class Home:
    """The folder of an installation's state, made where it is missing.

    Args:
        folder: Where it is; only its owner may read it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self.logs = self.folder / "logs"
        self.run = self.folder / "run"
        for path in (self.folder, self.logs, self.run):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)

    @property
    def worker_ready(self) -> Path:
        """The file that the worker makes when it takes work."""
        return self.run / "worker.ready"

    @property
    def demo_loaded(self) -> Path:
        """The file that says that the demo personas were loaded: erased, they stay away."""
        return self.folder / "demo.loaded"

    def key(self, name: str) -> str:
        """The key in the file `NAME.key`; made at its first use, readable by its owner alone."""
        file = self.folder / f"{name}.key"
        if not file.exists():
            draft = file.with_suffix(".draft")
            draft.unlink(missing_ok=True)
            with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
                out.write(f"attune-{secrets.token_hex(20)}\n")
            draft.rename(file)  # whole or not at all
        return file.read_text().strip()

    @contextmanager
    def locked(self, note: str) -> Iterator[None]:
        """Hold the folder; the kernel lets go of it however this process ends.

        Args:
            note: Who holds it, for the message that a second one gets.

        Raises:
            AlreadyRunningError: Another process holds it.
        """
        with (self.run / "up.lock").open("a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                raise AlreadyRunningError(self.folder, file.read().strip()) from None
            file.truncate(0)
            file.write(note)
            file.flush()
            yield
