"""What the gateway answers, as typed records.

Fields that a newer gateway adds are kept (`extra="allow"`), so that a record printed as
JSON holds everything that was sent. Requests are built in `ui.gateway`.
"""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

Contrast = Literal["persona", "adapter", "both"]
Method = Literal["perce", "ce"]
Stage = Literal["dataset", "train", "gate", "publish", "warm", "activate", "drain"]

FINISHED = frozenset({"succeeded", "failed"})


class Record(BaseModel):
    """One object of an answer."""

    model_config = ConfigDict(extra="allow", frozen=True)


class Ready(Record):
    """The gateway's word that its engine is ready."""

    model: str


class Page(Record):
    """A list in OpenAI's shape."""

    data: tuple[dict[str, Any], ...]


class User(Record):
    """One person, and how much is kept of them."""

    name: str
    created_at: str
    consent: bool
    facts: int
    texts: int
    adapter: str | None = None
    key: str | None = None
    """Only in the answer that created the user."""


class Fact(Record):
    """One sentence about the user."""

    id: int | str
    text: str
    created_at: str


class Text(Record):
    """One text that the user wrote, or endorsed, and what it answered."""

    id: int | str
    query: str
    text: str
    time: str | None = None
    source: str | None = None


class BadLine(Record):
    """One line of an import that was not kept."""

    line: int
    reason: str


class Import(Record):
    """What became of the lines of an import."""

    imported: int
    duplicates: int
    errors: tuple[BadLine, ...] = ()


class ContextItem(Record):
    """One fact or earlier text in a prompt; texts carry their similarity to the query."""

    id: int | str
    kind: Literal["fact", "text"]
    text: str
    score: float | None = None


class PersonalToken(Record):
    """One reply token with its log-probabilities (nats) on both sides of the contrast."""

    token_id: int
    text: str
    start: int
    end: int
    logprob: float | None
    logprob_without: float | None
    pir: float | None
    personal: bool


class PersonalWord(Record):
    """One reply word, its characters `start` to `end`, and its PIR (nats)."""

    text: str
    start: int
    end: int
    pir: float | None
    personal: bool


class Personalization(Record):
    """How a reply was personalized, and which of its words depend on the user."""

    user: str
    adapter: str | None = None
    context: tuple[ContextItem, ...] = ()
    pir: tuple[PersonalToken, ...] | None = None
    words: tuple[PersonalWord, ...] | None = None
    contrast: Contrast = "persona"


class Content(Record):
    """The text of a message, whole or the piece that a chunk adds."""

    content: str | None = None


class Choice(Record):
    """One of a completion's answers; `message` in whole ones, `delta` in chunks."""

    message: Content = Content()
    delta: Content = Content()


class Completion(Record):
    """A chat completion, or a chunk of a streamed one, as the gateway sends it."""

    id: str
    choices: tuple[Choice, ...]
    personalization: Personalization | None = None


class Reply(Record):
    """A finished reply to a chat."""

    id: str
    text: str
    personalization: Personalization


class Delta(Record):
    """A piece of a reply that is still being written."""

    text: str


class Version(Record):
    """One immutable adapter version."""

    version: str
    name: str
    state: Literal["candidate", "active", "retired", "rejected"]
    parent: str | None = None
    method: str | None = None
    created_at: str
    reason: str | None = None
    metrics: dict[str, object] | None = None


class Versions(Record):
    """All adapter versions of a user."""

    active: str | None = None
    data: tuple[Version, ...] = ()


class Progress(Record):
    """How many of its steps a stage has done."""

    step: int
    steps: int


class Losses(Record):
    """Mean negative log-likelihood per held-out token (nats) of each contender."""

    base: float | None = None
    incumbent: float | None = None
    candidate: float | None = None


class Refresh(Record):
    """One run of training, gating and publishing for a user."""

    id: str
    user: str
    method: str
    status: Literal["queued", "running", "succeeded", "failed"]
    stage: str | None = None
    progress: Progress | None = None
    verdict: Literal["publish", "reject"] | None = None
    reason: str | None = None
    adapter: str | None = None
    held_out_loss: Losses | None = None
    personal_loss: Losses | None = None
    seconds: float | None = None
    error: str | None = None
    created_at: str
    finished_at: str | None = None

    @property
    def finished(self) -> bool:
        """Whether nothing more will happen to this refresh."""
        return self.status in FINISHED


class Schedule(Record):
    """When due users are refreshed."""

    cron: str
    timezone: str
    paused: bool
    next_run: str | None = None
    min_new_texts: int
