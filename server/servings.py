"""A serving: the context, prompt pair, adapter and engine that one request is answered with.

Chat, completions and PIR requests all start here, so that they choose alike.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from anyio import CancelScope
from fastapi.concurrency import run_in_threadpool

from perce.context import Candidate
from perce.pir import Contrast
from perce.prompt import Message, PromptPair
from perce.tokens import ChatTokenizer
from server import adapter_store, population
from server.context import ContextSource
from server.engine import Engine, ServedModel
from server.errors import BadRequestError, ConflictError, EngineRefusedError
from server.leases import Leases
from server.naps import Naps
from server.schemas import Personalization
from server.store.database import Database
from server.store.tables.adapters import Adapter
from server.store.tables.people import User

T = TypeVar("T")
_Chunks = AsyncGenerator[dict[str, Any]]
_UNKNOWN_MODEL = 404


@dataclass(frozen=True, slots=True)
class Serving:
    """How one request is answered: with which prompts, weights and engine.

    `adapter` is the user's own version or the population's. `passed_over` is the version that
    would have answered if its files were not damaged. `naps` is asked before each call of the
    engine.
    """

    user: User
    context: Sequence[Candidate]
    prompts: PromptPair
    adapter: Adapter | None
    engine: Engine
    base: ServedModel
    naps: Naps
    passed_over: Adapter | None = None

    @property
    def model(self) -> str:
        """The name of the weights that answer: the adapter version's, or the base model's."""
        return self.adapter.name if self.adapter else self.base.name

    @property
    def label(self) -> str | None:
        """The version that answers as the user is shown it; None for the base model."""
        return population.label_for(self.user, self.adapter) if self.adapter else None

    @property
    def cache_salt(self) -> str:
        """What parts the engine's prefix caches: timing would tell tenants of each other."""
        return f"user-{self.user.id}"

    async def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """POST to the engine; see `Engine.post`.

        Raises:
            EngineAsleepError: The engine sleeps by now.
        """
        return await self._with_adapter(lambda: self.engine.post(path, body))

    async def stream(self, path: str, body: dict[str, Any]) -> _Chunks:
        """Stream from the engine; see `Engine.stream`. Only its start can meet a lost adapter.

        Closing it closes the engine's request.

        Raises:
            EngineAsleepError: The engine sleeps by now.
        """

        async def start() -> tuple[_Chunks, dict[str, Any] | None]:
            chunks = self.engine.stream(path, body)
            return chunks, await anext(chunks, None)

        chunks, first = await self._with_adapter(start)
        async with aclosing(chunks):
            if first is not None:
                yield first
            async for chunk in chunks:
                yield chunk

    async def reply_logprobs(
        self, model: str, prompt_ids: Sequence[int], reply_ids: Sequence[int]
    ) -> list[float]:
        """Score a reply; see `Engine.reply_logprobs`.

        Raises:
            EngineAsleepError: The engine sleeps by now.
        """
        return await self._with_adapter(
            lambda: self.engine.reply_logprobs(model, prompt_ids, reply_ids)
        )

    async def _with_adapter(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Ask the engine; load the adapter and ask again where the engine lost it.

        An engine that was restarted knows no adapter until somebody needs one.
        """
        await self._check_awake()
        try:
            return await ask()
        except EngineRefusedError as error:
            if error.status != _UNKNOWN_MODEL or self.adapter is None:
                raise
        await run_in_threadpool(adapter_store.verify, self.adapter)
        await self._check_awake()
        await self.engine.load_adapter(self.adapter.name, Path(self.adapter.folder))
        return await ask()

    async def _check_awake(self) -> None:
        await run_in_threadpool(self.naps.check, [self.engine])


class Servings:
    """Chooses how requests are answered."""

    def __init__(
        self,
        database: Database,
        contexts: ContextSource,
        engines: Sequence[Engine],
        leases: Leases,
        tokenizer: ChatTokenizer,
    ) -> None:
        self._database = database
        self._tokenizer = tokenizer
        self._contexts = contexts
        self._engines = engines
        self._leases = leases
        self._naps = Naps(database)

    @asynccontextmanager
    async def choose(
        self, user: User, messages: Sequence[Message], wish: Personalization
    ) -> AsyncIterator[Serving]:
        """Choose context and adapter, and keep the adapter loaded until the request ends.

        Raises:
            BadRequestError, NotFoundError, DamagedAdapterError: The version named is none, is
                not there, or is damaged.
            EngineAsleepError: All engines sleep while their GPU trains.
            EngineUnavailableError: The engine does not answer.
        """
        # A user stays on one engine: there its prefix is cached and its adapter loaded.
        engine = await run_in_threadpool(self._naps.awake, self._engines, user.id)
        base = await engine.served_model()
        context: list[Candidate] = []
        if wish.persona:
            context = await self._contexts.for_conversation(
                user, messages, wish.conversation, wish.refresh_context
            )
        with CancelScope(shield=True):  # a lease that nobody knows of would never go back
            leased = await run_in_threadpool(self._leases.take, user, wish.adapter)
        try:
            items = [candidate.item for candidate in context]
            prompts = await run_in_threadpool(self._tokenizer.prompts, messages, items)
            adapter, passed_over = leased.adapter, leased.passed_over
            yield Serving(user, context, prompts, adapter, engine, base, self._naps, passed_over)
        finally:
            if leased.token is not None:
                # A client that hangs up cancels this task: the lease goes back all the same.
                with CancelScope(shield=True):
                    await run_in_threadpool(self._leases.give_back, leased.token)


def check_contrast(contrast: Contrast, wish: Personalization, adapter: Adapter | None) -> None:
    """Refuse a contrast between two equal sides: every PIR would be zero.

    Raises:
        BadRequestError: The persona is switched off.
        ConflictError: The user has no adapter.
    """
    if contrast in ("persona", "both") and not wish.persona:
        raise BadRequestError(
            f"The contrast {contrast!r} compares with and without persona: leave 'persona' on, "
            "or use the contrast 'adapter'."
        )
    if contrast in ("adapter", "both") and adapter is None:
        raise ConflictError(
            f"The contrast {contrast!r} compares adapter and base weights, and no adapter is in "
            "use: refresh first, or use the contrast 'persona'."
        )
