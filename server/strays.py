"""Folders on disk that belong to nobody any more, because something died while it cleaned up.

Those are folders of refreshes that are over, and adapters of users who were erased. Folders
of users whom this store never knew stay: it may be the wrong store. They are found, and
removed on request, by `server.integrity`.
"""

import re
import shutil
from pathlib import Path

from sqlalchemy import select

from server.integrity import Finding, of_nobody
from server.refreshes import OPEN
from server.store.database import Database
from server.store.tables.people import AuditEntry
from server.store.tables.refreshes import Refresh
from server.store.users import CONTENT_ERASED, audit_subject

# A user's folder, under its name or under the one that it gets while it is deleted.
_FOLDER = re.compile(r"u([1-9][0-9]*)|\.u([1-9][0-9]*)\.[0-9a-f]{8}")


def work_dir(home: Path) -> Path:
    """Return the folder of unfinished refreshes: one folder each, named by its id."""
    return home.resolve() / "work"


def sweep_work(database: Database, work: Path) -> None:
    """Delete the files of refreshes that are over, such as a dead worker left behind."""
    folders = list(work.iterdir()) if work.is_dir() else []
    for folder in folders:
        with database.read() as session:
            refresh = session.get(Refresh, folder.name)
        if refresh is None or refresh.status not in OPEN:
            shutil.rmtree(folder, ignore_errors=True)


def of_erased(database: Database, adapters_dir: Path) -> list[Finding]:
    """Find the adapter folders of users who were erased; no engine may hold what is in them."""
    found = {
        finding: audit_subject(int(match[1] or match[2]))
        for finding in of_nobody(database, adapters_dir)
        if finding.removable and (match := _FOLDER.fullmatch(Path(finding.path).name))
    }
    if not found:
        return []
    with database.read() as session:
        erased = set(
            session.scalars(
                select(AuditEntry.subject).where(
                    AuditEntry.action == CONTENT_ERASED, AuditEntry.subject.in_(found.values())
                )
            )
        )
    return [finding for finding, subject in found.items() if subject in erased]
