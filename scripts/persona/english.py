"""Small repairs of generated English: articles, capitals, points of view."""

import re

# Not before vowels that sound like consonants: one, university, used, European, USA.
_CONSONANT_SOUNDS = (
    r"(?i:one(?:ness)?\b|once\b|uni(?![dmn])|us[aeu]|eu|ur[aiou]|u[ks]a?\b|ut[eo]|uku)"
)
_ARTICLE = re.compile(rf"\b([Aa]) (?!{_CONSONANT_SOUNDS})(?=(?i:[aeiou]))")
_QUESTION_FLIPS = ((r"\byour\b", "my"), (r"\bYour\b", "My"))
_ANSWER_FLIPS = (
    (r"\bI am\b", "you are"),
    (r"\bI'm\b", "you're"),
    (r"\bI was\b", "you were"),
    (r"\bI wasn't\b", "you weren't"),
    (r"\bam I\b", "are you"),
    (r"\bwas I\b", "were you"),
    (r"\bI\b", "you"),
    (r"\bmy\b", "your"),
    (r"\bMy\b", "Your"),
    (r"\bme\b", "you"),
    (r"\bmine\b", "yours"),
    (r"\bmyself\b", "yourself"),
)


def sentence(text: str) -> str:
    """Put "an" before vowels and a capital at the start."""
    text = _ARTICLE.sub(r"\1n ", text)
    return text[:1].upper() + text[1:]


def lower_first(text: str) -> str:
    """Make the first letter small, except in "I" and words in capitals."""
    if text[:2] in ("I ", "I'") or text[1:2].isupper():
        return text
    return text[:1].lower() + text[1:]


def speaks_of_user(question: str) -> str | None:
    """Ask "your …" as a user asks about themself; None where a flip reads badly."""
    if not re.search(r"\byour\b", question) or re.search(r"\b[Yy]ou\b", question):
        return None
    return _replace(question, _QUESTION_FLIPS)


def to_second_person(answer: str) -> str:
    """Turn an answer from the first into the second person."""
    return sentence(_replace(answer, _ANSWER_FLIPS))


def _replace(text: str, rules: tuple[tuple[str, str], ...]) -> str:
    for pattern, new in rules:
        text = re.sub(pattern, new, text)
    return text
