"""Which characters of a text each token stands for.

Tokenizers decode whole sequences, not tokens: a character may take several byte tokens, one
token may end a character and start the next, and some decoders treat a text's first token
differently. So tokens are placed by decoding a growing window, like vLLM's detokenizer. A
window starts at tokens already placed and is cut as soon as its text ends with a whole
character, which makes the work linear in the text's length.
"""

from collections.abc import Callable, Sequence

Span = tuple[int, int]
"""First character and one past the last."""

_REPLACEMENT = "\ufffd"
_LONGEST_OPEN_RUN = 16
"""Tokens that may wait for a character to end before `_settled` looks for a cut."""


def token_spans(ids: Sequence[int], decode: Callable[[Sequence[int]], str]) -> list[Span]:
    """Place tokens in the text they decode to.

    A token that starts or ends inside a character gets the whole character, so the spans of
    tokens that share one overlap.

    Args:
        ids: n token ids, without special tokens.
        decode: Turns any run of ids into text, with U+FFFD for bytes that are no character.

    Returns:
        n spans in `decode(ids)`, starts ascending.
    """
    length = len(decode(ids))
    spans: list[Span] = []
    lead = begin = position = 0
    steps = [""]  # the window's text up to begin, then after each token to be placed next
    for end in range(1, len(ids) + 1):
        steps.append(decode(ids[lead:end]))
        cut = end - begin
        if end < len(ids) and steps[-1].endswith(_REPLACEMENT):
            cut = _settled(ids[begin:end], steps, decode)
            if not cut:
                continue
        del steps[cut + 1 :]
        for start, stop in _spans_of_steps(steps):
            spans.append((min(position + start, length), min(position + stop, length)))
        position += max(0, len(steps[-1]) - len(steps[0]))
        lead, begin = begin, begin + cut
        steps = [decode(ids[lead:to]) for to in range(begin, end + 1)]
    return spans


def _settled(
    run: Sequence[int], steps: Sequence[str], decode: Callable[[Sequence[int]], str]
) -> int:
    """How many tokens of a run that ends with U+FFFD can be placed already; often none.

    U+FFFD may stand for a character cut off, which the next token completes, or for bytes
    that are no character, or for itself; only a long run of it is worth a closer look.
    """
    if len(run) % _LONGEST_OPEN_RUN:
        return 0
    cuts = range(len(run) - 4, len(run) - 8, -1)  # a character has at most four bytes
    return next((n for n in cuts if steps[n] + decode(run[n:]) == steps[-1]), 0)


def _spans_of_steps(steps: list[str]) -> list[Span]:
    """Spans of tokens from a window's text before them and after each one of them.

    A text's characters that the last text shares are settled; one beyond those is still
    open, and the token that left it open gets the whole of it.
    """
    base = len(steps[0])
    settled = [max(base, _shared(step, steps[-1])) for step in steps]
    spans = []
    for before, after, step in zip(settled, settled[1:], steps[1:], strict=False):
        end = min(after + (len(step) > after), max(base, len(steps[-1])))
        is_open = before == end > base and step.endswith(_REPLACEMENT)
        spans.append((before - base - is_open, end - base))
    return spans


def _shared(text: str, other: str) -> int:
    """Length of the longest common prefix."""
    pairs = enumerate(zip(text, other, strict=False))
    return next((index for index, (a, b) in pairs if a != b), min(len(text), len(other)))
