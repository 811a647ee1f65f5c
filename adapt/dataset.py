"""A user's history as training and held-out examples.

Each example's persona context is chosen as serving chooses: from texts older than the
example's own, and from the user's facts as they are now, since a fact has no place in the
order of texts. Texts that share a context in training share one whose texts are older than
all of them. Which texts of a stored history are learnt from is `adapt.history`, which of
those are trained on again `adapt.replay`.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from adapt.past import PastFact, PastText
from adapt.replay import Coverage, split_texts
from perce.context import Candidate, select_context
from perce.example import Example, ExampleTooLong, encode
from perce.prompt import ContextItem
from perce.retrieval import Vectors
from perce.shared_prefix_groups import time_groups
from perce.tokens import ChatTokenizer

# As many as `server.context` considers.
_CANDIDATES = 64


@dataclass(frozen=True, slots=True)
class ContextBudget:
    """How large a persona context may get; the same as in serving."""

    tokens: int
    texts: int


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a history becomes a dataset.

    Attributes:
        budget: Size of each example's persona context.
        max_length: Longest example in tokens, reply included.
        group_size: Most training examples that share one context; 1 gives each its own.
        replay_share: Share of texts in training that the version it goes on from has learnt,
            at least 0 and below 1.
        max_texts: Most texts to be learnt from, the newest ones; see `adapt.history`.
        seed: Seeds which texts are replayed and which share a context.
    """

    budget: ContextBudget
    max_length: int
    group_size: int = 1
    replay_share: float = 0.5
    max_texts: int = 2000
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Dataset:
    """Examples, oldest first, and what was left out.

    Attributes:
        coverage: Which texts a version trained on this has learnt.
        fingerprint: SHA-256 over the training examples, in hexadecimal.
        replayed: How many of the training examples the version before had learnt already.
        left_out: How many texts were left out, for each reason of `adapt.curation`.
        trimmed: From how many texts a repeated paragraph was cut.
    """

    train: tuple[Example, ...]
    held_out: tuple[Example, ...]
    coverage: Coverage
    fingerprint: str
    replayed: int = 0
    left_out: dict[str, int] = field(default_factory=dict)
    trimmed: int = 0

    def counts(self) -> dict[str, Any]:
        """What a refresh reports of its data, as JSON; `Coverage.of` finds its part in it."""
        return {
            "train": len(self.train),
            "held_out": len(self.held_out),
            "replayed": self.replayed,
            "trimmed": self.trimmed,
            "left_out": self.left_out,
            "coverage": asdict(self.coverage),
        }

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

        # An older Attune wrote it as well.
        row.pop("trained_position", None)
        noted = row["coverage"]
        return cls(
            **{
                **row,
                "train": examples("train"),
                "held_out": examples("held_out"),
                "coverage": Coverage(noted["newest_id"], tuple(noted["held_out"])),
            }
        )


def build_dataset(
    texts: Sequence[PastText],
    facts: Sequence[PastFact],
    tokenizer: ChatTokenizer,
    budget: ContextBudget,
    max_length: int,
) -> Dataset:
    """Turn texts into examples as they are, without curation and without replay.

    Args:
        texts: All texts of the user, in any order.
        facts: The user's profile facts, oldest first.
        tokenizer: The base model's.
        budget: Size of each example's persona context.
        max_length: Longest example in tokens, reply included.
    """
    return assemble(texts, facts, tokenizer, Recipe(budget, max_length))


