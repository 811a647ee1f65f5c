"""Clients that chat with a gateway all the time, and remember how each of their turns went."""

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import httpx

_AFTER_FAILURE_S = 0.3


@dataclass(frozen=True, slots=True)
class Turn:
    """One request of one client. Times are those of `time.monotonic`.

    Attributes:
        answered: When the first token came; the gateway had chosen the version by then.
        identity: The id of the reply.
        adapter: The version that the gateway says has answered; None is the base model.
        logprob: That of the first token, which tells weights apart.
        error: What went wrong; None for a turn that the gateway brought to its end.
    """

    client: int
    user: str
    message: str
    sent: float
    answered: float = 0.0
    ended: float = 0.0
    identity: str = ""
    reply: str = ""
    adapter: str | None = None
    logprob: float = 0.0
    error: str | None = None

    @property
    def first_token_s(self) -> float:
        """Seconds that the client waited for the first token."""
        return self.answered - self.sent


@dataclass
class ChatClients:
    """Clients in a thread of their own, from `with` to its end; client i chats as user i mod U.

    Attributes:
        message: What a client says, by its number and that of the turn.
        pause_s: How long a client waits between two turns.
        turns: Those that ended, failed ones too.
    """

    url: str
    key: str
    users: Sequence[str]
    count: int
    message: Callable[[int, int], str]
    max_tokens: int = 16
    pause_s: float = 0.0
    turns: list[Turn] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()

    def failures(self) -> list[Turn]:
        """The turns that did not come to their end."""
        return [turn for turn in self.turns if turn.error is not None]

    async def _run(self) -> None:
        headers = {"Authorization": f"Bearer {self.key}"}
        async with httpx.AsyncClient(base_url=self.url, headers=headers, timeout=120) as http:
            await asyncio.gather(*(self._chat(http, client) for client in range(self.count)))

    async def _chat(self, http: httpx.AsyncClient, client: int) -> None:
        number = 0
        while not self._stopping.is_set():
            user = self.users[client % len(self.users)]
            turn = await self._turn(http, Turn(client, user, self.message(client, number), _now()))
            self.turns.append(turn)
            number += 1
            await asyncio.sleep(_AFTER_FAILURE_S if turn.error else self.pause_s)

    async def _turn(self, http: httpx.AsyncClient, turn: Turn) -> Turn:
        body = {
            "user": turn.user,
            "messages": [{"role": "user", "content": turn.message}],
            "temperature": 0,
            "max_tokens": self.max_tokens,
            "stream": True,
            "logprobs": True,
        }
        try:
            async with http.stream("POST", "/v1/chat/completions", json=body) as response:
                if response.is_error:
                    said = (await response.aread()).decode()
                    return replace(turn, ended=_now(), error=f"{response.status_code}: {said}")
                return await _read(turn, response)
        except httpx.HTTPError as error:
            return replace(turn, ended=_now(), error=f"{type(error).__name__}: {error}")


async def _read(turn: Turn, response: httpx.Response) -> Turn:
    """Read a streamed reply; only one with our extension and `[DONE]` came to its end."""
    extension: dict[str, Any] | None = None
    async for chunk in _chunks(response):
        if chunk is None:
            if extension is None:
                break
            return replace(turn, ended=_now(), adapter=extension["adapter"])
        if "error" in chunk:
            return replace(turn, ended=_now(), error=str(chunk["error"]))
        extension = chunk.get("personalization", extension)
        for choice in chunk["choices"]:
            scored = (choice.get("logprobs") or {}).get("content") or []
            if scored and not turn.answered:
                turn = replace(turn, answered=_now(), logprob=scored[0]["logprob"])
            turn = replace(
                turn,
                identity=chunk["id"],
                reply=turn.reply + (choice["delta"].get("content") or ""),
            )
    return replace(turn, ended=_now(), error="the stream broke off")


async def _chunks(response: httpx.Response) -> AsyncIterator[dict[str, Any] | None]:
    """The chunks of a stream; None for the `[DONE]` that ends it."""
    async for line in response.aiter_lines():
        data = line.removeprefix("data:").strip()
        if line.startswith("data:"):
            yield None if data == "[DONE]" else json.loads(data)


def _now() -> float:
    return time.monotonic()
