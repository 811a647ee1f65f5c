"""Which encoder made the stored vectors: those of two encoders cannot be compared."""

import structlog
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from server.errors import EncoderChangedError
from server.store.database import ROWS_AT_ONCE, Database, take_turn
from server.store.tables.embeddings import VectorEncoder
from server.store.tables.people import Fact, UserText

log = structlog.get_logger()
_TURN = 0x656E63  # any number that only this module uses


def take_over(database: Database, fingerprint: str) -> int:
    """Make an encoder the one whose vectors the store holds; remove those of another.

    They are made anew while the gateway runs. Safe when several processes start at once, and
    a start that was interrupted in between is made up for by the next.

    Returns:
        How many vectors were removed.
    """
    removed = 0
    while not _is_the_one(database, fingerprint):
        for table in (Fact, UserText):
            removed += _remove_vectors(database, table)
        with database.write() as session:
            take_turn(session, _TURN)
            # Unless another encoder came in between: its vectors would stay.
            session.execute(
                update(VectorEncoder)
                .where(VectorEncoder.fingerprint == "")
                .values(fingerprint=fingerprint)
            )
    if removed:
        log.warning("vectors of another encoder are made anew", vectors=removed)
    return removed


def require(session: Session, fingerprint: str) -> None:
    """Make sure that vectors of this encoder may be read.

    Raises:
        EncoderChangedError: The store holds those of another one.
    """
    if _fingerprint(session) != fingerprint:
        raise EncoderChangedError()


def require_turn(session: Session, fingerprint: str) -> None:
    """Make sure that vectors of this encoder may be added, until the transaction ends.

    Raises:
        EncoderChangedError: The store holds those of another one.
    """
    take_turn(session, _TURN)
    require(session, fingerprint)


def _is_the_one(database: Database, fingerprint: str) -> bool:
    """Whether the store's vectors are this encoder's; if not, nobody adds any from now on."""
    with database.write() as session:
        take_turn(session, _TURN)
        if _fingerprint(session) == fingerprint:
            return True
        session.execute(update(VectorEncoder).values(fingerprint=""))
        return False


def _remove_vectors(database: Database, table: type[Fact | UserText]) -> int:
    """Remove a table's vectors, in transactions that let others have their turn."""
    removed, after = 0, 0
    while True:
        with database.write() as session:
            take_turn(session, _TURN)
            page = select(table.id).where(table.id > after).order_by(table.id).limit(ROWS_AT_ONCE)
            last = session.scalar(select(func.max(page.subquery().c.id)))
            if last is None:
                return removed
            gone = session.connection().execute(
                update(table)
                .where(table.id > after, table.id <= last, table.embedding.is_not(None))
                .values(embedding=None)
            )
            removed += gone.rowcount
            after = last


def _fingerprint(session: Session) -> str:
    return session.scalars(select(VectorEncoder.fingerprint)).one()