def assemble(
    texts: Sequence[PastText],
    facts: Sequence[PastFact],
    tokenizer: ChatTokenizer,
    recipe: Recipe,
    parent: Coverage | None = None,
) -> Dataset:
    """Split texts, and encode what is trained on and what is held out.

    Args:
        texts: Texts of the user, in any order.
        facts: The user's profile facts, oldest first.
        tokenizer: The base model's.
        recipe: How it is done; the number of texts is not looked at.
        parent: What the version has learnt that training goes on from; None for none.
    """
    encoder = _ExampleEncoder(texts, facts, tokenizer, recipe)
    ordered = encoder.ordered
    fitting = [row for row in range(len(ordered)) if encoder.fits(row)]
    split = split_texts(
        [ordered[row].id for row in fitting], parent, recipe.replay_share, recipe.seed
    )
    trained = [fitting[at] for at in split.train]
    held_out = [fitting[at] for at in split.held_out]
    train = tuple(
        example
        for run in time_groups(len(trained), recipe.group_size, seed=recipe.seed)
        for example in encoder.together(trained[run.start : run.stop])
    )
    too_long = len(ordered) - len(fitting)
    return Dataset(
        train,
        tuple(example for row in held_out for example in encoder.together([row])),
        coverage=Coverage(
            max((text.id for text in ordered), default=0),
            tuple(ordered[row].id for row in held_out),
        ),
        fingerprint=fingerprint(train),
        replayed=len(split.replayed),
        left_out={"too_long": too_long} if too_long else {},
    )


def fingerprint(examples: Iterable[Example]) -> str:
    """SHA-256 over examples in their order, in hexadecimal."""
    digest = hashlib.sha256()
    for one in examples:
        for ids in (one.prompt_ids, one.prompt_ids_without, one.reply_ids):
            digest.update(len(ids).to_bytes(4, "little"))
            digest.update(np.asarray(ids, "<i4").tobytes())
    return digest.hexdigest()


class _ExampleEncoder:
    """Encodes the examples of one user, each with a context of facts and older texts."""

    def __init__(
        self,
        texts: Sequence[PastText],
        facts: Sequence[PastFact],
        tokenizer: ChatTokenizer,
        recipe: Recipe,
    ) -> None:
        self._recipe = recipe
        self._tokenizer = tokenizer
        self._count: Callable[[str], int] = cache(tokenizer.count)
        self._facts = facts
        # With those that are too long to be examples: a context may hold them all the same.
        self.ordered = sorted(texts, key=lambda text: (text.position, text.id))
        self._vectors = np.stack([text.vector for text in self.ordered]) if texts else None
        self._bare = self._context(())

    def fits(self, row: int) -> bool:
        """Whether a text makes an example, if need be with facts alone for context."""
        try:
            self._encode(row, self._bare)
        except ExampleTooLong:
            return False
        return True

    def together(self, rows: Sequence[int]) -> list[Example]:
        """Examples of texts, oldest first, with one context for all of them."""
        context = self._context(rows)
        return [self._encode(row, context) for row in rows]

    def _encode(self, row: int, context: Sequence[ContextItem]) -> Example:
        text = self.ordered[row]
        query = [{"role": "user", "content": text.query}]
        return encode(self._tokenizer, query, context, text.text, self._recipe.max_length)

    def _context(self, rows: Sequence[int]) -> list[ContextItem]:
        """Choose as for chats with these queries: from all facts, and texts older than the first.

        For several queries, texts that are near to them on average.
        """
        if not rows or self._vectors is None:
            candidates = self._fact_candidates(None)
        else:
            earlier = rows[0]
            query = np.mean([self.ordered[row].query_vector for row in rows], axis=0)
            candidates = self._fact_candidates(query)
            scores = self._vectors[:earlier] @ query
            # Of equal ones the newest first, as when contexts are chosen.
            nearest = np.lexsort((-np.arange(earlier), -scores))[:_CANDIDATES]
            for row in nearest:
                past = self.ordered[row]
                item = ContextItem("text", past.text, past.query)
                candidates.append(
                    Candidate(f"text:{past.id}", item, float(scores[row]), past.position)
                )
        budget = self._recipe.budget
        chosen = select_context(candidates, budget.tokens, budget.texts, self._count)
        return [candidate.item for candidate in chosen]

    def _fact_candidates(self, query: Vectors | None) -> list[Candidate]:
        """Facts, by their nearness to a query; by their age where there is none."""
        return [
            Candidate(
                f"fact:{number}",
                ContextItem("fact", fact.text),
                0.0 if query is None else float(fact.vector @ query),
                number,
            )
            for number, fact in enumerate(self._facts)
        ]
