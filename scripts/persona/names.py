"""Invented names: words that no list contains, so that they can only be copied."""

import random

_ONSETS = (*"bcdfghjklmnprstvwz", "br", "ch", "dr", "gl", "kr", "sh", "st", "tr")
_VOWELS = ("a", "e", "i", "o", "u", "ee", "oo", "ai", "ia")
_CODAS = ("", "", "n", "r", "l", "s", "m", "x", "nd", "rt", "ck", "th")


def invented_name(rng: random.Random) -> str:
    """Make up a pronounceable name."""
    parts = rng.choice((1, 2, 2, 2, 3))
    word = "".join(rng.choice(_ONSETS) + rng.choice(_VOWELS) for _ in range(parts))
    return (word + rng.choice(_CODAS)).capitalize()
