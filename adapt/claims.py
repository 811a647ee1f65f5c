"""What a worker may do with a refresh's record: only as long as the refresh is its own.

A workflow that another worker took over is somebody else's even while this process still
runs it. Every step begins and every progress is written through here, so that nothing of
such a run reaches the record.
"""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import update
from sqlalchemy.orm import Session

from adapt.errors import (
    RefreshCancelledError,
    RefreshOverError,
    TakenOverError,
    UserErasedError,
)
from server.refreshes import OPEN
from server.store.database import Database
from server.store.tables.people import User
from server.store.tables.refreshes import Refresh


class Claims:
    """The refreshes that one worker process works on.

    Args:
        database: The store.
        worker: The worker's token, another one at each start.
    """

    def __init__(self, database: Database, worker: str) -> None:
        self._database = database
        self.worker = worker

    def claim(self, refresh_ids: Sequence[str]) -> None:
        """Make refreshes this worker's, as the durable queue has decided."""
        with self._database.write() as session:
            session.execute(
                update(Refresh).where(Refresh.id.in_(refresh_ids)).values(worker=self.worker)
            )

    def enter(self, session: Session, refresh_id: str, stage: str) -> tuple[Refresh, User]:
        """Begin a stage: lock the record, check that work may go on, and note the stage.

        Args:
            session: A writing transaction.
            refresh_id: The refresh.
            stage: Its new stage.

        Raises:
            UserErasedError, TakenOverError, RefreshOverError, RefreshCancelledError: See the
                classes.
        """
        refresh = self._own(session, refresh_id)
        if refresh.cancel_requested:
            raise RefreshCancelledError()
        refresh.stage = stage
        return refresh, session.get_one(User, refresh.user_id)

    def note(self, refresh_id: str, **progress: Any) -> None:  # noqa: ANN401 - columns
        """Write progress, and find out whether to go on.

        Raises:
            UserErasedError, TakenOverError, RefreshOverError, RefreshCancelledError: See the
                classes.
        """
        with self._database.write() as session:
            refresh = self._own(session, refresh_id)
            for column, value in progress.items():
                setattr(refresh, column, value)
            cancelled = refresh.cancel_requested
        if cancelled:
            raise RefreshCancelledError()

    def _own(self, session: Session, refresh_id: str) -> Refresh:
        refresh = session.get(Refresh, refresh_id, with_for_update=True)
        if refresh is None:
            raise UserErasedError()
        if refresh.worker != self.worker:
            raise TakenOverError()
        if refresh.status not in OPEN:
            raise RefreshOverError()
        return refresh
