"""What text a request may hold, wherever in its JSON it stands: how much, which characters."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from server.errors import BadRequestError, TooLargeError
from server.store.text import UNSTORABLE, is_storable

# Far beyond any message, tool or schema. Python's own limit comes soon after, as a crash.
MAX_DEPTH = 100


def check_text(what: str, json: Sequence[Any], most: int) -> None:
    """Refuse JSON with too much text in it, or with text that no store and no engine takes.

    Args:
        what: What the JSON is, with its verb, as in "The messages have".
        json: Values of any shape. Texts count by their characters, keys of objects among
            them; a number counts as one.
        most: Characters that are taken.

    Raises:
        TooLargeError: It has more characters.
        BadRequestError: It is nested too deep, or holds a NUL, half of a character, or a number
            that is not finite, which JSON does not know and Python reads all the same.
    """
    size, level = 0, list(json)
    for _ in range(MAX_DEPTH):
        inner: list[Any] = []
        for value in level:
            if isinstance(value, str):
                size += len(value)
                if not is_storable(value):
                    raise BadRequestError(f"{what} {UNSTORABLE}.")
            elif isinstance(value, Mapping):
                inner += value.keys()
                inner += value.values()
            elif isinstance(value, list):
                inner += value
            elif isinstance(value, float) and not math.isfinite(value):
                raise BadRequestError(
                    f"{what} NaN or an infinite number, which no engine takes: take it out."
                )
            elif value is not None:
                size += 1
        level = inner
        if not level:
            break
    else:
        raise BadRequestError(f"{what} more than {MAX_DEPTH} levels of nesting: flatten them.")
    if size > most:
        raise TooLargeError(
            f"{what} {size:,} characters and at most {most:,} are taken: shorten them."
        )
