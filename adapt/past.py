"""What is known of a user, with the vectors that tell how near a query is to it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from perce.retrieval import Encoder, Vectors, text_of


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


@dataclass(frozen=True, slots=True)
class PastFact:
    """A profile fact with its unit vector [dimensions], which says how near a query is."""

    text: str
    vector: Vectors


def past_texts(texts: Iterable[tuple[int, str, str, float]], encoder: Encoder) -> list[PastText]:
    """Embed a user's texts, each given as its id, query, text and position."""
    rows = list(texts)
    whole = encoder.encode([text_of(query, text) for _, query, text, _ in rows])
    queries = encoder.encode([query for _, query, _, _ in rows])
    return [
        PastText(*row, vector, query_vector)
        for row, vector, query_vector in zip(rows, whole, queries, strict=True)
    ]


def vectors_of(
    texts: Sequence[str], stored: Sequence[bytes | None], size: int, encoder: Encoder
) -> list[Vectors]:
    """Return the vectors of texts: the stored ones, and of the rest new ones.

    Args:
        texts: What was embedded, or is to be.
        stored: The float32 vector of each as the store has it, if it has one.
        size: Of the encoder's vectors; stored ones of another size are another encoder's.
        encoder: Embeds the rest.
    """
    known = [np.frombuffer(vector or b"", np.float32) for vector in stored]
    bare = [row for row, vector in enumerate(known) if vector.size != size]
    made = encoder.encode([texts[row] for row in bare]) if bare else ()
    for row, vector in zip(bare, made, strict=True):
        known[row] = vector
    return known
