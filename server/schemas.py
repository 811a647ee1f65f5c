"""Requests that the gateway takes, as pydantic models.

Chat requests keep every field that they do not name: it goes to the engine untouched.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from perce.pir import Contrast
from server.refreshes import Method
from server.store.tables.base import ID_BOUND
from server.store.text import UNSTORABLE, is_storable

After = Annotated[int, Field(ge=0, lt=ID_BOUND)]
"""The id or rank behind which a page begins; 0 for the first page."""
PageSize = Annotated[int, Field(ge=1, le=1000)]
"""How many a page holds at most."""


class Sent(BaseModel):
    """Anything that clients send: its texts can be stored and sent on."""

    @field_validator("*")
    @classmethod
    def _is_storable(cls, value: object) -> object:
        if isinstance(value, str) and not is_storable(value):
            raise ValueError(f"it has {UNSTORABLE}")
        return value


class Strict(Sent):
    """A request of ours: a field that it does not know is an error, not a silent typo."""

    model_config = ConfigDict(extra="forbid")


class Personalization(Strict):
    """How a chat is personalized: the extension of OpenAI's request."""

    persona: bool = True
    adapter: str = "active"
    pir: bool = False
    contrast: Contrast = "persona"
    conversation: str | None = Field(None, max_length=256)
    refresh_context: bool = False


# A list's first bad entry is told and no more are looked for: a body has room for a million.
_Objects = Annotated[list[dict[str, Any]], Field(fail_fast=True)]


class ChatMessage(Sent):
    """One message of a chat; tool calls and the like are kept."""

    model_config = ConfigDict(extra="allow")

    role: str = Field(max_length=64)
    content: str | _Objects | None = None

    @model_validator(mode="after")
    def _can_be_rendered(self) -> Self:
        """Chat templates, and what prepares messages for them, take this for granted."""
        for part in self.content if isinstance(self.content, list) else ():
            if part.get("type") == "text" and not isinstance(part.get("text"), str):
                raise ValueError("a part of type 'text' needs a 'text'")
        calls = (self.model_extra or {}).get("tool_calls")
        if calls is None:
            return self
        if not isinstance(calls, list) or not all(map(_is_call, calls)):
            raise ValueError("tool_calls is a list of objects, each with an object 'function'")
        return self


def _is_call(call: object) -> bool:
    return isinstance(call, dict) and isinstance(call.get("function"), dict)


_MAX_MESSAGES = 10_000
_Messages = Annotated[list[ChatMessage], Field(max_length=_MAX_MESSAGES, fail_fast=True)]


def message_texts(messages: Sequence[ChatMessage]) -> list[Any]:
    """Return all of messages that may hold text: contents, names, tool calls and the like."""
    fields = ((m.content, *(m.model_extra or {}).values()) for m in messages)
    return [value for message in fields for value in message]


def plain_messages(messages: Sequence[ChatMessage]) -> list[dict[str, Any]]:
    """Return messages as they were sent, `developer` under its older name `system`.

    Chat templates know the older name alone; vLLM renames it in the same way. A system message
    without content is an empty one, to which the persona can be added.
    """
    sent = [message.model_dump(exclude_unset=True) for message in messages]
    return [_as_system(m) if m["role"] in ("system", "developer") else m for m in sent]


def _as_system(message: dict[str, Any]) -> dict[str, Any]:
    return {**message, "role": "system", "content": message.get("content") or ""}


ENGINES_OWN = frozenset(
    {
        "ec_transfer_params",
        "kv_transfer_params",
        "priority",
        "request_id",
        "session_id",
        "vllm_xargs",
    }
)
"""Fields by which vLLM's operators, and no clients, steer it: they are not passed on.

A request id would become the reply's, which must be like no other; a priority puts one user
before all others; the rest speaks to other engines and to plugins.
"""


_UNFOLLOWED = {
    "add_generation_prompt": True,
    "add_special_tokens": False,
    "chat_template": None,
    "continue_final_message": False,
    "documents": None,
    "echo": False,
    "truncate_prompt_tokens": None,
}
"""Fields of vLLM's that change how messages become a prompt, and their usual values."""


