"""Generated texts against references: ROUGE-1, ROUGE-L and METEOR, as LaMP and LongLaMP do.

ROUGE by rouge-score: F1, no stemming. METEOR by nltk with its defaults (alpha 0.9, beta 3,
gamma 0.5; exact, stem and WordNet synonym matches). LongLaMP splits texts for METEOR with
nltk's `word_tokenize`, whose trained sentence splitter is a download; here the same splitter
works untrained, so that a period behind an abbreviation may become a token of its own.

An empty text scores zero; a mean is plain, over all texts. Losses are `perce.evaluate`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from statistics import fmean

from nltk.tokenize import NLTKWordTokenizer
from nltk.tokenize.punkt import PunktSentenceTokenizer
from nltk.translate.meteor_score import single_meteor_score
from rouge_score.rouge_scorer import (  # type: ignore[import-untyped]  # ships no types
    RougeScorer,
)

from perce.errors import AttuneError
from perce.wordnet import wordnet


class NothingToScore(AttuneError):
    """There are no texts to score; generate some, and give each its reference."""


@dataclass(frozen=True, slots=True)
class TextScores:
    """Scores between 0 and 1, of one text or the mean of several."""

    rouge1: float
    rougeL: float
    meteor: float


def score_text(prediction: str, reference: str) -> TextScores:
    """Score a generated text against what the user really wrote.

    Raises:
        NoWordNet: METEOR's data is not installed.
    """
    rouge = _rouge_scorer().score(target=reference, prediction=prediction)
    return TextScores(
        rouge1=rouge["rouge1"].fmeasure,
        rougeL=rouge["rougeL"].fmeasure,
        meteor=meteor(prediction, reference),
    )


def mean_scores(scores: Sequence[TextScores]) -> TextScores:
    """The plain mean of each score.

    Raises:
        NothingToScore: There are none.
    """
    if not scores:
        raise NothingToScore("There are no texts to score. Generate some first.")
    return TextScores(
        rouge1=fmean(one.rouge1 for one in scores),
        rougeL=fmean(one.rougeL for one in scores),
        meteor=fmean(one.meteor for one in scores),
    )


def meteor(prediction: str, reference: str) -> float:
    """METEOR of one text (Lavie and Agarwal 2007), as nltk computes it.

    Raises:
        NoWordNet: Its data is not installed.
    """
    return float(single_meteor_score(words(reference), words(prediction), wordnet=wordnet()))


def words(text: str) -> list[str]:
    """Split a text into sentences and those into words and marks, in the Treebank's way."""
    tokenizer = NLTKWordTokenizer()
    sentences: list[str] = PunktSentenceTokenizer().tokenize(text)
    return [word for sentence in sentences for word in tokenizer.tokenize(sentence)]


@cache
def _rouge_scorer() -> RougeScorer:
    return RougeScorer(["rouge1", "rougeL"], use_stemmer=False)
