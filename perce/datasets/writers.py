"""Users and their texts, split into the past to learn from and the newest to test on.

The users format has a text a line, `{"user", "order", "query", "text"}`; a larger order is
newer. Other fields are ignored.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from perce.datasets.records import Record, UnreadableDataset, read_records, text_of

TEST_SHARE = 0.2


@dataclass(frozen=True, slots=True)
class Written:
    """A text that a user wrote, and the query that it answers."""

    query: str
    text: str


@dataclass(frozen=True, slots=True)
class Writer:
    """A user's texts, oldest first: those to train on, then newer ones to test on."""

    name: str
    train: tuple[Written, ...]
    test: tuple[Written, ...]

    @property
    def size(self) -> int:
        """How many texts there are."""
        return len(self.train) + len(self.test)


def read_users(path: Path, most_texts: int | None = None) -> list[Writer]:
    """Read the users of a file and split each by order, those with most texts first.

    Users with a single text are left out: there is nothing to train on or to test on.

    Args:
        path: A file in the users format.
        most_texts: Take only so many of each user's texts, the newest.

    Raises:
        UnreadableDataset: A line is not in the format, or no user has two texts.
    """
    texts: defaultdict[str, list[tuple[float, Written]]] = defaultdict(list)
    for place, record in read_records(path):
        written = Written(text_of(record, "query", place), text_of(record, "text", place))
        texts[text_of(record, "user", place)].append((_order(record, place), written))
    writers = []
    for name, own in texts.items():
        in_order = [written for _, written in sorted(own, key=lambda item: item[0])]
        if len(in_order) > 1:
            writers.append(split_by_order(name, in_order[-most_texts:] if most_texts else in_order))
    if not writers:
        raise UnreadableDataset(f"No user of {path} has two texts. Give more texts of each user.")
    return sorted(writers, key=lambda writer: (-writer.size, writer.name))


def split_by_order(name: str, texts: Sequence[Written]) -> Writer:
    """Split two or more texts, oldest first: the newest fifth, one at least, tests."""
    tests = max(1, round(len(texts) * TEST_SHARE))
    return Writer(name, tuple(texts[:-tests]), tuple(texts[-tests:]))


def _order(record: Record, place: str) -> float:
    order = record.get("order")
    if isinstance(order, bool) or not isinstance(order, int | float):
        raise UnreadableDataset(f"{place}: 'order' is no number. Give one; larger is newer.")
    return order
