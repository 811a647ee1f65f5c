"""Reading a history file: JSONL, plain or gzip, one text or one OpenAI chat a line.

A bad line is named with its number and reason, and the good ones are kept. The file is
read line by line and never held as a whole, nor is a line that is too long, so that a small
gzip cannot fill the memory. Storing the texts is `server.store.memory`.
"""

import gzip
import io
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import IO, Any, cast

from server.errors import BadRequestError, TooLargeError
from server.store.memory import NewText
from server.store.text import UNSTORABLE, is_storable

MAX_LINE_CHARS = 100_000
MAX_LINES = 200_000
MAX_BYTES = 256 * 2**20
_GZIP = b"\x1f\x8b"
# UTF-8 has up to four bytes a character.
_MAX_LINE_BYTES = 4 * MAX_LINE_CHARS


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line that could not be taken, counted from 1, and why."""

    line: int
    reason: str


@dataclass(slots=True)
class HistoryFile:
    """What a history file held: texts in the file's order, and the lines that were bad."""

    texts: list[NewText] = field(default_factory=list)
    errors: list[BadLine] = field(default_factory=list)


def read_history(source: bytes | IO[bytes]) -> HistoryFile:
    """Parse a history file.

    Texts without `time` and `order` keep the file's order. Of a chat, what the user
    endorsed is taken: the edited reply, or the reply that got `"feedback": "up"`.

    Args:
        source: The file's content, or the file, open for reading, at its start.

    Raises:
        BadRequestError: The file is a broken gzip.
        TooLargeError: The file has more than 256 MiB when unpacked, or more than 200,000 lines.
    """
    found = HistoryFile()
    for number, line in enumerate(_lines(source), start=1):
        if line is not None and not line.strip():
            continue
        try:
            text = _parse(line, number)
        except ValueError as error:
            found.errors.append(BadLine(number, str(error)))
            continue
        if text is not None:
            found.texts.append(text)
    return found


def _lines(source: bytes | IO[bytes]) -> Iterator[bytes | None]:
    """The file's lines; None for one that is too long to be held."""
    file = io.BytesIO(source) if isinstance(source, bytes) else source
    packed = file.read(len(_GZIP)) == _GZIP
    file.seek(0)
    # A gzip file reads as any binary file does; typeshed does not say so.
    plain = cast("IO[bytes]", gzip.GzipFile(fileobj=file)) if packed else file
    try:
        yield from _bounded_lines(plain)
    except (OSError, EOFError, zlib.error) as error:
        if not packed:
            raise
        raise BadRequestError(f"The gzip file is broken ({error}): pack it again.") from error


def _bounded_lines(file: IO[bytes]) -> Iterator[bytes | None]:
    """Read up to each line feed: `splitlines` would also split inside JSON strings."""
    taken = lines = 0
    while part := file.readline(_MAX_LINE_BYTES):
        taken += len(part)
        line: bytes | None = part
        while not part.endswith(b"\n") and (part := file.readline(_MAX_LINE_BYTES)):
            line = None
            taken += len(part)
            _check_size(taken, lines)
        lines += 1
        _check_size(taken, lines)
        yield line


def _check_size(taken: int, lines: int) -> None:
    if taken > MAX_BYTES:
        raise TooLargeError("The history is larger than 256 MiB: import it in parts.")
    if lines > MAX_LINES:
        raise TooLargeError(f"The history has more than {MAX_LINES:,} lines: import it in parts.")


def _parse(raw: bytes | None, number: int) -> NewText | None:
    """Parse one line; a `ValueError`'s message is the reason why it is bad."""
    try:
        # Editors on Windows put a byte order mark in front.
        line = None if raw is None else raw.removesuffix(b"\n").decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError("not UTF-8") from None
    if line is None or len(line) > MAX_LINE_CHARS:
        raise ValueError(f"longer than {MAX_LINE_CHARS:,} characters")
    try:
        row = json.loads(line)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"not JSON: {error}") from None
    if not isinstance(row, dict):
        raise ValueError("not a JSON object")
    time = _time(row)
    position = _position(row, time, number)
    if "messages" in row:
        return _endorsed_reply(row, position, time)
    text = _string(row, "text")
    if not text.strip():
        raise ValueError("'text' is empty")
    return NewText(_string(row, "query", optional=True), text, position, time)


def _endorsed_reply(row: dict[str, Any], position: float, time: datetime | None) -> NewText | None:
    messages = row["messages"]
    if not isinstance(messages, list) or not all(isinstance(m, dict) for m in messages):
        raise ValueError("'messages' is not a list of messages")
    feedback, edited = row.get("feedback"), row.get("edited")
    if feedback not in (None, "up", "down"):
        raise ValueError("'feedback' is none of 'up', 'down', null")
    replies = [i for i, m in enumerate(messages) if m.get("role") == "assistant"]
    if not replies:
        raise ValueError("'messages' has no assistant message")
    queries = [m for m in messages[: replies[-1]] if m.get("role") == "user"]
    query = _string(queries[-1], "content") if queries else ""
    if isinstance(edited, str) and edited.strip():
        return NewText(query, _string(row, "edited"), position, time, source="edited")
    if feedback == "up":
        reply = _string(messages[replies[-1]], "content")
        return NewText(query, reply, position, time, source="liked")
    return None


def _string(row: dict[str, Any], key: str, optional: bool = False) -> str:
    value = row.get(key, "" if optional else None)
    if not isinstance(value, str):
        raise ValueError(f"{key!r} is missing or not a string")
    if not is_storable(value):
        raise ValueError(f"{key!r} has {UNSTORABLE}")
    return value


def _time(row: dict[str, Any]) -> datetime | None:
    if row.get("time") is None:
        return None
    try:
        time = datetime.fromisoformat(row["time"])
        # In the zone of the store: the first and last hours of the calendar have no UTC time.
        return time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)
    except (TypeError, ValueError, OverflowError):
        raise ValueError("'time' is not an ISO 8601 time") from None


def _position(row: dict[str, Any], time: datetime | None, number: int) -> float:
    if time is not None:
        return time.timestamp()
    order = row.get("order", number)
    if isinstance(order, bool) or not isinstance(order, int | float):
        raise ValueError("'order' is not a number")
    # Compared and not converted: whole numbers in JSON may be larger than any float.
    if not -1e15 <= order <= 1e15:
        raise ValueError("'order' is not a number of at most 1e15")
    return float(order)
