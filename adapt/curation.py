"""Which of a user's stored texts are learnt from; each one left out has a counted reason.

Stored is only what the user wrote or endorsed, and all of it is data: nothing in a text is
obeyed, and no text is trusted to be one. A text is left out if it cannot teach how the user
writes: a copy, a wall of base64, a single word, or what the model itself says. Of a paragraph
that the user pastes again and again only the oldest copy stays. Whether texts are another
person's cannot be known from them; that is the gate's to find out.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal, Self

from adapt.duplicates import NearDuplicates
from adapt.language import Flaw, flaw, words
from adapt.voice import ModelVoice
from perce.tokens import ChatTokenizer
from server.store.tables.people import UserText
from server.store.text import is_storable

Reason = (
    Flaw
    | Literal[
        "empty",
        "broken_characters",
        "duplicate",
        "near_duplicate",
        "boilerplate",
        "model_voice",
        "too_long",
        "too_old",
    ]
)
_IN_WORDS: dict[Reason, str] = {
    "empty": "empty",
    "broken_characters": "with broken characters",
    "duplicate": "duplicate",
    "near_duplicate": "near duplicate",
    "boilerplate": "boilerplate",
    "model_voice": "in the model's own voice",
    "one_word": "of one word",
    "emoji_only": "of emoji only",
    "not_language": "without natural language",
    "repetitive": "repeating itself",
    "too_long": "over the length limit",
    "too_old": "older than the newest ones taken",
}
# A paragraph is boilerplate if it is this long and in this many texts: shorter ones, such as
# a greeting or a closing line, are how a person writes.
_BOILERPLATE_CHARS = 50
_BOILERPLATE_TEXTS = 3
# No language comes near so many characters a token: such a text is too long unseen.
_CHARS_PER_TOKEN = 16


@dataclass(frozen=True, slots=True)
class StoredText:
    """A text of the user as the store has it.

    Attributes:
        source: `import`, `liked` or `edited`.
        since: When the user had it at the latest; None where that is not known.
        embedding: The stored float32 vector of query and text, if there is one.
    """

    id: int
    query: str
    text: str
    position: float
    source: str = "import"
    since: datetime | None = None
    embedding: bytes | None = None

    @classmethod
    def of(cls, row: UserText) -> Self:
        """Read a row of the store."""
        since = min(row.time or row.created_at, row.created_at)
        return cls(row.id, row.query, row.text, row.position, row.source, since, row.embedding)


@dataclass(frozen=True, slots=True)
class Curated:
    """What is learnt from, oldest first, and what is not.

    Attributes:
        left_out: How many texts were left out, for each reason.
        trimmed: From how many of `texts` a repeated paragraph was cut.
    """

    texts: tuple[StoredText, ...]
    left_out: dict[str, int]
    trimmed: int


def curate(
    texts: Iterable[StoredText],
    voice: ModelVoice,
    tokenizer: ChatTokenizer,
    max_length: int,
    max_texts: int,
) -> Curated:
    """Choose the texts to learn from.

    Of texts that are alike the oldest stays: an earlier version may have learnt it, and a
    newer copy would be held out against it.

    Args:
        texts: All texts of the user, in any order.
        voice: What the model said to the user.
        tokenizer: The base model's.
        max_length: Longest text in tokens.
        max_texts: Most texts to be learnt from; older ones are left out.
    """
    left_out: Counter[str] = Counter()
    whole = []
    seen: set[str] = set()
    for text in sorted(texts, key=lambda one: (one.position, one.id)):
        reason = _first_reason(text, seen, voice, tokenizer, max_length)
        if reason is None:
            whole.append(text)
        else:
            left_out[reason] += 1
    kept = []
    unlike = NearDuplicates()
    for before, text in zip(whole, _without_boilerplate(whole), strict=True):
        found = words(text.text)
        if before is not text and flaw(text.text, found) is not None:
            left_out["boilerplate"] += 1
        elif unlike.add(found):
            left_out["near_duplicate"] += 1
        else:
            kept.append((text, before is not text))
    if len(kept) > max_texts:
        left_out["too_old"] += len(kept) - max_texts
        kept = kept[-max_texts:]
    return Curated(
        tuple(text for text, _ in kept),
        dict(sorted(left_out.items())),
        sum(cut for _, cut in kept),
    )


def explain(left_out: Mapping[str, int]) -> str:
    """Say in words what was left out, most first; empty if nothing was."""
    rows = sorted(left_out.items(), key=lambda row: (-row[1], row[0]))
    named: Mapping[str, str] = {str(reason): in_words for reason, in_words in _IN_WORDS.items()}
    return ", ".join(f"{count} {named.get(reason, reason)}" for reason, count in rows)


def _first_reason(
    text: StoredText,
    seen: set[str],
    voice: ModelVoice,
    tokenizer: ChatTokenizer,
    max_length: int,
) -> Reason | None:
    """Why a text is left out by itself or as a copy; `seen` holds the words of those before.

    The cheap questions come first: one text ten thousand times is read once.
    """
    if not is_storable(text.query) or not is_storable(text.text):
        return "broken_characters"
    if not text.text.strip():
        return "empty"
    if len(text.text) + len(text.query) > max_length * _CHARS_PER_TOKEN:
        return "too_long"
    found = words(text.text)
    key = " ".join(found) or text.text
    if key in seen:
        return "duplicate"
    seen.add(key)
    if voice.spoke(text.text, text.source, text.since):
        return "model_voice"
    wrong = flaw(text.text, found)
    if wrong is not None:
        return wrong
    # A token has a byte at least, so most texts need no counting.
    if len(text.text.encode()) > max_length and tokenizer.count(text.text) > max_length:
        return "too_long"
    return None


def _without_boilerplate(texts: Sequence[StoredText]) -> list[StoredText]:
    """The texts with each repeated paragraph left in its oldest text alone.

    A paragraph is a line. Those without one come back as the same objects.
    """
    paragraphs = [[(line, _boilerplate_key(line)) for line in t.text.split("\n")] for t in texts]
    counts = Counter(
        key for lines in paragraphs for key in {key for _, key in lines} if key is not None
    )
    repeated = {key for key, count in counts.items() if count >= _BOILERPLATE_TEXTS}
    placed: set[str] = set()
    cut = []
    for text, lines in zip(texts, paragraphs, strict=True):
        left = [line for line, key in lines if key not in repeated or key not in placed]
        placed.update(key for _, key in lines if key is not None)
        same = len(left) == len(lines)
        cut.append(text if same else replace(text, text="\n".join(left).strip(), embedding=None))
    return cut


def _boilerplate_key(line: str) -> str | None:
    """What identifies a paragraph that may be boilerplate; None for a short one."""
    if len(line) < _BOILERPLATE_CHARS:
        return None
    key = " ".join(words(line))
    return key if len(key) >= _BOILERPLATE_CHARS else None
