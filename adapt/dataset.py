"""A user's history as training and held-out examples.

Each example's persona context holds only items older than itself, chosen as serving
chooses. The oldest 80 % train and the newest 20 %, three at least, gate. Which texts count
as the user's own is decided where they are stored.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from perce.context import Candidate, select_context
from perce.example import Example, ExampleTooLong, encode
from perce.prompt import ContextItem
from perce.retrieval import Encoder, Vectors
from perce.tokens import ChatTokenizer

HELD_OUT_SHARE = 0.2
# A bootstrap over fewer texts says nothing.
MIN_HELD_OUT = 3


@dataclass(frozen=True, slots=True)
class PastText:
    """A text of the user with unit vectors [dimensions] of the whole and of its query alone.

    At serving time there is a query and no text yet, so it is the query's vector that finds
    earlier texts.
    """

    id: int
    query: str
    text: str
    position: float
    vector: Vectors
    query_vector: Vectors


def past_texts(texts: Iterable[tuple[int, str, str, float]], encoder: Encoder) -> list[PastText]:
    """Embed a user's texts, each given as its id, query, text and position."""
    rows = list(texts)
    whole = encoder.encode([f"{query}\n{text}" for _, query, text, _ in rows])
    queries = encoder.encode([query for _, query, _, _ in rows])
    return [
        PastText(*row, vector, query_vector)
        for row, vector, query_vector in zip(rows, whole, queries, strict=True)
    ]


@dataclass(frozen=True, slots=True)
class ContextBudget:
    """How large a persona context may get; the same as in serving."""

    tokens: int
    texts: int


@dataclass(frozen=True, slots=True)
class Dataset:
    """Examples, oldest first, and what was left out.

    Attributes:
        trained_position: Position of the newest text that was seen: newer ones are new.
        too_long: Texts left out because they exceed the length limit even without context.
    """

    train: tuple[Example, ...]
    held_out: tuple[Example, ...]
    trained_position: float
    too_long: int

    def save(self, file: Path) -> None:
        """Write the dataset, so that later steps of a refresh see the same examples."""
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(asdict(self)))

    @classmethod
    def load(cls, file: Path) -> "Dataset":
        """Read what `save` wrote."""
        row = json.loads(file.read_text())

        def examples(name: str) -> tuple[Example, ...]:
            return tuple(
                Example(
                    tuple(one["prompt_ids"]),
                    tuple(one["prompt_ids_without"]),
                    tuple(one["reply_ids"]),
                    one["dropped_texts"],
                )
                for one in row[name]
            )

        return cls(
            examples("train"), examples("held_out"), row["trained_position"], row["too_long"]
        )


def build_dataset(
    texts: Sequence[PastText],
    facts: Sequence[str],
    tokenizer: ChatTokenizer,
    budget: ContextBudget,
    max_length: int,
) -> Dataset:
    """Turn a user's texts into examples.

    Args:
        texts: All texts of the user, in any order.
        facts: The user's profile facts.
        tokenizer: The base model's.
        budget: Size of each example's persona context.
        max_length: Longest example in tokens, reply included.
    """
    ordered = sorted(texts, key=lambda text: (text.position, text.id))
    examples, too_long = [], 0
    for index, text in enumerate(ordered):
        context = _context(text, ordered[:index], facts, tokenizer, budget)
        query = [{"role": "user", "content": text.query}]
        try:
            examples.append(encode(tokenizer, query, context, text.text, max_length))
        except ExampleTooLong:
            too_long += 1
    held_out = max(MIN_HELD_OUT, round(len(examples) * HELD_OUT_SHARE))
    split = max(0, len(examples) - held_out)
    newest = ordered[-1].position if ordered else 0.0
    return Dataset(tuple(examples[:split]), tuple(examples[split:]), newest, too_long)


def _context(
    text: PastText,
    earlier: Sequence[PastText],
    facts: Sequence[str],
    tokenizer: ChatTokenizer,
    budget: ContextBudget,
) -> list[ContextItem]:
    """Choose what a chat with this query would have seen when the text was written."""
    candidates = [
        Candidate(f"fact:{i}", ContextItem("fact", fact), 0.0, i) for i, fact in enumerate(facts)
    ]
    candidates += [
        Candidate(
            f"text:{past.id}",
            ContextItem("text", past.text, past.query),
            float(np.dot(past.vector, text.query_vector)),
            past.position,
        )
        for past in earlier
    ]
    chosen = select_context(candidates, budget.tokens, budget.texts, tokenizer.count)
    return [candidate.item for candidate in chosen]
