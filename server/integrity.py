"""Does what is on disk agree with the registry? Findings, what to do, and removing strays.

Checked are all files against the checksums of their publication, the base model that a
version was trained on, versions without files, and files without a version. Only strays
are ever removed: folders that no row knows, and what interrupted writes left.
"""

import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sqlalchemy import select

from server import adapter_store, registry, retention
from server.adapter_store import DamagedAdapterError
from server.damage import short
from server.store.database import Database
from server.store.tables.adapters import Adapter
from server.store.tables.people import User

Problem = Literal["damaged", "no files", "base model", "unfinished", "stray", "leftover"]
_USER_FOLDER = re.compile(r"u[1-9][0-9]*")
_VERSION_FOLDER = re.compile(r"v[1-9][0-9]*")
# Longer than any copy of an adapter takes: what is younger may still be written.
LEFTOVER_AGE_S = 3600.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong.

    Attributes:
        problem: What kind of thing.
        user: The user's name; empty for what belongs to no user.
        version: The version's label; empty where there is none.
        path: The folder.
        detail: What is wrong, in a sentence.
        advice: What to do about it.
        removable: Whether a repair removes the folder.
    """

    problem: Problem
    user: str
    version: str
    path: str
    detail: str
    advice: str
    removable: bool = False

    @property
    def engine_names(self) -> list[str]:
        """The names under which an engine may hold what is in the folder."""
        path = Path(self.path)
        if _VERSION_FOLDER.fullmatch(path.name):
            return [f"{path.parent.name}@{path.name}"]
        return [f"{path.name}@{version.name}" for version in path.glob("v*")]


class Integrity:
    """The check of one installation.

    Args:
        database: The store; no transaction stays open while files are hashed.
        adapters_dir: Folder of all published adapters.
        base_model: Hash of the model that is served now (`model_fingerprint`).
    """

    def __init__(self, database: Database, adapters_dir: Path, base_model: str) -> None:
        self._database = database
        self._adapters_dir = adapters_dir
        self._base_model = base_model

    def of_user(self, user: User) -> list[Finding]:
        """Check all versions of a user, and the user's folder."""
        folder = self._adapters_dir / f"u{user.id}"
        # The disk first: a row is there before its folder, so that no new folder looks astray.
        placed = sorted(folder.iterdir()) if folder.is_dir() else []
        with self._database.read() as session:
            versions = registry.versions(session, user)[::-1]
            lost = {adapter.id for adapter in retention.abandoned(session, user)}
        found = [f for a in versions for f in self._of_version(user, a, a.id in lost)]
        gone = [a for a in versions if a.state == "rejected" or (_is_leaving(a) and a.erased_at)]
        known = {Path(a.folder).name for a in versions} - {Path(a.folder).name for a in gone}
        return [*found, *_strays(placed, known, _VERSION_FOLDER, user.name)]

    def of_nobody(self) -> list[Finding]:
        """Look for folders of users that are not there."""
        return of_nobody(self._database, self._adapters_dir)

    def _of_version(self, user: User, adapter: Adapter, lost: bool) -> Iterator[Finding]:
        def finding(problem: Problem, detail: str, advice: str) -> Finding:
            return Finding(problem, user.name, adapter.label, adapter.folder, detail, advice)

        if _is_leaving(adapter) and adapter.erased_at is None:
            yield finding(
                "unfinished",
                f"It is {adapter.state}, and its files may still be there.",
                "Make sure that the worker and all engines run: it is finished by itself.",
            )
        if adapter.state == "candidate" and lost:
            yield finding(
                "unfinished",
                "Its refresh ended before it became active.",
                "Make sure that the worker runs: it is erased by itself.",
            )
        if adapter.state not in ("active", "retired"):
            return
        try:
            adapter_store.verify(adapter)
        except DamagedAdapterError as error:
            missing = not Path(adapter.folder).is_dir()
            yield finding("no files" if missing else "damaged", str(error), _advice(user, adapter))
        if adapter.base_model != self._base_model:
            yield finding(
                "base model",
                f"It was trained on {short(adapter.base_model)}, and the model served is "
                f"{short(self._base_model)}.",
                f"It is not served. Serve that model again, or refresh {user.name}.",
            )


def of_nobody(database: Database, adapters_dir: Path) -> list[Finding]:
    """Look for folders of users that are not there."""
    if not adapters_dir.is_dir():
        return []
    placed = sorted(adapters_dir.iterdir())
    with database.read() as session:
        known = {f"u{user_id}" for user_id in session.scalars(select(User.id))}
    return list(_strays(placed, known, _USER_FOLDER, ""))


def _is_leaving(adapter: Adapter) -> bool:
    return adapter.state in registry.LEAVING


def remove(finding: Finding) -> bool:
    """Remove the folder of a removable finding; return whether it was there.

    No engine may hold it: see `server.swap.unload`.
    """
    path = Path(finding.path)
    if not finding.removable or not path.exists():
        return False
    adapter_store.delete(path)
    return True


def _strays(
    placed: Sequence[Path], known: set[str], pattern: re.Pattern[str], user: str
) -> Iterator[Finding]:
    """Tell folders that no row knows from what interrupted writes left."""
    for path in placed:
        if path.name in known:
            continue
        if path.name.startswith("."):
            if _age_s(path) > LEFTOVER_AGE_S:
                detail = "It was left by a write or a deletion that was interrupted."
                yield _stray("leftover", path, user, detail)
        elif pattern.fullmatch(path.name) and path.is_dir():
            label = path.name if pattern is _VERSION_FOLDER else ""
            yield _stray("stray", path, user, "No version in the registry has this folder.", label)
        else:
            advice = "Move it elsewhere: this folder is for adapters alone."
            yield Finding("stray", user, "", str(path), "It is nothing of Attune's.", advice)


def _stray(problem: Problem, path: Path, user: str, detail: str, label: str = "") -> Finding:
    advice = "Remove it with `attune adapters verify --repair`."
    return Finding(problem, user, label, str(path), detail, advice, removable=True)


def _age_s(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:  # The write that it belonged to has ended.
        return 0.0


def _advice(user: User, adapter: Adapter) -> str:
    if adapter.state == "active":
        return (
            f"Until then an older version answers {user.name}. Restore the files, roll back with "
            f"`attune adapters rollback {user.name}`, or refresh."
        )
    return "Restore the files if you want to be able to roll back to it."
