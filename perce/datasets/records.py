"""Records of local data files: JSON, or a JSON object a line; `.gz` too.

Parquet files are not read here; `pandas.read_parquet(...).to_json(file, orient="records")`
makes JSON of them.
"""

import gzip
import json
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from perce.errors import AttuneError

Record = Mapping[str, Any]


class UnreadableDataset(AttuneError):
    """A record of a data file cannot be used; the message names its line and the reason."""


def read_records(path: Path) -> Iterator[tuple[str, Record]]:
    """Read the objects of a file, each with the name of its place for messages.

    A file whose first character is `[` is one JSON list, any other has an object a line.

    Raises:
        UnreadableDataset: A line is no JSON object, or there is none.
    """
    content = _content(path)
    named = _listed(path, content) if content.lstrip().startswith("[") else _lines(path, content)
    empty = True
    for place, record in named:
        if not isinstance(record, dict):
            raise UnreadableDataset(f"{place}: this is no JSON object. Correct or remove it.")
        empty = False
        yield place, record
    if empty:
        raise UnreadableDataset(f"{path} holds no records. Give a file with a JSON object a line.")


def text_of(record: Record, name: str, place: str) -> str:
    """A record's text.

    Raises:
        UnreadableDataset: It is missing, no text, or blank.
    """
    value = record.get(name)
    if not isinstance(value, str) or not value.strip():
        found = "is missing" if name not in record else f"is no text but {json.dumps(value)[:60]}"
        raise UnreadableDataset(f"{place}: {name!r} {found}. Give a text.")
    return value


def _content(path: Path) -> str:
    try:
        raw = path.read_bytes()
        unpacked = gzip.decompress(raw) if path.suffix == ".gz" else raw
        return unpacked.decode()
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise UnreadableDataset(
            f"{path} cannot be read: {error}. Give a JSON or JSON lines file in UTF-8, "
            "packed with gzip if its name ends in .gz."
        ) from error


def _listed(path: Path, content: str) -> Iterator[tuple[str, object]]:
    for number, record in enumerate(_parsed(str(path), content), 1):
        yield f"{path}, record {number}", record


def _lines(path: Path, content: str) -> Iterator[tuple[str, object]]:
    # Not splitlines(), which would also split inside a text that holds U+2028.
    for number, line in enumerate(content.split("\n"), 1):
        if line.strip():
            place = f"{path}, line {number}"
            yield place, _parsed(place, line)


def _parsed(place: str, text: str) -> Any:  # noqa: ANN401 (JSON)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UnreadableDataset(f"{place}: no JSON ({error}). Correct or remove it.") from error
