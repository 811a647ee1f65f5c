"""A reply as HTML in which the words that depend on the user stand out.

The text keeps its own line breaks and its full contrast: only the background says how much
a word depends on the user, so that it reads alike on light and dark. Every word carries its
numbers for the tooltip (`ui/tooltip.js`), reachable by pointer and by keyboard.
"""

import math
from collections.abc import Iterator
from html import escape

from ui.records import Contrast, Personalization, PersonalToken, PersonalWord

LEVELS = ((1, 1.0), (2, 2.0), (3, 3.0), (4, 5.0))
"""Each level of highlight and the least PIR (nats) that it shows."""

AGAINST = -1.0
"""A word at or below this PIR (nats) was written in spite of the user."""

BECAUSE = {
    "persona": "the persona in the prompt",
    "adapter": "the adapter",
    "both": "persona and adapter",
}

MOST_TIMES = 1_000_000
SHOWN_TOKENS = 8
MINUS = "\N{MINUS SIGN}"
TIMES = "\N{MULTIPLICATION SIGN}"
DASH = "\N{EN DASH}"


def highlight(text: str, personalization: Personalization) -> str:
    """Write a reply's text as HTML with its words marked by their PIR.

    Args:
        text: The reply; it is escaped.
        personalization: Its words and tokens, whose offsets count characters of `text`.
    """
    return "".join(_pieces(text, personalization))


def summary(personalization: Personalization) -> str:
    """Say in one sentence how many words of a reply depend on the user."""
    words = personalization.words or ()
    if not words:
        return "No words to score."
    personal = sum(word.personal for word in words)
    return f"{personal} of {len(words)} words depend on {BECAUSE[personalization.contrast]}"


def legend(contrast: Contrast) -> str:
    """Explain the highlight's levels for a contrast, as HTML."""
    bounds = [*(str(int(least)) for _, least in LEVELS), ""]
    swatches = [
        f'<mark class="pir pir-{level}">{_range(low, high)}</mark>'
        for (level, _), low, high in zip(LEVELS, bounds[:-1], bounds[1:], strict=True)
    ]
    swatches.append(f'<span class="pir-against">below {MINUS}1</span>')
    return (
        '<div class="legend"><span class="legend-title">PIR, in nats</span>'
        f"{''.join(swatches)}"
        f"<p>How much likelier {BECAUSE[contrast]} made a word. "
        "Above 1 a word is personal; underlined ones were written in spite of it.</p></div>"
    )


def level(word: PersonalWord) -> int:
    """How strongly a word is highlighted: 0 (not at all) to 4."""
    if not word.personal or word.pir is None:
        return 0
    return max((n for n, least in LEVELS if word.pir >= least), default=1)


def _pieces(text: str, personalization: Personalization) -> Iterator[str]:
    done = 0
    for word in personalization.words or ():
        yield escape(text[done : word.start])
        yield _marked(text[word.start : word.end], word, personalization)
        done = word.end
    yield escape(text[done:])


def _marked(text: str, word: PersonalWord, personalization: Personalization) -> str:
    """One word with its highlight and its tooltip."""
    tip = escape(_tip(word, personalization), quote=True)
    if strength := level(word):
        return (
            f'<mark class="pir pir-{strength}" tabindex="0" data-tip="{tip}" '
            f'aria-description="{tip}">{escape(text)}</mark>'
        )
    against = word.pir is not None and word.pir <= AGAINST
    kind = ' class="pir-against" tabindex="0"' if against else ""
    return f'<span{kind} data-tip="{tip}">{escape(text)}</span>'


def _tip(word: PersonalWord, personalization: Personalization) -> str:
    """The numbers of one word, a line each."""
    if word.pir is None:
        return "not scored"
    lines = [f"PIR {_signed(word.pir)}", _times(word.pir, personalization.contrast)]
    inside = [
        token
        for token in personalization.pir or ()
        if token.start < word.end and token.end > word.start
    ]
    lines += [_token_line(token) for token in inside[:SHOWN_TOKENS]]
    return "\n".join(lines)


def _times(pir: float, contrast: Contrast) -> str:
    """How many times likelier or less likely a PIR made a word."""
    factor = min(math.exp(min(abs(pir), 20.0)), MOST_TIMES)
    if factor < 1.05:
        return f"as likely without {BECAUSE[contrast]}"
    size = f"{factor:,.0f}" if factor >= 10 else f"{factor:.1f}"
    return f"{size}{TIMES} {'likelier' if pir > 0 else 'less likely'} with {BECAUSE[contrast]}"


def _token_line(token: PersonalToken) -> str:
    piece = f"“{token.text.strip() or '…'}”"
    if token.pir is None or token.logprob is None or token.logprob_without is None:
        return f"{piece} not scored"
    return (
        f"{piece} {_signed(token.pir)}: "
        f"log P {_signed(token.logprob)} with, {_signed(token.logprob_without)} without"
    )


def _range(low: str, high: str) -> str:
    return f"{low}{DASH}{high}" if high else f"over {low}"


def _signed(value: float) -> str:
    """A number with a true minus sign."""
    return f"{value:.2f}".replace("-", MINUS)
