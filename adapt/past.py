"""What is known of a user, with the vectors that tell how near a query is to it."""

from collections.abc import Iterable
from dataclasses import dataclass

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


def past_facts(facts: Iterable[str], encoder: Encoder) -> list[PastFact]:
    """Embed a user's facts, oldest first."""
    texts = list(facts)
    vectors = encoder.encode(texts) if texts else ()
    return [PastFact(text, vector) for text, vector in zip(texts, vectors, strict=True)]


def past_texts(texts: Iterable[tuple[int, str, str, float]], encoder: Encoder) -> list[PastText]:
    """Embed a user's texts, each given as its id, query, text and position."""
    rows = list(texts)
    whole = encoder.encode([text_of(query, text) for _, query, text, _ in rows])
    queries = encoder.encode([query for _, query, _, _ in rows])
    return [
        PastText(*row, vector, query_vector)
        for row, vector, query_vector in zip(rows, whole, queries, strict=True)
    ]
