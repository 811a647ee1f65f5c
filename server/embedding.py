"""Giving facts and texts their vectors, beside the requests and never in their way.

One thread embeds for the whole gateway, a chunk a turn: whoever asks for it waits for a turn
without holding one of the threads that requests share, and everybody's turn comes. It is
also what keeps a row from being embedded twice.
"""

from collections.abc import Sequence
from typing import TypeVar

from anyio import CapacityLimiter, move_on_after, to_thread
from sqlalchemy import bindparam, func, select, union, union_all, update
from sqlalchemy.orm import Session

from perce.retrieval import Encoder, text_of
from server.store import encoders
from server.store.database import Database
from server.store.tables.people import Fact, User, UserText

FEW = 512
"""Rows without a vector that a request waits for; more are left to the background."""
# Of a request, for a turn: the encoder may have to be loaded first.
_PATIENCE_S = 30.0
# A chunk is embedded in one turn and written in one short transaction.
_ROWS_A_TURN = 256
_USERS_AT_ONCE = 100
Row = TypeVar("Row", bound=Fact | UserText)


class Embedding:
    """Embeds what has no vector yet.

    Args:
        database: The store.
        encoder: What makes the vectors.
        fingerprint: Which encoder that is (`perce.retrieval.encoder_fingerprint`).
    """

    def __init__(self, database: Database, encoder: Encoder, fingerprint: str) -> None:
        self._database = database
        self._encoder = encoder
        self._fingerprint = fingerprint
        self._thread = CapacityLimiter(1)

    def take_over(self) -> None:
        """Remove the vectors of another encoder from the store; see `encoders.take_over`."""
        encoders.take_over(self._database, self._fingerprint)

    def require_own(self, session: Session) -> None:
        """Make sure that the stored vectors are this encoder's; see `encoders.require`."""
        encoders.require(session, self._fingerprint)

    async def embed(self, user: User) -> None:
        """Embed what a user has without a vector, chunk by chunk.

        Rows that are removed meanwhile stay removed.

        Raises:
            EncoderChangedError: The store holds the vectors of another encoder.
        """
        await self._embed(user.id)

    async def catch_up(self, user: User) -> None:
        """Embed the few rows that came since, for a request that is about to read them.

        A request that waited too long for a turn goes on with what there is.
        """
        with move_on_after(_PATIENCE_S):
            await self._embed(user.id)

    async def embed_left_over(self) -> None:
        """Embed what nobody else did: after a restart, or for another encoder."""
        while users := await to_thread.run_sync(self._waiting, limiter=self._thread):
            for user_id in users:
                await self._embed(user_id)

    async def _embed(self, user_id: int) -> None:
        for table in (Fact, UserText):
            while await to_thread.run_sync(self._embed_next, user_id, table, limiter=self._thread):
                pass

    def _embed_next(self, user_id: int, table: type[Row]) -> int:
        """Embed a user's next rows, and return how many there were."""
        with self._database.read() as session:
            rows: Sequence[Row] = session.scalars(
                select(table)
                .where(table.user_id == user_id, table.embedding.is_(None))
                .order_by(table.id)
                .limit(_ROWS_A_TURN)
            ).all()
            if not rows:
                return 0
            self.require_own(session)
        vectors = self._encoder.encode([_embedded_text(row) for row in rows])
        values = [
            {"row": row.id, "vector": vector.tobytes()}
            for row, vector in zip(rows, vectors, strict=True)
        ]
        # Past the session: it would take a row that was removed meanwhile for an error.
        change = (
            update(table).where(table.id == bindparam("row")).values(embedding=bindparam("vector"))
        )
        with self._database.write() as session:
            encoders.require_turn(session, self._fingerprint)
            session.connection().execute(change, values)
        return len(rows)

    def _waiting(self) -> Sequence[int]:
        """Return users with rows that have no vector."""
        facts, texts = (
            select(table.user_id).where(table.embedding.is_(None)) for table in (Fact, UserText)
        )
        with self._database.read() as session:
            return session.scalars(union(facts, texts).limit(_USERS_AT_ONCE)).all()


def count_bare(session: Session, user: User) -> int:
    """Count a user's rows without a vector, as far as matters: to one more than `FEW`."""
    rows = union_all(
        *(
            select(table.id)
            .where(table.user_id == user.id, table.embedding.is_(None))
            .limit(FEW + 1)
            .subquery()
            .select()
            for table in (Fact, UserText)
        )
    )
    return session.scalars(select(func.count()).select_from(rows.subquery())).one()


def _embedded_text(row: Fact | UserText) -> str:
    return row.text if isinstance(row, Fact) else text_of(row.query, row.text)
