"""Replies on a terminal, with the words that depend on the user coloured by their PIR."""

import unicodedata

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ui.records import Personalization
from ui.words import AGAINST, level, summary

STYLES = ("", "yellow", "bold yellow", "bold dark_orange", "bold black on orange1")
AGAINST_STYLE = "underline"
RANGES = ("", " 1-2 ", " 2-3 ", " 3-5 ", " over 5 ")


def printable(text: str) -> str:
    """Text without control characters, which could steer the terminal; newlines stay."""
    return "".join(c for c in text if c in "\n\t" or unicodedata.category(c) != "Cc")


def plain(text: object) -> Text:
    """Anything from outside, as text that rich takes literally."""
    return Text(printable(str(text)))


def coloured(text: str, personalization: Personalization) -> Text:
    """A reply with its words coloured; offsets count the characters of `text`."""
    pieces = Text()
    done = 0
    for word in personalization.words or ():
        pieces.append(printable(text[done : word.start]))
        against = word.pir is not None and word.pir <= AGAINST
        style = STYLES[level(word)] or (AGAINST_STYLE if against else "")
        pieces.append(printable(text[word.start : word.end]), style=style)
        done = word.end
    return pieces.append(printable(text[done:]))


def scored_reply(text: str, personalization: Personalization) -> RenderableType:
    """A coloured reply, and a legend under it."""
    key = Text(f"{summary(personalization)}   PIR ", style="dim")
    for style, span in zip(STYLES[1:], RANGES[1:], strict=True):
        key.append(span, style=style)
    key.append(" below -1 ", style=AGAINST_STYLE)
    return Group(coloured(text, personalization), Text(), key)


def word_table(personalization: Personalization) -> Table:
    """All words that depend on the user, strongest first."""
    table = Table(box=None, header_style="dim")
    table.add_column("Word")
    table.add_column("PIR", justify="right")
    personal = [word for word in personalization.words or () if word.personal]
    for word in sorted(personal, key=lambda word: -(word.pir or 0.0)):
        table.add_row(Text(printable(word.text), style=STYLES[level(word)]), f"{word.pir:.2f}")
    return table
