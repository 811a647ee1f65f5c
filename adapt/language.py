"""Whether a text is something that a person wrote in a language, and which words it has.

Simple counts over characters and words, for any script; no language is preferred and none
is recognized. What is done with the answers is `adapt.curation`.
"""

import math
import unicodedata
from collections import Counter
from itertools import pairwise
from typing import Literal

Flaw = Literal["emoji_only", "one_word", "not_language", "repetitive"]

# Scripts that put no spaces between words: each character counts as half a word.
_UNSPACED = ("CJK", "HIRAGANA", "KATAKANA", "BOPOMOFO", "THAI", "LAO", "KHMER", "MYANMAR")
# Joined to the word around them, as in "don't".
_APOSTROPHES = "'\u2019\u02bc"
_MIN_WORDS = 2.0
# Base64 comes in lines of 64 or 76 characters, hashes in 32 and more; words end long before.
_LONG_RUN = 32
_MAX_LONG_RUNS = 0.5
_MIN_LETTERS = 0.5
# Bits per character. Prose has 4.1 to 4.7, source code up to 5.3, base64 nearly 6; of fewer
# characters than this an entropy says little.
_MAX_ENTROPY = 5.5
_ENTROPY_CHARS = 200
# Share of different ones among a text's word triples, in a text of so many words.
_MIN_NEW_TRIPLES = 0.25
_REPETITION_WORDS = 20


class _WordSplitting(dict[int, str | None]):
    """A table for `str.translate`: words between spaces, and what is in no word gone.

    Filled as characters are met: categories of a million code points are not looked up.
    """

    def __missing__(self, code: int) -> str | None:
        character = chr(code)
        category = unicodedata.category(character)
        found: str | None = " "
        if category == "Cf" or character in _APOSTROPHES:
            found = None
        elif _is_unspaced(character):
            found = f" {character} "
        elif category[0] in "LMN":
            found = character
        self[code] = found
        return found


_SPLITTING = _WordSplitting()


def words(text: str) -> list[str]:
    """The words of a text, without case and punctuation.

    Characters of scripts without spaces are words of their own. Texts with the same words
    are the same but for case, spaces, punctuation, and invisible characters.
    """
    return unicodedata.normalize("NFKC", text).casefold().translate(_SPLITTING).split()


def flaw(text: str, found: list[str]) -> Flaw | None:
    """Say why nothing about a person's language can be learnt from a text, or None.

    Args:
        text: The text.
        found: Its `words`.
    """
    counts = Counter(text)
    kinds = {character: unicodedata.category(character) for character in counts}
    if not any(kind[0] in "LN" for kind in kinds.values()):
        return "emoji_only" if "So" in kinds.values() else "not_language"
    # Before the number of words: a wall of base64 is one word, and the wall is what matters.
    if _letter_share(counts, kinds) < _MIN_LETTERS or _is_wall(text, counts):
        return "not_language"
    if _size(found) < _MIN_WORDS:
        return "one_word"
    if len(found) >= _REPETITION_WORDS and _new_triples(found) < _MIN_NEW_TRIPLES:
        return "repetitive"
    return None


def _is_unspaced(character: str) -> bool:
    return unicodedata.name(character, "").startswith(_UNSPACED)


def _size(found: list[str]) -> float:
    return sum(0.5 if len(word) == 1 and _is_unspaced(word) else 1.0 for word in found)


def _letter_share(counts: Counter[str], kinds: dict[str, str]) -> float:
    """Share of letters among what is neither space nor picture nor invisible."""
    letters = sum(n for c, n in counts.items() if kinds[c][0] in "LM")
    others = sum(n for c, n in counts.items() if kinds[c][0] in "NP" or kinds[c] in ("Sm", "Sc"))
    others += sum(n for c, n in counts.items() if kinds[c] == "Cc" and not c.isspace())
    return letters / max(1, letters + others)


def _is_wall(text: str, counts: Counter[str]) -> bool:
    """Whether it is data and not words: long ASCII runs without space, or too even a mix."""
    if not text.isascii() and sum(n for c, n in counts.items() if c < "\x80") < 0.9 * len(text):
        return False
    runs = text.split()
    long = sum(len(run) for run in runs if len(run) >= _LONG_RUN and run.isascii())
    if long > _MAX_LONG_RUNS * sum(map(len, runs)):
        return True
    return len(text) >= _ENTROPY_CHARS and _entropy(counts, len(text)) > _MAX_ENTROPY


def _entropy(counts: Counter[str], total: int) -> float:
    return -sum(n / total * math.log2(n / total) for n in counts.values())


def _new_triples(found: list[str]) -> float:
    triples = [(*first, second[1]) for first, second in pairwise(pairwise(found))]
    return len(set(triples)) / len(triples)
