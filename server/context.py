"""The persona context of a user: embedding what is remembered, and choosing from it.

A conversation's context is pinned when it starts, so that later turns hit the engine's
prefix cache; it is chosen anew when asked for or when the user's memory changed.
"""

import hashlib
import json
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any, TypeVar

import numpy as np
from sqlalchemy import bindparam, select, update

from perce.context import Candidate, select_context
from perce.prompt import ContextItem, Message
from perce.retrieval import Encoder, TextIndex
from perce.tokens import ChatTokenizer
from server.settings import Settings
from server.store import memory
from server.store.database import Database
from server.store.tables.people import Conversation, Fact, User, UserText

# More candidates than texts that fit: long texts are passed over for shorter ones behind them.
_CANDIDATES = 64
_CACHED_USERS = 256
# A chunk is encoded under its user's lock and written in one short transaction.
_EMBEDDED_AT_ONCE = 256
_LOCKS = 64
Row = TypeVar("Row", bound=Fact | UserText)


@dataclass(frozen=True, slots=True)
class _Memory:
    """One user's items of one memory version, with the index over their vectors."""

    items: tuple[Candidate, ...]
    index: TextIndex


class ContextSource:
    """Chooses persona contexts, with an index per user kept in memory."""

    def __init__(
        self,
        database: Database,
        encoder: Encoder,
        settings: Settings,
        tokenizer: ChatTokenizer,
    ) -> None:
        self._database = database
        self._encoder = encoder
        self._settings = settings
        self._tokenizer = tokenizer
        self._cache: OrderedDict[tuple[int, int], _Memory] = OrderedDict()
        self._lock = Lock()
        # One for several users: more than run at once.
        self._embedding = [Lock() for _ in range(_LOCKS)]

    def retrieve(self, user: User, query: str) -> list[Candidate]:
        """Choose the context that a conversation starting with `query` gets."""
        known = self._memory(user)
        if not known.items:
            return []
        scores = known.index.scores(self._encoder.encode([query])[0], len(known.items))
        facts = [i for i, c in enumerate(known.items) if c.item.kind == "fact"]
        texts = [i for i in scores if known.items[i].item.kind == "text"][:_CANDIDATES]
        candidates = [
            Candidate(c.id, c.item, scores[i], c.position)
            for i, c in ((i, known.items[i]) for i in (*facts, *texts))
        ]
        return select_context(
            candidates,
            self._settings.context_tokens,
            self._settings.context_texts,
            self._tokens_in_a_prompt,
        )

    def for_conversation(
        self,
        user: User,
        messages: Sequence[Message],
        name: str | None = None,
        refresh: bool = False,
    ) -> list[Candidate]:
        """Return a conversation's pinned context, choosing it at the first turn.

        Args:
            user: Whose context.
            messages: The conversation so far.
            name: The client's own name for the conversation; without one, its messages up
                to the first of the user identify it, as later turns repeat them.
            refresh: Choose anew even if a context is pinned.
        """
        key = _conversation_key(user, messages, name)
        with self._database.read() as session:
            pinned = session.get(Conversation, key)
            fresh = session.scalars(select(User.memory_version).where(User.id == user.id)).one()
        if pinned is not None and not refresh and pinned.memory_version == fresh:
            return [_from_json(item) for item in pinned.context]
        context = self.retrieve(user, _first_query(messages))
        with self._database.write() as session:
            session.merge(
                Conversation(
                    key=key,
                    user_id=user.id,
                    memory_version=fresh,
                    context=[_to_json(candidate) for candidate in context],
                )
            )
        return context

    def embed(self, user: User) -> None:
        """Embed what has no vector yet."""
        for _ in self.embed_chunks(user):
            pass

    def embed_chunks(self, user: User) -> Iterator[int]:
        """Embed what has no vector yet, chunk by chunk, and yield how many rows each had.

        Whoever else embeds the same user's rows in this process takes turns, chunk by chunk,
        and each row is embedded once. Rows that are removed meanwhile stay removed.
        """
        for table in (Fact, UserText):
            after = 0
            while rows := self._embed_next(user.id, table, after):
                after = rows[-1].id
                yield len(rows)

    def _embed_next(self, user_id: int, table: type[Row], after: int) -> Sequence[Row]:
        """Embed a user's next rows with an id beyond `after`, and return them; none at the end."""
        with self._embedding[user_id % _LOCKS]:
            with self._database.read() as session:
                rows: Sequence[Row] = session.scalars(
                    select(table)
                    .where(table.user_id == user_id, table.embedding.is_(None), table.id > after)
                    .order_by(table.id)
                    .limit(_EMBEDDED_AT_ONCE)
                ).all()
            if not rows:
                return ()
            vectors = self._encoder.encode([_embedded_text(row) for row in rows])
            values = [
                {"row": row.id, "vector": vector.tobytes()}
                for row, vector in zip(rows, vectors, strict=True)
            ]
            # Past the session: it would take a row that was removed meanwhile for an error.
            change = (
                update(table)
                .where(table.id == bindparam("row"))
                .values(embedding=bindparam("vector"))
            )
            with self._database.write() as session:
                session.connection().execute(change, values)
            return rows

    def _tokens_in_a_prompt(self, text: str) -> int:
        return self._tokenizer.count(self._tokenizer.pulled_apart(text))

    def _memory(self, user: User) -> _Memory:
        with self._database.read() as session:
            version = session.scalars(select(User.memory_version).where(User.id == user.id)).one()
        with self._lock:
            if (user.id, version) in self._cache:
                self._cache.move_to_end((user.id, version))
                return self._cache[user.id, version]
        self.embed(user)
        loaded = self._load(user)
        with self._lock:
            self._cache[user.id, version] = loaded
            while len(self._cache) > _CACHED_USERS:
                self._cache.popitem(last=False)
        return loaded

    def _load(self, user: User) -> _Memory:
        with self._database.read() as session:
            rows: list[Fact | UserText] = [
                *memory.facts(session, user),
                *memory.texts(session, user),
            ]
        # What was added since `embed` is found under the next memory version.
        rows = [row for row in rows if row.embedding is not None]
        vectors = [np.frombuffer(row.embedding or b"", dtype=np.float32) for row in rows]
        index = TextIndex(np.stack(vectors) if vectors else np.zeros((0, 1), np.float32))
        return _Memory(tuple(_candidate(row) for row in rows), index)


