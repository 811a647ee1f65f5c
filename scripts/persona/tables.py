"""The tables behind the corpus: values, facts with their questions, voices, subjects.

All tables are plain text or JSON in `lexicon/`; their formats are described in the tables
themselves. Values and phrasings are divided here, once, between training and evaluation:
what is held out never occurs in training text.
"""

import json
import re
import zlib
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Split = Literal["train", "held_out"]

TABLES = Path(__file__).parent / "lexicon"
_HELD_OUT_ONE_IN = 10
_CLOSED_CLASS = 25
"""Lists shorter than this (days, months, seasons, …) are whole in both splits."""


class TableError(ValueError):
    """A table has a line that cannot be read."""


@dataclass(slots=True)
class Attribute:
    """One thing that can be known about a person.

    Attributes:
        name: Its name in the table.
        slots: Slot letter to the list it draws from; empty for attributes made of rows.
        columns: Slot letters of the rows, in their order; empty for drawn slots.
        rows: Slot values that belong together, one mapping a row; empty for drawn slots.
        facts: Ways to state it.
        questions: Ways to ask for it; they never contain its values.
        answers: Ways to answer.
        checks: Ways to ask whether it has a given value `x`.
        writing: Sentences that mention it in passing in a longer text.
        key: Slots whose values a right answer contains.
        group: Attributes of one group could answer each other's questions; a person has one.
    """

    name: str
    slots: dict[str, str] = field(default_factory=dict)
    columns: tuple[str, ...] = ()
    rows: list[dict[str, str]] = field(default_factory=list)
    facts: list[str] = field(default_factory=list)
    questions: list[str] = field(default_factory=list)
    answers: list[str] = field(default_factory=list)
    checks: list[str] = field(default_factory=list)
    writing: list[str] = field(default_factory=list)
    key: tuple[str, ...] = ()
    group: str = ""

    def phrasings(self, kind: Literal["facts", "questions"], split: Split) -> list[str]:
        """The last phrasing of each kind is held out where there are enough of them."""
        every = self.facts if kind == "facts" else self.questions
        if len(every) < 3:
            return every
        return every[:-1] if split == "train" else every[-1:]


@dataclass(slots=True)
class Category:
    """A kind of subject to write about, with the sentences that fit it."""

    name: str
    subjects: list[str] = field(default_factory=list)
    queries: list[str] = field(default_factory=list)
    openings: list[str] = field(default_factory=list)
    praise: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    happy_ends: list[str] = field(default_factory=list)
    unhappy_ends: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Exchange:
    """Things said, and answers each of which fits all of them."""

    said: list[str] = field(default_factory=list)
    answers: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class VoiceTable:
    """The habits that voices are composed of."""

    words: Mapping[str, Sequence[str]]
    spelling: Sequence[tuple[tuple[str, str], ...]]


@dataclass(frozen=True, slots=True)
class Tables:
    """Everything the generator draws from.

    Attributes:
        attributes: What people tell of themselves, in many and often roundabout phrasings.
        plain: The same as strangers on a chat site put it: short, with direct answers.
    """

    lists: Mapping[str, Sequence[str]]
    attributes: Sequence[Attribute]
    plain: Sequence[Attribute]
    categories: Sequence[Category]
    unknown: Sequence[str]
    introductions: Sequence[str]
    leads: Sequence[str]
    small_talk: Mapping[str, Exchange]
    voices: VoiceTable

    def values(self, name: str, split: Split) -> Sequence[str]:
        """The values of one list that belong to a split."""
        return divide(self.lists[name], split)


def divide(values: Sequence[str], split: Split) -> Sequence[str]:
    """Keep the values of a split: one in ten is held out, by a hash of its text."""
    if len(values) < _CLOSED_CLASS:
        return values
    wanted = split == "held_out"
    return [v for v in values if (zlib.crc32(v.encode()) % _HELD_OUT_ONE_IN == 0) == wanted]


def load_tables(folder: Path = TABLES) -> Tables:
    """Read all tables.

    Raises:
        TableError: A line cannot be read.
    """
    voices = json.loads((folder / "voices.json").read_text(encoding="utf-8"))
    spelling = [tuple((a, b) for a, b in rules) for rules in voices.pop("spelling")]
    attributes, plain = (_read_attributes(folder / name) for name in ("attributes", "plain"))
    _keep_apart([*attributes, *plain])
    return Tables(
        lists=_read_lists(sorted((folder / "lists").glob("*.txt"))),
        attributes=attributes,
        plain=plain,
        categories=_read_categories(folder / "subjects.txt"),
        unknown=read_lines(folder / "unknown.txt"),
        introductions=read_lines(folder / "introductions.txt"),
        leads=read_lines(folder / "leads.txt"),
        small_talk=_read_small_talk(folder / "small_talk.txt"),
        voices=VoiceTable(voices, spelling),
    )


