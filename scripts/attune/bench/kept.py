"""What a long benchmark has computed, so that one that was interrupted goes on where it stopped.

A result is any JSON value under a key. What all results depend on (users, model, settings) is
the caller's to put into the file's name, which `name_of` makes.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any


class Kept:
    """Results by key: computed once, and kept in a file, one a line.

    Args:
        file: Read at the start, if it is there.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        file.parent.mkdir(parents=True, exist_ok=True)
        self._results = _whole_lines(file) if file.exists() else {}

    def recall(self, key: object, compute: Callable[[], Any]) -> Any:  # noqa: ANN401 - JSON
        """Return the result under a key; one that is not there is computed and kept.

        Args:
            key: Anything that JSON can write.
            compute: Makes the result.
        """
        name = json.dumps(key)
        if name not in self._results:
            self._results[name] = compute()
            with self._file.open("a") as lines:
                lines.write(json.dumps([name, self._results[name]]) + "\n")
        return self._results[name]


@contextmanager
def workplace(folder: Path | None) -> Iterator[Path]:
    """The folder of a benchmark's results; without one, one that is gone afterwards."""
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        yield folder
        return
    with TemporaryDirectory(prefix="attune-bench-") as passing:
        yield Path(passing)


def name_of(*parts: object) -> str:
    """A short file name that stands for values which JSON can write."""
    return sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _whole_lines(file: Path) -> dict[str, Any]:
    """Read results; half a line at the end, of a run that was killed as it wrote, is cut off."""
    whole, newline, half = file.read_text().rpartition("\n")
    if half:
        file.write_text(whole + newline)
    return dict(json.loads(line) for line in whole.splitlines())