def shown(context: Sequence[Candidate]) -> list[dict[str, Any]]:
    """Return a context as the API shows it."""
    return [
        {"id": c.id, "kind": c.item.kind, "text": c.item.text, "score": c.score} for c in context
    ]


def _candidate(row: Fact | UserText) -> Candidate:
    if isinstance(row, Fact):
        return Candidate(f"fact:{row.id}", ContextItem("fact", row.text), 0.0, row.id)
    item = ContextItem("text", row.text, row.query)
    return Candidate(f"text:{row.id}", item, 0.0, row.position)


def _embedded_text(row: Fact | UserText) -> str:
    return row.text if isinstance(row, Fact) else f"{row.query}\n{row.text}"


def _conversation_key(user: User, messages: Sequence[Message], name: str | None) -> str:
    if name is not None:
        opening: object = name
    else:
        first = next((i for i, m in enumerate(messages) if m["role"] == "user"), -1)
        opening = list(messages[: first + 1])
    encoded = json.dumps([user.id, name is not None, opening], sort_keys=True, default=str)
    return hashlib.sha256(encoded.encode()).hexdigest()


def _first_query(messages: Sequence[Message]) -> str:
    for message in messages:
        if message["role"] == "user":
            content = message["content"]
            if isinstance(content, str):
                return content
            return " ".join(part["text"] for part in content if part.get("type") == "text")
    return ""


def _to_json(candidate: Candidate) -> dict[str, Any]:
    item = candidate.item
    return {
        "id": candidate.id,
        "kind": item.kind,
        "text": item.text,
        "query": item.query,
        "score": candidate.score,
        "position": candidate.position,
    }


def _from_json(row: dict[str, Any]) -> Candidate:
    item = ContextItem(row["kind"], row["text"], row["query"])
    return Candidate(row["id"], item, row["score"], row["position"])