class ChatRequest(Sent):
    """OpenAI's chat request with our extension."""

    model_config = ConfigDict(extra="allow")

    model: str | None = None
    messages: _Messages = Field(min_length=1)
    user: str | None = None
    stream: bool = False
    store: bool = True
    logprobs: bool = False
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    tools: _Objects | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    reasoning_effort: str | None = None
    personalization: Personalization = Personalization()

    @model_validator(mode="after")
    def _keeps_to_the_template(self) -> Self:
        for name, usual in _UNFOLLOWED.items():
            if (self.model_extra or {}).get(name) not in (None, usual):
                raise ValueError(
                    f"{name} makes a prompt that training and PIR could not follow: leave it out"
                )
        return self

    def template_options(self) -> dict[str, Any]:
        """Return what the chat template is told, the effort among it as vLLM tells it."""
        options = dict(self.chat_template_kwargs or {})
        if self.reasoning_effort is not None:
            options["reasoning_effort"] = self.reasoning_effort
            options.setdefault("enable_thinking", self.reasoning_effort != "none")
        return options


class CompletionRequest(Sent):
    """OpenAI's completion request; it passes to the engine with the user's adapter."""

    model_config = ConfigDict(extra="allow")

    model: str | None = None
    prompt: str | list[Any]
    user: str | None = None
    stream: bool = False
    personalization: Personalization = Personalization()


class EmbeddingRequest(Sent):
    """OpenAI's embedding request, answered by the encoder that retrieval uses.

    It takes as many texts at once as OpenAI's.
    """

    input: str | Annotated[list[str], Field(max_length=2048, fail_fast=True)]
    model: str | None = None
    user: str | None = None
    encoding_format: Literal["float", "base64"] = "float"


# Tokenizers count in 32 bits, and without a sign.
_TokenId = Annotated[int, Field(ge=0, lt=2**32)]


class PirRequest(Strict):
    """A reply to be scored: which of its words depend on the user?"""

    user: str | None = None
    query: str | None = None
    messages: _Messages | None = None
    reply: str | None = None
    token_ids: Annotated[list[_TokenId], Field(fail_fast=True)] | None = None
    contrast: Contrast = "persona"
    adapter: str = "active"
    persona: bool = True
    conversation: str | None = Field(None, max_length=256)


class FeedbackRequest(Strict):
    """What the user thinks of a reply: liked, disliked, or as it should have been."""

    id: str
    feedback: Literal["up", "down"] | None = None
    edited: str | None = None
    user: str | None = None


class UserRequest(Strict):
    """A user to be added."""

    name: str
    consent: bool = True
    shares: bool = False


class UserChange(Strict):
    """What a user allows from now on; what is left out, or null, stays."""

    consent: bool | None = None
    shares: bool | None = None


class KeyRequest(Strict):
    """A key to be made: for a service, or anew for a user."""

    role: Literal["service", "user"]
    user: str | None = None


class FactRequest(Strict):
    """A fact to be remembered."""

    text: str = Field(max_length=2000)


class RollbackRequest(Strict):
    """Where to roll back to: a version, `none` for no own one, null for the one before."""

    to: str | None = None


class VerifyRequest(Strict):
    """Which adapters to check: one user's, or a page of all users', behind `after`."""

    user: str | None = None
    after: After = 0
    repair: bool = False


class RefreshRequest(Strict):
    """How to refresh: with the PerCE loss, or with plain cross-entropy as its control."""

    method: Method = "perce"


class ScheduleRequest(Strict):
    """Changes of the schedule; what is left out stays."""

    cron: str | None = None
    timezone: str | None = None
    paused: bool | None = None
    min_new_texts: int | None = None
    quiet_minutes: float | None = None
    min_gap_hours: float | None = None
    window_hours: float | None = None
    online: bool | None = None
    online_per_hour: int | None = None
