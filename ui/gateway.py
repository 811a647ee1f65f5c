"""A client of the gateway: its HTTP as typed methods.

The UI and the `attune` command share it.
"""

from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import quote

import httpx
from pydantic import BaseModel

from ui.answer import Page, Record, parsed, records_of
from ui.completion import Completion
from ui.records import (
    ContextItem,
    Contrast,
    Delta,
    Fact,
    Import,
    Method,
    Personalization,
    Ready,
    Refresh,
    Reply,
    Round,
    Schedule,
    Text,
    User,
    Verification,
    Versions,
    WrittenPlan,
)
from ui.transport import GatewayError, Transport

R = TypeVar("R", bound=Record)
Message = Mapping[str, str]
TEXTS_A_PAGE = 1000


class ChatRequest(BaseModel):
    """One chat as a user: what to answer, and how to personalize it."""

    user: str
    messages: tuple[dict[str, str], ...]
    persona: bool = True
    adapter: str = "active"
    pir: bool = False
    contrast: Contrast = "persona"
    conversation: str | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    seed: int | None = None
    store: bool = True

    def body(self, model: str) -> dict[str, Any]:
        """The request as OpenAI's JSON with the `personalization` extension."""
        extension = {"persona", "adapter", "pir", "contrast", "conversation"}
        body = self.model_dump(exclude=extension, exclude_none=True)
        return body | {"model": model, "personalization": self.model_dump(include=extension)}


