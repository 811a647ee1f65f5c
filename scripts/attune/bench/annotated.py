"""Files of replies whose personal words are annotated: a JSON object a line, in UTF-8.

`{"id", "persona": [fact, ...], "question", "answer", "personal": [phrase, ...]}`; every phrase
occurs in the answer, and is annotated wherever it does.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unicodedata import normalize

from perce.errors import AttuneError
from perce.identification import occurrences, words_in
from perce.spans import Span


class UnreadableBenchmark(AttuneError):
    """A line of the benchmark file cannot be used; correct or remove it."""


@dataclass(frozen=True, slots=True)
class AnnotatedReply:
    """One item of the benchmark; `personal` are spans of the annotated phrases.

    Texts are in Unicode's form NFC, to which tokenizers would bring them.
    """

    id: str
    persona: tuple[str, ...]
    question: str
    answer: str
    personal: tuple[Span, ...]


def read_annotated(path: Path, only: str = "") -> list[AnnotatedReply]:
    """Read the items of a benchmark file whose ids start with `only`.

    Raises:
        UnreadableBenchmark: There are no such items, or a line is not as described above.
    """
    items = []
    for number, line in enumerate(path.read_bytes().split(b"\n"), 1):
        if line.strip():
            items.append(_item(f"{path}, line {number}", line))
    if not items:
        raise UnreadableBenchmark(f"{path} holds no items. Give a file with one on each line.")
    chosen = [item for item in items if item.id.startswith(only)]
    if not chosen:
        raise UnreadableBenchmark(
            f"None of the {len(items)} items of {path} has an id that starts with {only!r}. "
            f"Give another start with --only; the first id is {items[0].id!r}."
        )
    return chosen


def _item(where: str, line: bytes) -> AnnotatedReply:
    try:
        record = json.loads(line)
        if not isinstance(record, dict):
            raise ValueError("this is no JSON object")
        answer = _text(record["answer"], "answer")
        return AnnotatedReply(
            id=str(record["id"]),
            persona=_texts(record, "persona"),
            question=_text(record["question"], "question"),
            answer=answer,
            personal=tuple(s for p in _texts(record, "personal") for s in _places(answer, p)),
        )
    except KeyError as error:
        raise UnreadableBenchmark(f"{where}: {error} is missing. Add it.") from error
    except (ValueError, RecursionError) as error:
        reason = f"no JSON ({error})" if isinstance(error, json.JSONDecodeError) else error
        raise UnreadableBenchmark(
            f"{where}: {reason}. Each line must be a JSON object with id, persona, question, "
            "answer and personal phrases that occur in the answer."
        ) from error


def _text(value: object, name: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{name!r} is no text but {json.dumps(value)}")
    value.encode()  # JSON can spell half a character, which no tokenizer takes
    return normalize("NFC", value)


def _texts(record: Mapping[str, Any], name: str) -> tuple[str, ...]:
    if not isinstance(record[name], list):
        raise ValueError(f"{name!r} is no list of texts")
    return tuple(_text(value, name) for value in record[name])


def _places(answer: str, phrase: str) -> list[Span]:
    places = occurrences(answer, phrase)
    if not words_in(answer, places):
        raise ValueError(f"the answer has no words {phrase!r}")
    return places
