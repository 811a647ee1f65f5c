"""How fast refreshes go: measured on recent ones, so that a plan knows what a window holds."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from server.store.tables.refreshes import Refresh

# As many as a median needs to be steady; old ones may be of other hardware or settings.
RECENT = 50
# So many texts are trained on, if there are: what is new may be too little for a few steps.
_AT_LEAST = 32


@dataclass(frozen=True, slots=True)
class Pace:
    """What a refresh of a user takes.

    The defaults are those of the packaged model on one core, where a refresh over 38 texts
    trained on 50,118 tokens in 45 s and took 15 s beside that.

    Attributes:
        tokens_per_s: Training tokens a second.
        tokens_per_text: Training tokens per text that is trained on, over all epochs and with
            the texts' persona contexts.
        overhead_s: Seconds that are not training: dataset, gate, publication.
        replay_share: Share of the texts in training that an earlier version has learnt.
        measured_on: How many recent refreshes the numbers come from; 0 for the defaults.
    """

    tokens_per_s: float = 1100.0
    tokens_per_text: float = 1300.0
    overhead_s: float = 15.0
    replay_share: float = 0.5
    measured_on: int = 0

    def seconds(self, new_texts: int, text_count: int) -> float:
        """Return how long a refresh of a user with so many texts is expected to take.

        All new texts are trained on, and replayed ones beside them as far as there are any.
        """
        wanted = max(new_texts / (1 - self.replay_share), _AT_LEAST)
        texts = min(wanted, text_count)
        return self.overhead_s + texts * self.tokens_per_text / self.tokens_per_s


def measure(session: Session, replay_share: float = 0.5) -> Pace:
    """Return the medians of the most recent refreshes that trained to their end."""
    rows = session.execute(
        select(Refresh.report, Refresh.tokens_per_s, Refresh.started_at, Refresh.finished_at)
        .where(Refresh.status == "succeeded", Refresh.finished_at.is_not(None))
        .order_by(Refresh.finished_at.desc())
        .limit(RECENT)
    )
    runs = [
        run
        for report, rate, started, finished in rows
        if started is not None
        and (run := _run(report, rate, (finished - started).total_seconds())) is not None
    ]
    if not runs:
        return Pace(replay_share=replay_share)
    rate, per_text, overhead = (median(values) for values in zip(*runs, strict=True))
    return Pace(rate, per_text, overhead, replay_share, measured_on=len(runs))


def _run(report: dict[str, Any], rate: float | None, seconds: float) -> Sequence[float] | None:
    """Return tokens a second, tokens per text and overhead of one refresh; None if unknown."""
    training, examples = report.get("training", {}), report.get("examples", {})
    tokens, trained_s = training.get("tokens", 0), training.get("seconds", 0.0)
    texts = examples.get("train", 0)
    if tokens <= 0 or trained_s <= 0 or texts <= 0:
        return None
    return rate or tokens / trained_s, tokens / texts, max(seconds - trained_s, 0.0)
