"""What is remembered of users, ready to be searched, kept in the gateway's memory for a while.

A user's memory is kept in one version, and goes within a minute of a change, so that nothing
stays here of what a user removed, or of a user who was erased, be it by another gateway.
"""

import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from sys import getsizeof
from threading import Lock

import numpy as np
from anyio import CapacityLimiter, to_thread
from fastapi.concurrency import run_in_threadpool
from sqlalchemy import select

from perce.context import Candidate
from perce.prompt import ContextItem
from perce.retrieval import TextIndex
from server.embedding import FEW, Embedding, count_bare
from server.store import memory
from server.store.database import Database
from server.store.tables.people import Fact, User, UserText

_MOST_USERS = 256
_MOST_BYTES = 512 * 2**20
# Of an item beside its characters and its vector: ids and the objects themselves.
_BYTES_AN_ITEM = 500
# While many rows are still to be embedded: to read a large history anew at each request would
# cost more than the rest that is missed.
_INCOMPLETE_FOR_S = 60.0


@dataclass(frozen=True, slots=True)
class Memory:
    """One user's items of one memory version.

    Attributes:
        version: The user's `memory_version` when it was read.
        items: Facts and texts with a vector, in the order of the index.
        index: Searches their vectors.
        unranked: Facts that have no vector yet: they are shown all the same.
        complete: Whether everything had a vector.
        size: Bytes that it takes, about.
        read_at: On the monotonic clock, in seconds.
    """

    version: int
    items: tuple[Candidate, ...] = ()
    index: TextIndex = field(default_factory=lambda: TextIndex(np.zeros((0, 1), np.float32)))
    unranked: tuple[Candidate, ...] = ()
    complete: bool = True
    size: int = 0
    read_at: float = 0.0


class Memories:
    """The memories of the users who chatted last, within bounds of number and bytes."""

    def __init__(
        self, database: Database, embedding: Embedding, most_bytes: int = _MOST_BYTES
    ) -> None:
        self._database = database
        self._embedding = embedding
        self._most_bytes = most_bytes
        self._kept: OrderedDict[int, Memory] = OrderedDict()
        self._lock = Lock()
        # Reading a large history takes seconds: in a thread of its own, whoever waits for it.
        self._reader = CapacityLimiter(1)

    async def of(self, user: User) -> Memory:
        """Return a user's memory: all of it, or what is embedded so far of a large import.

        Raises:
            EncoderChangedError: The store holds the vectors of another encoder.
        """
        found, bare = await run_in_threadpool(self._look, user)
        if 0 < bare <= FEW:
            await self._embedding.catch_up(user)
            found, _ = await run_in_threadpool(self._look, user)
        if found is not None:
            return found
        return await to_thread.run_sync(self._read, user, limiter=self._reader)

    def users(self) -> set[int]:
        """Return the ids of those whose memories are kept."""
        with self._lock:
            return set(self._kept)

    def drop_stale(self) -> None:
        """Let go of what users changed since, and of users who were erased."""
        with self._lock:
            kept = {user_id: one.version for user_id, one in self._kept.items()}
        with self._database.read() as session:
            rows = session.execute(
                select(User.id, User.memory_version).where(User.id.in_(kept))
            ).all()
        current = {user_id: version for user_id, version in rows}
        with self._lock:
            for user_id, version in kept.items():
                if current.get(user_id) != version:
                    self._kept.pop(user_id, None)

    def _look(self, user: User) -> tuple[Memory | None, int]:
        """Return the memory that is kept, if it still holds, and how many rows have no vector."""
        with self._database.read() as session:
            version = session.scalar(select(User.memory_version).where(User.id == user.id))
            bare = count_bare(session, user)
        with self._lock:
            known = self._kept.get(user.id)
            if known is None or known.version != version:
                return None, bare
            young = time.monotonic() - known.read_at < _INCOMPLETE_FOR_S
            if not known.complete and not (bare > FEW and young):
                return None, bare
            self._kept.move_to_end(user.id)
            return known, bare

    def _read(self, user: User) -> Memory:
        """Read a user's memory from the store, unless another request just did."""
        found, _ = self._look(user)
        if found is not None:
            return found
        with self._database.read() as session:
            version = session.scalar(select(User.memory_version).where(User.id == user.id))
            if version is None:  # erased just now
                return Memory(-1)
            rows: list[Fact | UserText] = [
                *memory.facts(session, user),
                *memory.texts(session, user),
            ]
            self._embedding.require_own(session)
        read = _memory(version, rows)
        with self._lock:
            self._kept[user.id] = read
            self._kept.move_to_end(user.id)
            while len(self._kept) > 1 and not self._within_bounds():
                self._kept.popitem(last=False)
        return read

    def _within_bounds(self) -> bool:
        size = sum(one.size for one in self._kept.values())
        return len(self._kept) <= _MOST_USERS and size <= self._most_bytes


def _memory(version: int, rows: Sequence[Fact | UserText]) -> Memory:
    ready = [row for row in rows if row.embedding is not None]
    vectors = [np.frombuffer(row.embedding or b"", dtype=np.float32) for row in ready]
    items = tuple(_candidate(row) for row in ready)
    bare = (row for row in rows if row.embedding is None and isinstance(row, Fact))
    characters = sum(getsizeof(c.item.text) + getsizeof(c.item.query) for c in items)
    return Memory(
        version,
        items,
        TextIndex(np.stack(vectors) if vectors else np.zeros((0, 1), np.float32)),
        tuple(_candidate(row) for row in bare),
        complete=len(ready) == len(rows),
        size=characters + sum(v.nbytes for v in vectors) + _BYTES_AN_ITEM * len(items),
        read_at=time.monotonic(),
    )


def _candidate(row: Fact | UserText) -> Candidate:
    if isinstance(row, Fact):
        return Candidate(f"fact:{row.id}", ContextItem("fact", row.text), 0.0, row.id)
    item = ContextItem("text", row.text, row.query)
    return Candidate(f"text:{row.id}", item, 0.0, row.position)
