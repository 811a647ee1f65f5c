"""The persona context of a user: choosing from what is remembered.

A conversation's context is pinned when it starts, so that later turns hit the engine's
prefix cache; it is chosen anew when asked for or when the user's memory changed.
"""

import hashlib
import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import structlog
from anyio import create_task_group, sleep
from fastapi.concurrency import run_in_threadpool
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from perce.context import Candidate, select_context
from perce.errors import AttuneError
from perce.prompt import ContextItem, Message
from perce.retrieval import Encoder, encoder_fingerprint
from perce.tokens import ChatTokenizer
from server.embedding import Embedding
from server.memories import Memories, Memory
from server.settings import Settings
from server.store.database import Database
from server.store.tables.people import Conversation, User

log = structlog.get_logger()
# More candidates than texts that fit: long texts are passed over for shorter ones behind them.
_CANDIDATES = 64


class ContextSource:
    """Chooses persona contexts.

    Attributes:
        embedding: Gives what is remembered its vectors.
        memories: What is remembered, ready to be searched.
    """

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
        self.embedding = Embedding(database, encoder, encoder_fingerprint(settings.encoder))
        self.memories = Memories(database, self.embedding)

    async def run(self) -> None:
        """Embed what was left over and let go of what is stale, until cancelled."""
        async with create_task_group() as group:
            group.start_soon(self._repeated, self.embedding.embed_left_over)
            group.start_soon(self._repeated, self._drop_stale)

    async def retrieve(self, user: User, query: str) -> list[Candidate]:
        """Choose the context that a conversation starting with `query` gets.

        Raises:
            EncoderChangedError: The store holds the vectors of another encoder.
        """
        known = await self.memories.of(user)
        if not known.items and not known.unranked:
            return []
        return await run_in_threadpool(self._choose, known, query)

    async def for_conversation(
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

        Raises:
            EncoderChangedError: The store holds the vectors of another encoder.
        """
        key = _conversation_key(user, messages, name)
        pinned, version = await run_in_threadpool(self._pinned, user, key)
        if pinned is not None and not refresh:
            return pinned
        context = await self.retrieve(user, _first_query(messages))
        await run_in_threadpool(self._pin, user, key, version, context)
        return context

    def _pinned(self, user: User, key: str) -> tuple[list[Candidate] | None, int | None]:
        """Return the context that is pinned, unless it is stale, and the memory's version."""
        with self._database.read() as session:
            pinned = session.get(Conversation, key)
            fresh = session.scalar(select(User.memory_version).where(User.id == user.id))
        if pinned is None or pinned.memory_version != fresh:
            return None, fresh
        return [_from_json(item) for item in pinned.context], fresh

    def _pin(self, user: User, key: str, version: int | None, context: list[Candidate]) -> None:
        """Pin a context, unless the memory changed or the user was erased while it was chosen."""
        with self._database.write() as session:
            # Locked: a removal that came first is seen, a later one finds what is pinned here.
            fresh = session.scalar(
                select(User.memory_version)
                .where(User.id == user.id)
                .with_for_update(key_share=True)
            )
            if version is None or fresh != version:
                return
            session.merge(
                Conversation(
                    key=key,
                    user_id=user.id,
                    memory_version=version,
                    context=[_to_json(candidate) for candidate in context],
                )
            )

    def _choose(self, known: Memory, query: str) -> list[Candidate]:
        scores: dict[int, float] = {}
        if known.items:
            scores = known.index.scores(self._encoder.encode([query])[0], len(known.items))
        facts = [i for i, c in enumerate(known.items) if c.item.kind == "fact"]
        texts = [i for i in scores if known.items[i].item.kind == "text"][:_CANDIDATES]
        candidates = [
            Candidate(c.id, c.item, scores[i], c.position)
            for i, c in ((i, known.items[i]) for i in (*facts, *texts))
        ]
        return select_context(
            [*known.unranked, *candidates],
            self._settings.context_tokens,
            self._settings.context_texts,
            self._tokens_in_a_prompt,
        )

    def _tokens_in_a_prompt(self, text: str) -> int:
        return self._tokenizer.count(self._tokenizer.pulled_apart(text))

    async def _drop_stale(self) -> None:
        await run_in_threadpool(self.memories.drop_stale)

    async def _repeated(self, action: Callable[[], Awaitable[None]]) -> None:
        """Nothing that goes wrong here, such as a store that is away, may end the gateway."""
        while True:
            try:
                await action()
            except (AttuneError, SQLAlchemyError, OSError) as error:
                log.warning("memories were not looked after", reason=str(error))
            except Exception as error:
                log.error("looking after memories failed", exc_info=error)
            await sleep(self._settings.upkeep_every_s)


def shown(context: Sequence[Candidate]) -> list[dict[str, Any]]:
    """Return a context as the API shows it."""
    return [
        {"id": c.id, "kind": c.item.kind, "text": c.item.text, "score": c.score} for c in context
    ]


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
            content = message.get("content") or ""
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
