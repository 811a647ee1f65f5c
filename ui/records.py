"""What the gateway answers, as typed records.

What a refresh tells of its training is in `ui.training`, a chat completion in OpenAI's shape
in `ui.completion`. Requests are built in `ui.gateway`.
"""

from typing import Literal

from pydantic import Field

from ui.answer import Record
from ui.training import Examples, Progress, Report, Training

Contrast = Literal["persona", "adapter", "both"]
Method = Literal["perce", "ce"]
Stage = Literal["dataset", "train", "gate", "publish", "warm", "activate"]

FINISHED = frozenset({"succeeded", "failed", "cancelled"})

SHARED = "population@"
"""What the name of a version of all begins with."""


class Ready(Record):
    """The gateway's word that its engine is ready."""

    model: str


class User(Record):
    """One person, and how much is kept of them."""

    name: str
    created_at: str
    consent: bool
    shares: bool = False
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


class Cut(Record):
    """What a scored prompt went without, oldest first, so that it fits the model."""

    items: int
    tokens: int


class Personalization(Record):
    """How a reply was personalized, and which of its words depend on the user."""

    user: str
    adapter: str | None = None
    context: tuple[ContextItem, ...] = ()
    pir: tuple[PersonalToken, ...] | None = None
    words: tuple[PersonalWord, ...] | None = None
    contrast: Contrast = "persona"
    cut: Cut | None = None

    @property
    def choice(self) -> str:
        """The adapter as a request names it; a version of all has no name there but `active`."""
        if self.adapter is None:
            return "none"
        return "active" if self.adapter.startswith(SHARED) else self.adapter


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
    state: Literal["candidate", "active", "retired", "erased", "rejected", "withdrawn"]
    parent: str | None = None
    method: str | None = None
    created_at: str
    reason: str | None = None
    metrics: dict[str, object] | None = None


class Versions(Record):
    """All adapter versions of a user."""

    active: str | None = None
    answers: str | None = None
    """The version that answers: the active one, or the population's for want of one."""
    data: tuple[Version, ...] = ()


class Finding(Record):
    """One thing that is wrong with the adapters on disk, and what to do about it."""

    problem: str
    user: str
    version: str
    path: str
    detail: str
    advice: str
    repaired: bool = False


class Verification(Record):
    """A check of adapters: of one user, or of a page of all users."""

    users: int
    versions: int
    findings: tuple[Finding, ...] = ()
    next: int | None = None
    """Where the next page starts; None at the end."""


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
    status: Literal["queued", "running", "succeeded", "failed", "cancelled"]
    cancel_requested: bool = False
    stage: str | None = None
    progress: Progress | None = None
    verdict: Literal["publish", "reject"] | None = None
    reason: str | None = None
    adapter: str | None = None
    held_out_loss: Losses | None = None
    personal_loss: Losses | None = None
    report: Report | None = None
    seconds: float | None = None
    error: str | None = None
    created_at: str
    finished_at: str | None = None

    @property
    def finished(self) -> bool:
        """Whether nothing more will happen to this refresh."""
        return self.status in FINISHED

    @property
    def examples(self) -> Examples | None:
        """What it learnt from, once that is known."""
        return self.report.examples if self.report else None

    @property
    def training(self) -> Training | None:
        """How its training went, once it has ended."""
        return self.report.training if self.report else None


class Plan(Record):
    """What a round's plan came to: numbers of due users, and seconds."""

    created_at: str
    window_until: str | None = None
    due: int
    planned: int
    carried_over: int
    fleets: int
    expected_s: float
    measured_on: int = 0
    states: dict[str, int] = Field(default_factory=dict)


class PlanEntry(Record):
    """One due user in a plan."""

    rank: int
    user: str
    fleet: int | None = None
    expected_s: float
    state: str


class WrittenPlan(Plan):
    """A plan with the first of its entries."""

    entries: tuple[PlanEntry, ...] = ()


class Schedule(Record):
    """When due users are refreshed, and who is due."""

    cron: str
    timezone: str
    paused: bool
    next_run: str | None = None
    min_new_texts: int
    quiet_minutes: float = 60.0
    min_gap_hours: float = 8.0
    window_hours: float = 0.0
    online: bool = False
    online_per_hour: int = 20
    last_plan: Plan | None = None


class Round(Record):
    """A round that was started: its plan once written, and the first refreshes that it opened."""

    run: str
    plan: Plan | None = None
    data: tuple[Refresh, ...] = ()
