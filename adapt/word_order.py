"""Are the words of the texts that were learnt from in an order at all?

An adapter of shuffled words lowers the loss on its user's real texts as well, for it knows
which words the user likes. What gives it away is the texts: the base model finds words in
their order likelier than the same words shuffled, unless they had been shuffled before.
"""

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from perce.bootstrap import percentile_interval, resampled_ratio
from perce.evaluate import ExampleLoss
from perce.example import Example
from perce.tokens import ChatTokenizer

# Scripts that put no spaces between words have longer runs without one.
_LONGEST_MEAN_WORD = 20


@dataclass(frozen=True, slots=True)
class OrderLosses:
    """The base model's losses on texts, and on the same texts with their words shuffled."""

    ordered: Sequence[ExampleLoss]
    shuffled: Sequence[ExampleLoss]


@dataclass(frozen=True, slots=True)
class WordOrder:
    """How much likelier than shuffled ones the words of texts are in their order.

    Attributes:
        gain: Loss of the shuffled texts minus that of the texts, in nats per token.
        low: Lower end of its confidence interval.
        high: Upper end.
    """

    gain: float
    low: float
    high: float


def word_order(
    losses: OrderLosses, *, confidence: float = 0.95, n: int = 2000, seed: int = 0
) -> WordOrder:
    """Compare texts with their shuffled copies by a paired bootstrap over texts.

    Args:
        losses: Of K texts; a copy may have another number of tokens than its text.
        confidence: Coverage of the interval.
        n: Resamples, each of K texts with replacement.
        seed: Seeds the resampling.
    """
    (ordered_K, tokens_K), (shuffled_K, copies_K) = (
        (
            np.array([one.token_losses.sum() for one in side]),
            np.array([one.token_losses.size for one in side]),
        )
        for side in (losses.ordered, losses.shuffled)
    )
    draws_nK = np.random.default_rng(seed).integers(len(tokens_K), size=(n, len(tokens_K)))
    gains_n = resampled_ratio(shuffled_K, copies_K, draws_nK)
    gains_n -= resampled_ratio(ordered_K, tokens_K, draws_nK)
    low, high = percentile_interval(gains_n, confidence)
    gain = shuffled_K.sum() / copies_K.sum() - ordered_K.sum() / tokens_K.sum()
    return WordOrder(float(gain), low, high)


def shuffle_words(example: Example, tokenizer: ChatTokenizer, seed: int) -> Example:
    """The same prompt, answered with the reply's words in an order that the seed decides.

    Spaces and line ends stay where they are, so that nothing but the order of the words tells
    the two apart. In scripts without spaces, characters take the place of words.
    """
    *ids, end = example.reply_ids
    text = tokenizer.decode(ids)
    parts = re.split(r"(\s+)", text)
    if len(text) > _LONGEST_MEAN_WORD * max(1, len(text.split())):
        parts = list(text)
    places = [place for place, part in enumerate(parts) if part.strip()]
    words = [parts[place] for place in places]
    random.Random(seed).shuffle(words)
    for place, word in zip(places, words, strict=True):
        parts[place] = word
    return replace(example, reply_ids=(*tokenizer.reply_ids("".join(parts)), end))
