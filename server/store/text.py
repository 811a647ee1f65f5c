"""Which texts every store can hold."""

UNSTORABLE = "a NUL character or half of one (a lone surrogate): take it out"
"""What a text that is not storable has, for messages."""


def is_storable(text: str) -> bool:
    """Whether every store holds it: PostgreSQL takes no NUL, and none half a character."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in text
