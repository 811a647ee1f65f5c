"""Held-out loss by source, beside an n-gram model trained on the same mix.

The n-gram baseline is Witten-Bell interpolated (nltk), over the same tokens; it is asked
for the same answer tokens, with the tokens before them in the conversation as context.
"""

import math
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from nltk.lm import Vocabulary, WittenBellInterpolated
from transformers import Qwen3ForCausalLM

from perce.prompt import fact_items
from scripts.persona.books import Passages, gutenberg
from scripts.persona.dialogue import Dialogues, PersonaChat, topical_chat
from scripts.persona.example import Example
from scripts.persona.examples import Generator
from scripts.persona.mix import STAGES, Mix
from scripts.persona.tables import load_tables
from scripts.reference.encoding import Encoded, Encoder
from scripts.reference.evaluation import score

_ORDER = 4
_EXAMPLES = 120


@dataclass(frozen=True, slots=True)
class SourceLoss:
    """Nats per answer token of one source; perplexities are their exponentials."""

    tokens: int
    model: float
    without_persona: float
    ngram: float

    def perplexities(self) -> dict[str, float]:
        """The figures as perplexities."""
        return {
            "tokens": self.tokens,
            "model": math.exp(self.model),
            "without_persona": math.exp(self.without_persona),
            "ngram": math.exp(self.ngram),
        }


def held_out_sources(data: Path) -> Mapping[str, list[Example]]:
    """Examples of each source, none of which was trained on."""
    chats = PersonaChat.read(data).held_out
    generator = Generator(load_tables(), "held_out")
    rngs = [random.Random(f"perplexity:{number}") for number in range(_EXAMPLES)]
    passages = Passages(gutenberg(data, held_out=True))
    topical = Dialogues(topical_chat(data, held_out=True))
    return {
        "books": [passages.example(rng, 1000) for rng in rngs],
        "convai2": [Example("dialogue", chat.messages, fact_items(chat.facts)) for chat in chats],
        "topical_chat": [topical.example(rng, 3) for rng in rngs],
        "persona questions": [generator.probe(rng, rng.randint(3, 8)) for rng in rngs],
        "writing as a person": [generator.writing(rng, 3, 4) for rng in rngs],
    }


class NgramBaseline:
    """A 4-gram model of tokens, trained on so many tokens of the last stage's mix."""

    def __init__(self, data: Path, encoder: Encoder, tokens: int, seed: int = 0) -> None:
        texts = list(_limited(data, encoder, tokens, seed))
        self._model = WittenBellInterpolated(
            _ORDER, vocabulary=Vocabulary(token for text in texts for token in text)
        )
        self._model.counts.update(
            [gram for n in range(1, _ORDER + 1) for gram in _grams(text, n)] for text in texts
        )

    def losses(self, example: Encoded) -> list[float]:
        """Nats of each counted token."""
        ids = list(map(str, example.ids))
        return [
            -math.log(self._model.score(ids[at], ids[max(0, at - _ORDER + 1) : at]) or 1e-9)
            for at, weight in enumerate(example.weights)
            if weight
        ]


def source_losses(
    model: Qwen3ForCausalLM, encoder: Encoder, baseline: NgramBaseline, data: Path
) -> dict[str, SourceLoss]:
    """Measure every source."""
    losses = {}
    for name, examples in held_out_sources(data).items():
        encoded = [encoder.example(example) for example in examples]
        bare = [encoder.example(Example(e.kind, e.messages)) for e in examples]
        ngram = [loss for example in encoded for loss in baseline.losses(example)]
        losses[name] = SourceLoss(
            tokens=len(ngram),
            model=_mean_loss(model, encoder, encoded),
            without_persona=_mean_loss(model, encoder, bare),
            ngram=sum(ngram) / len(ngram),
        )
    return losses


def _mean_loss(model: Qwen3ForCausalLM, encoder: Encoder, encoded: Sequence[Encoded]) -> float:
    return -float(torch.cat([score(model, one, encoder.pad) for one in encoded]).mean())


def _limited(data: Path, encoder: Encoder, tokens: int, seed: int) -> Iterator[list[str]]:
    mix = Mix(data, seed)
    seen = 0
    for example in mix.examples(STAGES[-1], 0):
        ids = encoder.example(example).ids
        yield list(map(str, ids))
        seen += len(ids)
        if seen >= tokens:
            return


def _grams(text: Sequence[str], n: int) -> Iterable[tuple[str, ...]]:
    return zip(*(text[start:] for start in range(n)), strict=False)
