"""What a refresh tells of its training: how far it is, what it learnt from and how it went.

The refresh itself and what its gate measured are in `ui.records`.
"""

from pydantic import Field

from ui.answer import Record


class Progress(Record):
    """How many of its steps a stage has done, how fast, and how long the rest takes."""

    step: int
    steps: int
    tokens_per_s: float | None = None
    seconds_left: float | None = None


class Examples(Record):
    """What a refresh learnt from: numbers of texts, and why others were left out."""

    train: int
    held_out: int
    replayed: int = 0
    left_out: dict[str, int] = Field(default_factory=dict)
    left_out_in_words: str = ""


class Training(Record):
    """How a training run went; losses in nats per token."""

    steps: int
    tokens: int
    seconds: float
    first_loss: float
    last_loss: float


class Report(Record):
    """What a refresh measured, as far as it got."""

    examples: Examples | None = None
    training: Training | None = None