def read_lines(path: Path) -> list[str]:
    """The lines of a table that say something: neither empty nor beginning with "#"."""
    lines = (line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def _read_lists(paths: Iterable[Path]) -> dict[str, Sequence[str]]:
    lists: dict[str, list[str]] = {}
    for line in (line for path in paths for line in read_lines(path)):
        if line.startswith("= "):
            values = lists.setdefault(line[2:], [])
        else:
            values.extend(v for v in line.split(", ") if v not in values)
    return dict(lists)


def _read_attributes(folder: Path) -> list[Attribute]:
    paths = sorted(folder.glob("*.txt"))
    return [attribute for path in paths for attribute in _attributes_of(path)]


def _attributes_of(path: Path) -> list[Attribute]:
    attributes: list[Attribute] = []
    for line in read_lines(path):
        mark, _, rest = line.partition(" ")
        if mark == "@":
            name, *slots = rest.split()
            drawn = dict(slot.split("=") for slot in slots if "=" in slot)
            columns = tuple(slot for slot in slots if "=" not in slot)
            attributes.append(Attribute(name, drawn, columns, key=tuple(drawn)))
            continue
        now = attributes[-1]
        match mark:
            case "F":
                now.facts.append(rest)
            case "Q":
                now.questions.append(rest)
            case "A":
                now.answers.append(rest)
            case "C":
                now.checks.append(rest)
            case "W":
                now.writing.append(rest)
            case "G":
                now.group = rest
            case "K":
                now.key = tuple(rest.split())
            case "R":
                now.rows.append(dict(zip(now.columns, rest.split(" | "), strict=True)))
            case _:
                raise TableError(f"{path.name}: cannot read {line!r}; begin it with @FQACWGKR.")
    return attributes


def _keep_apart(attributes: Sequence[Attribute]) -> None:
    """Take out of training what another attribute holds out."""
    stated = {bare(line) for a in attributes for line in a.phrasings("facts", "held_out")}
    asked = {bare(line) for a in attributes for line in a.phrasings("questions", "held_out")}
    for attribute in attributes:
        attribute.facts = _trained_on(attribute.facts, stated)
        attribute.questions = _trained_on(attribute.questions, asked)


def _trained_on(lines: Sequence[str], held_out: Container[str]) -> list[str]:
    """Phrasings without those that are held out elsewhere; the last one is held out here."""
    return [line for line in lines if line is lines[-1] or bare(line) not in held_out]


def bare(text: str) -> str:
    """A text's words alone, in small letters: what two alike phrasings have in common."""
    return " ".join(re.findall(r"\w+", text.lower()))


def _read_categories(path: Path) -> list[Category]:
    categories: list[Category] = []
    for line in read_lines(path):
        mark, _, rest = line.partition(" ")
        if mark == "=":
            categories.append(Category(rest))
            continue
        now = categories[-1]
        match mark:
            case "S":
                now.subjects.extend(rest.split("; "))
            case "Q":
                now.queries.append(rest)
            case "I":
                now.openings.append(rest)
            case "P":
                now.praise.append(rest)
            case "N":
                now.complaints.append(rest)
            case "E" if rest.endswith(" +"):
                now.happy_ends.append(rest[:-2])
            case "E" if rest.endswith(" -"):
                now.unhappy_ends.append(rest[:-2])
            case _:
                raise TableError(f"{path.name}: cannot read {line!r}; begin it with =SQIPNE.")
    return categories


def _read_small_talk(path: Path) -> dict[str, Exchange]:
    exchanges: dict[str, Exchange] = {}
    for line in read_lines(path):
        mark, _, rest = line.partition(" ")
        if mark == "=":
            now = exchanges[rest] = Exchange()
            continue
        match mark:
            case "Q":
                now.said.append(rest)
            case "A":
                now.answers.append(rest)
            case _:
                raise TableError(f"{path.name}: cannot read {line!r}; begin it with =QA.")
    return exchanges