class Gateway:
    """The gateway at one address, with one key.

    Args:
        url: Its base address, such as `http://127.0.0.1:8000`.
        key: An admin or service key, which may act for any user, or one user's key.
        timeout_s: Longest silence within a request; None waits for as long as it takes.
        transport: Replaces the network; for tests.

    Raises:
        GatewayError: The address is none. Every method raises it too, where the gateway
            refuses, cannot be reached, or answers what this client does not know.
    """

    def __init__(
        self,
        url: str,
        key: str,
        *,
        timeout_s: float | None = 300.0,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._http = Transport(url, key, timeout_s, transport)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections."""
        self._http.close()

    def model(self) -> str:
        """Name of the model behind the gateway, once its engine is ready.

        Raises:
            GatewayError: The engine is not ready yet, or the gateway was not reached.
        """
        return self._one(Ready, "GET", "/readyz").model

    def users(self) -> list[User]:
        """Everyone the gateway knows."""
        return self._list(User, "/v1/users")

    def user(self, name: str) -> User:
        """One user."""
        return self._one(User, "GET", _of(name))

    def add_user(self, name: str, *, consent: bool = True, shares: bool = False) -> User:
        """Add a user; the answer alone carries the key."""
        body = {"name": name, "consent": consent, "shares": shares}
        return self._one(User, "POST", "/v1/users", json=body)

    def change_user(self, name: str, **allowed: bool) -> User:
        """Change what a user allows: `consent`, `shares`. What is taken back is undone."""
        return self._one(User, "PATCH", _of(name), json=allowed)

    def erase_user(self, name: str) -> dict[str, Any]:
        """Erase a user with everything derived from them; answers what was erased."""
        return self._http.json("DELETE", _of(name))

    def export_user(self, name: str) -> dict[str, Any]:
        """Everything that is kept of a user."""
        return self._http.json("GET", _of(name, "export"))

    def facts(self, user: str) -> list[Fact]:
        """A user's profile facts."""
        return self._list(Fact, _of(user, "facts"))

    def add_fact(self, user: str, text: str) -> Fact:
        """Add a profile fact."""
        return self._one(Fact, "POST", _of(user, "facts"), json={"text": text})

    def remove_fact(self, user: str, fact: int | str) -> None:
        """Remove a profile fact."""
        self._http.request("DELETE", _of(user, "facts", str(fact)))

    def history(self, user: str) -> list[Text]:
        """A user's texts, oldest first."""
        texts = list[Text]()
        after: int | None = 0
        while after is not None:
            asked = {"after": after, "limit": TEXTS_A_PAGE}
            page = self._one(Page, "GET", _of(user, "history"), params=asked)
            texts += [parsed(Text, row) for row in page.data]
            after = page.next
        return texts

    def import_history(self, user: str, lines: bytes) -> Import:
        """Import JSONL, plain or gzipped; bad lines are named in the answer."""
        return self._one(Import, "POST", _of(user, "history"), content=lines)

    def memory(self, user: str, query: str) -> list[ContextItem]:
        """What a chat with that query would see of the user."""
        return self._list(ContextItem, _of(user, "memory"), params={"query": query})

    def adapters(self, user: str) -> Versions:
        """A user's adapter versions."""
        return self._one(Versions, "GET", _of(user, "adapters"))

    def rollback(self, user: str, to: str | None = None) -> Versions:
        """Make an earlier version active: `v1`, `none` of their own, or None: the one before."""
        return self._one(Versions, "POST", _of(user, "adapters", "rollback"), json={"to": to})

    def verify_adapters(
        self, user: str | None = None, *, after: int = 0, repair: bool = False
    ) -> Verification:
        """Check adapters against the registry: a user's, or a page of all users'."""
        body = {"user": user, "after": after, "repair": repair}
        return self._one(Verification, "POST", "/v1/adapters/verify", json=body)

    def start_refresh(self, user: str, method: Method = "perce") -> Refresh:
        """Queue a refresh of a user's adapter."""
        return self._one(Refresh, "POST", _of(user, "refreshes"), json={"method": method})

    def refreshes(self, user: str) -> list[Refresh]:
        """A user's refreshes, newest first."""
        return self._list(Refresh, _of(user, "refreshes"))

    def refresh(self, user: str, refresh: str) -> Refresh:
        """One refresh as it stands now."""
        return self._one(Refresh, "GET", _of(user, "refreshes", refresh))

    def cancel_refresh(self, user: str, refresh: str) -> Refresh:
        """Cancel a refresh: one that waits at once, one that trains after its step."""
        return self._one(Refresh, "POST", _of(user, "refreshes", refresh, "cancel"))

    def schedule(self) -> Schedule:
        """When due users are refreshed."""
        return self._one(Schedule, "GET", "/v1/schedule")

    def set_schedule(self, **changes: str | float | bool) -> Schedule:
        """Change any field of the schedule, such as `cron`, `paused` or `min_new_texts`."""
        return self._one(Schedule, "PUT", "/v1/schedule", json=changes)

    def run_schedule(self) -> Round:
        """Start a round over everybody who is due now."""
        return self._one(Round, "POST", "/v1/schedule/run")

    def plan(self, limit: int = 100) -> WrittenPlan:
        """The newest round's plan, with the first of its entries."""
        return self._one(WrittenPlan, "GET", f"/v1/schedule/plan?limit={limit}")

    def feedback(
        self, user: str, reply: str, feedback: str | None, edited: str | None = None
    ) -> None:
        """Say what the user thought of a reply: `up`, `down`, or a better text of their own."""
        self._http.json(
            "POST",
            "/v1/feedback",
            json={"user": user, "id": reply, "feedback": feedback, "edited": edited},
        )

    def pir(
        self,
        user: str,
        messages: Sequence[Message],
        reply: str | Sequence[int],
        *,
        contrast: Contrast = "persona",
        adapter: str = "active",
        persona: bool = True,
        conversation: str | None = None,
    ) -> Personalization:
        """Score which words of a reply depend on the user.

        Args:
            user: Whose persona and adapter.
            messages: The conversation up to the reply.
            reply: Its text, or better its token ids, which are scored as they are.
            contrast: What is taken away: the persona, the adapter or both.
            adapter: `active`, `none` or a version such as `v2`.
            persona: Whether the persona is in the prompt of the with side.
            conversation: Whose pinned persona context to use; None retrieves one.
        """
        body: dict[str, Any] = {"user": user, "messages": list(messages), "contrast": contrast}
        body |= {"adapter": adapter, "persona": persona, "conversation": conversation}
        body |= {"reply": reply} if isinstance(reply, str) else {"token_ids": list(reply)}
        return self._one(Personalization, "POST", "/v1/pir", json=body)

    def chat(self, request: ChatRequest) -> Reply:
        """Answer a chat in one piece."""
        completion = self._one(
            Completion, "POST", "/v1/chat/completions", json=request.body(self.model())
        )
        pieces = [choice.message.content or "" for choice in completion.choices[:1]]
        return _reply(completion, pieces)

    def stream_chat(self, request: ChatRequest) -> Iterator[Delta | Reply]:
        """Answer a chat as it is written: deltas, then the whole reply.

        Raises:
            GatewayError: It was refused, the engine failed on the way, or the stream
                ended before its last chunk.
        """
        body = request.body(self.model()) | {"stream": True}
        pieces: list[str] = []
        last: Completion | None = None
        for event in self._http.events("/v1/chat/completions", body):
            chunk = parsed(Completion, event)
            for choice in chunk.choices[:1]:
                if choice.delta.content:
                    pieces.append(choice.delta.content)
                    yield Delta(text=choice.delta.content)
            last = chunk
        # Read to the end first: the gateway logs the chat when its stream has been taken whole.
        if last is None:
            raise _cut_off()
        yield _reply(last, pieces)

    def _one(self, kind: type[R], method: str, path: str, **content: Any) -> R:  # noqa: ANN401
        return parsed(kind, self._http.json(method, path, **content))

    def _list(self, kind: type[R], path: str, **content: Any) -> list[R]:  # noqa: ANN401
        return records_of(kind, self._http.json("GET", path, **content))


def _of(user: str, *parts: str) -> str:
    return "/".join(["/v1/users", *(quote(part, safe="") for part in (user, *parts))])


def _reply(completion: Completion, pieces: Sequence[str]) -> Reply:
    if completion.personalization is None:
        raise _cut_off()
    return Reply(id=completion.id, text="".join(pieces), personalization=completion.personalization)


def _cut_off() -> GatewayError:
    return GatewayError("The reply was cut off before its end. Send the message again.")
