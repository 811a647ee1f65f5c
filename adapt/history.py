"""From a user's stored history to a dataset: curated, embedded, free of control words.

Prompt injections in it are data like the rest, and cannot become more: no text opens or
closes a message, in whichever prompt it ends up.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

from sqlalchemy.orm import Session

from adapt.curation import StoredText, curate, explain
from adapt.dataset import Dataset, Recipe, assemble
from adapt.errors import NothingToLearnError
from adapt.past import PastFact, PastText, vectors_of
from adapt.replay import Coverage
from adapt.voice import ModelVoice
from perce.retrieval import Encoder, text_of
from perce.tokens import ChatTokenizer
from server.store import memory
from server.store.memory import LoggedReply
from server.store.tables.people import Fact, User


@dataclass(frozen=True, slots=True)
class StoredFact:
    """A fact about the user as the store has it, with its float32 vector if there is one."""

    text: str
    embedding: bytes | None = None

    @classmethod
    def of(cls, row: Fact) -> Self:
        """Read a row of the store."""
        return cls(row.text, row.embedding)


@dataclass(frozen=True, slots=True)
class History:
    """What the store knows of a user: texts, facts, and what the model replied."""

    texts: Sequence[StoredText]
    facts: Sequence[StoredFact]
    replies: Sequence[LoggedReply] = ()

    @classmethod
    def of(cls, session: Session, user: User) -> Self:
        """Read what is stored of a user; the texts last, so that a turn may be taken before."""
        facts = [StoredFact.of(fact) for fact in memory.facts(session, user)]
        replies = memory.logged_replies(session, user)
        return cls([StoredText.of(text) for text in memory.texts(session, user)], facts, replies)


def learn_from(
    history: History,
    encoder: Encoder,
    tokenizer: ChatTokenizer,
    recipe: Recipe,
    parent: Coverage | None = None,
) -> Dataset:
    """Turn a user's stored history into examples.

    Args:
        history: What is known of the user.
        encoder: Embeds what has no vector yet.
        tokenizer: The base model's.
        recipe: How the dataset is made.
        parent: What the version has learnt that training goes on from; None for none.

    Raises:
        NothingToLearnError: No text is left to train on; the message says what became of them.
    """
    curated = curate(
        history.texts, ModelVoice(history.replies), tokenizer, recipe.max_length, recipe.max_texts
    )
    past = _past_texts(curated.texts, encoder, tokenizer)
    # Without texts there are no examples, and no use for facts.
    facts = _past_facts(history.facts, past[0].vector.size, encoder, tokenizer) if past else []
    built = assemble(past, facts, tokenizer, recipe, parent)
    left_out = dict(curated.left_out)
    for reason, count in built.left_out.items():
        left_out[reason] = left_out.get(reason, 0) + count
    if not built.train:
        raise NothingToLearnError(
            f"Of {len(history.texts)} texts {len(built.held_out)} can be learnt from, which is "
            f"too few (left out: {explain(left_out) or 'none'}): import more, in the user's own "
            f"words and of at most {recipe.max_length} tokens with their query."
        )
    return replace(
        built,
        left_out=left_out,
        trimmed=curated.trimmed,
        # What was left out was seen too: to the next version it is not new.
        coverage=replace(built.coverage, newest_id=max(text.id for text in history.texts)),
    )


def _past_texts(
    texts: Sequence[StoredText], encoder: Encoder, tokenizer: ChatTokenizer
) -> list[PastText]:
    """Give texts their vectors, and disarm control words."""
    if not texts:
        return []
    queries = encoder.encode([text.query for text in texts])
    vectors = vectors_of(
        [text_of(text.query, text.text) for text in texts],
        [text.embedding for text in texts],
        queries.shape[1],
        encoder,
    )
    return [
        PastText(
            text.id,
            tokenizer.pulled_apart(text.query),
            tokenizer.pulled_apart(text.text),
            text.position,
            vector,
            query,
        )
        for text, vector, query in zip(texts, vectors, queries, strict=True)
    ]


def _past_facts(
    facts: Sequence[StoredFact], size: int, encoder: Encoder, tokenizer: ChatTokenizer
) -> list[PastFact]:
    """Give facts their vectors, and disarm control words."""
    texts = [_repaired(fact.text) for fact in facts]
    vectors = vectors_of(texts, [fact.embedding for fact in facts], size, encoder)
    return [
        PastFact(tokenizer.pulled_apart(text), vector)
        for text, vector in zip(texts, vectors, strict=True)
    ]


def _repaired(fact: str) -> str:
    """A fact without what cannot be tokenized; texts with such characters are left out."""
    return fact.encode(errors="replace").decode().replace("\0", " ")
