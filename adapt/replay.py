"""What a refresh trains on when it goes on from an earlier version, and what it is judged on.

The version it goes on from has learnt some texts. Texts that it has not are new; of the
others a share is replayed, so that a refresh neither forgets nor starts all over.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

HELD_OUT_SHARE = 0.2
# A bootstrap over fewer texts says nothing.
MIN_HELD_OUT = 3
# So many texts make two dozen optimizer steps in three epochs; with less, replay fills up.
MIN_TRAINED = 32


@dataclass(frozen=True, slots=True)
class Coverage:
    """Which of a user's texts a version has learnt, or could have: all but the held-out ones.

    Attributes:
        newest_id: Highest id of a text that was there when its dataset was built. Ids and not
            positions, because a user may bring in old texts late.
        held_out: Ids of the texts that it was judged on instead.
    """

    newest_id: int
    held_out: tuple[int, ...]

    def __contains__(self, text_id: int) -> bool:
        return text_id <= self.newest_id and text_id not in self.held_out

    @classmethod
    def of(cls, metrics: Mapping[str, Any]) -> Self | None:
        """Read the coverage from a version's metrics; None for one that did not note it."""
        noted = metrics.get("examples", {}).get("coverage")
        return None if noted is None else cls(noted["newest_id"], tuple(noted["held_out"]))


@dataclass(frozen=True, slots=True)
class Split:
    """Indices of a user's texts, oldest first: trained on, replayed among those, held out."""

    train: tuple[int, ...]
    replayed: frozenset[int]
    held_out: tuple[int, ...]


def split_texts(ids: Sequence[int], parent: Coverage | None, share: float, seed: int) -> Split:
    """Choose what to train on and what to hold out.

    Held out are the newest 20 %, three at least, of what the parent has not learnt: judged
    on what it had learnt, it would win against any candidate. Trained on is the rest of what
    it has not learnt, and a sample of what it has.

    Args:
        ids: Ids of the user's texts, oldest first.
        parent: What the version has learnt that training goes on from; None for none.
        share: Share of replayed texts in what is trained on, at least 0 and below 1.
        seed: Seeds the sample.
    """
    wanted = max(MIN_HELD_OUT, round(len(ids) * HELD_OUT_SHARE))
    rows = range(len(ids))
    new = [row for row in rows if parent is None or ids[row] not in parent]
    # Texts that were forgotten may have left fewer than three: then the newest of all are taken.
    held_out = new[-wanted:] if len(new) >= MIN_HELD_OUT else list(rows[-wanted:])
    fresh = _without(new, held_out)
    old = _without(rows, [*new, *held_out])
    mixed = round(len(fresh) * share / (1 - share))
    replayed = _newest_biased(old, max(mixed, MIN_TRAINED - len(fresh)), seed)
    return Split(tuple(sorted([*fresh, *replayed])), frozenset(replayed), tuple(held_out))


def _newest_biased(rows: Sequence[int], most: int, seed: int) -> list[int]:
    """Draw rows without putting back; the odds rise from the oldest to the newest.

    The weight of the i-th oldest is i, so that a text from the middle of the history comes
    up half as often as the newest.
    """
    if len(rows) <= most:
        return list(rows)
    weights = np.arange(1, len(rows) + 1, dtype=float)
    draw = np.random.default_rng(seed)
    drawn = draw.choice(len(rows), most, replace=False, p=weights / weights.sum())
    return [rows[at] for at in sorted(drawn)]


def _without(rows: Sequence[int], taken: Sequence[int]) -> list[int]:
    gone = set(taken)
    return [row for row in rows if row not in gone]
