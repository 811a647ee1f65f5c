"""Finding the personal words of a reply, and how well it was done.

After PerContrast, section 2.2: given a persona, a question and an answer whose personal
words are annotated, a method identifies tokens. An identified token is right if it lies in an
annotated word (precision counts tokens); an annotated word is found if a token in it was
identified (recall counts words). AUROC compares scores of annotated and other words.

Here are the measure, word matching and what PIR identifies. PIR itself is
`perce.contrasting`, the judge `perce.judge`.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress

from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS
from sklearn.metrics import roc_auc_score

from perce.errors import AttuneError
from perce.pir import PERSONAL_THRESHOLD, TokenPIR
from perce.spans import Span

_WORD = re.compile(r"[^\W_]+(?:['\u2019][^\W_]+)*")
_STRAIGHT = str.maketrans("\u2018\u2019\u201c\u201d", "''\"\"")


class OneKindOfWord(AttuneError):
    """All words are annotated, or none is; take more replies, since AUROC compares both."""


@dataclass(frozen=True, slots=True)
class Identified:
    """What a method found in one reply.

    Attributes:
        tokens: Spans of the tokens it calls personal.
        words: Each word's span and score; higher is more personal.
    """

    tokens: tuple[Span, ...]
    words: tuple[tuple[Span, float], ...]


@dataclass(frozen=True, slots=True)
class Identification:
    """How well personal words were identified over a set of replies.

    Attributes:
        precision: Share of identified tokens that lie in an annotated word; 0 if none was.
        recall: Share of annotated words in which a token was identified.
        f1: Harmonic mean of both.
        auroc: Probability that an annotated word scores above another word, ties being half.
    """

    precision: float
    recall: float
    f1: float
    auroc: float


def word_spans(text: str) -> list[Span]:
    """Spans of the words of a text: letters and digits, with apostrophes inside."""
    return [match.span() for match in _WORD.finditer(text)]


def words_in(text: str, spans: Sequence[Span]) -> list[Span]:
    """The words of a text that overlap any of some spans."""
    return [word for word in word_spans(text) if _overlaps_any(word, spans)]


def occurrences(text: str, phrase: str) -> list[Span]:
    """Where a phrase occurs in a text.

    Whole words go before parts of words ("art" in "I start with art" is the last word), and
    the same case before another; curly and straight quotes are the same. A blank phrase
    occurs nowhere.
    """
    text, phrase = text.translate(_STRAIGHT), phrase.strip().translate(_STRAIGHT)
    if not phrase:
        return []
    part = re.escape(phrase)
    whole = rf"(?<!\w){part}(?!\w)"
    for pattern in (whole, rf"(?i:{whole})", part, rf"(?i:{part})"):
        if spans := [match.span() for match in re.finditer(pattern, text)]:
            return spans
    return []


def match_words(persona: Sequence[str], reply: str) -> Identified:
    """Identify the content words of a reply that occur in the persona (word matching)."""
    known = {text[a:b].lower() for text in persona for a, b in word_spans(text)}
    scored = []
    for start, end in word_spans(reply):
        word = reply[start:end].lower()
        scored.append(((start, end), float(word in known and not _is_function_word(word))))
    return Identified(tuple(span for span, score in scored if score), tuple(scored))


def by_pir(reply: str, tokens: Sequence[TokenPIR]) -> Identified:
    """Identify the personal tokens of a reply (PerContrast).

    A word's score is the sum of the PIR of its tokens, those that share a character with
    it. Tokens of nothing but punctuation, symbols or space are never identified: what is
    annotated is words.
    """
    return _by_tokens(reply, tokens, [t.pir for t in tokens])


def by_surprise(reply: str, tokens: Sequence[TokenPIR]) -> Identified:
    """Identify the tokens that are unlikely without the user's context, whoever the user is.

    A control: personal words are rarer than others, so surprise alone, -log P without
    context, finds many of them. Words and tokens are scored as in `by_pir`.
    """
    return _by_tokens(reply, tokens, [-t.logprob_without for t in tokens])


def _by_tokens(reply: str, tokens: Sequence[TokenPIR], scores: Sequence[float]) -> Identified:
    words = []
    for start, end in word_spans(reply):
        of_word = (max(t.start, start) < min(t.end, end) for t in tokens)
        words.append(((start, end), sum(compress(scores, of_word), 0.0)))
    identified = [
        (t.start, t.end)
        for t, score in zip(tokens, scores, strict=True)
        if score > PERSONAL_THRESHOLD and _WORD.search(reply, t.start, t.end)
    ]
    return Identified(tuple(identified), tuple(words))


def measure(
    replies: Sequence[str], annotated: Sequence[Sequence[Span]], found: Sequence[Identified]
) -> Identification:
    """Compare what was found with what is annotated, counted over all replies.

    Args:
        replies: K replies.
        annotated: For each, the spans of its annotated phrases.
        found: For each, what the method found.

    Raises:
        OneKindOfWord: No word is annotated, or every word is.
    """
    right = identified = recovered = wanted = 0
    labels: list[bool] = []
    scores: list[float] = []
    for reply, spans, own in zip(replies, annotated, found, strict=True):
        words = words_in(reply, spans)
        right += sum(_overlaps_any(token, words) for token in own.tokens)
        identified += len(own.tokens)
        recovered += sum(_overlaps_any(word, own.tokens) for word in words)
        wanted += len(words)
        labels += [_overlaps_any(span, words) for span, _ in own.words]
        scores += [score for _, score in own.words]
    if len(set(labels)) < 2:
        raise OneKindOfWord(
            f"Of {len(labels)} words, {sum(labels)} are annotated as personal, and AUROC needs "
            "both kinds. Take more replies, some with and some without personal words."
        )
    precision = right / identified if identified else 0.0
    recall = recovered / wanted
    both = precision + recall
    return Identification(
        precision=precision,
        recall=recall,
        f1=2 * precision * recall / both if both else 0.0,
        auroc=float(roc_auc_score(labels, scores)),
    )


def _is_function_word(word: str) -> bool:
    """Whether a word says nothing by itself; contractions such as "I'm" and "don't" too."""
    word = word.translate(_STRAIGHT)
    return word.split("'")[0] in ENGLISH_STOP_WORDS or word.endswith("n't")


def _overlaps_any(span: Span, others: Sequence[Span]) -> bool:
    return any(max(span[0], a) < min(span[1], b) for a, b in others)
