"""Reading a history file: JSONL, plain or gzip, one text or one OpenAI chat a line.

A bad line is named with its number and reason, and the good ones are kept. Storing them
is `server.store.memory`.
"""

import gzip
import io
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from server.errors import BadRequestError, TooLargeError
from server.store.memory import NewText

MAX_LINE_CHARS = 100_000
MAX_BYTES = 256 * 2**20


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


def read_history(data: bytes) -> HistoryFile:
    """Parse a history file.

    Texts without `time` and `order` keep the file's order. Of a chat, what the user
    endorsed is taken: the edited reply, or the reply that got `"feedback": "up"`.

    Raises:
        BadRequestError: The file is not UTF-8 text or a broken gzip.
        TooLargeError: The file is larger than 256 MiB when unpacked.
    """
    found = HistoryFile()
    for number, line in enumerate(_lines(_unpacked(data)), start=1):
        if not line.strip():
            continue
        try:
            text = _parse(line, number)
        except ValueError as error:
            found.errors.append(BadLine(number, str(error)))
            continue
        if text is not None:
            found.texts.append(text)
    return found


def _unpacked(data: bytes) -> bytes:
    if data[:2] == b"\x1f\x8b":
        try:
            with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
                data = file.read(MAX_BYTES + 1)
        except (OSError, EOFError, zlib.error) as error:
            raise BadRequestError(f"The gzip file is broken ({error}): pack it again.") from error
    if len(data) > MAX_BYTES:
        raise TooLargeError("The history is larger than 256 MiB: import it in parts.")
    return data


def _lines(data: bytes) -> Iterator[str]:
    """Split at line feeds only: `splitlines` would also split inside JSON strings."""
    for raw in data.split(b"\n"):
        yield raw.decode("utf-8", errors="surrogateescape")


def _parse(line: str, number: int) -> NewText | None:
    """Parse one line; a `ValueError`'s message is the reason why it is bad."""
    if len(line) > MAX_LINE_CHARS:
        raise ValueError(f"longer than {MAX_LINE_CHARS:,} characters")
    if any("\ud800" <= character <= "\udfff" for character in line):
        raise ValueError("not UTF-8")
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
        return NewText(query, edited, position, time, source="edited")
    if feedback == "up":
        reply = _string(messages[replies[-1]], "content")
        return NewText(query, reply, position, time, source="liked")
    return None


def _string(row: dict[str, Any], key: str, optional: bool = False) -> str:
    value = row.get(key, "" if optional else None)
    if not isinstance(value, str):
        raise ValueError(f"{key!r} is missing or not a string")
    if "\0" in value:
        raise ValueError(f"{key!r} holds a NUL character")
    return value


def _time(row: dict[str, Any]) -> datetime | None:
    if row.get("time") is None:
        return None
    try:
        time = datetime.fromisoformat(row["time"])
    except (TypeError, ValueError):
        raise ValueError("'time' is not an ISO 8601 time") from None
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def _position(row: dict[str, Any], time: datetime | None, number: int) -> float:
    if time is not None:
        return time.timestamp()
    order = row.get("order", number)
    if isinstance(order, bool) or not isinstance(order, int | float) or abs(order) > 1e15:
        raise ValueError("'order' is not a number")
    return float(order)
