import gzip
import json
import tracemalloc
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.errors import BadRequestError, TooLargeError
from server.history import MAX_LINE_CHARS, HistoryFile, read_history


def lines(*rows: object) -> bytes:
    return b"\n".join(r if isinstance(r, bytes) else json.dumps(r).encode() for r in rows)


def test_texts_keep_query_text_and_time() -> None:
    found = read_history(lines({"query": "q", "text": "t", "time": "2026-01-02T03:04:05+01:00"}))
    (text,) = found.texts
    assert (text.query, text.text) == ("q", "t")
    assert text.time is not None
    assert text.position == text.time.timestamp() == 1767319445.0


def test_gzip_is_unpacked() -> None:
    assert len(read_history(gzip.compress(lines({"query": "q", "text": "t"}))).texts) == 1


def test_broken_gzip_is_refused() -> None:
    with pytest.raises(BadRequestError, match="broken"):
        read_history(gzip.compress(b"x" * 1000)[:-10])


def test_bad_lines_are_named_and_good_ones_kept() -> None:
    found = read_history(
        lines(
            {"query": "q", "text": "one"},
            b"{not json",
            b"",
            ["no", "object"],
            {"query": "q"},
            {"query": "q", "text": " "},
            {"query": 3, "text": "t"},
            {"query": "q", "text": "t", "time": "yesterday"},
            {"query": "q", "text": "t", "order": "first"},
            b'{"query": "q", "text": "\xff"}',
            {"query": "q", "text": "two"},
        )
    )
    assert [text.text for text in found.texts] == ["one", "two"]
    assert [error.line for error in found.errors] == [2, 4, 5, 6, 7, 8, 9, 10]
    reasons = [error.reason for error in found.errors]
    assert reasons[0].startswith("not JSON")
    assert "'text' is missing" in reasons[2]
    assert "not UTF-8" in reasons[7]


def test_a_line_that_is_too_long_is_named() -> None:
    found = read_history(lines({"query": "q", "text": "x" * MAX_LINE_CHARS}))
    assert found.texts == []
    assert "longer than" in found.errors[0].reason


def test_deep_nesting_is_a_bad_line_and_not_a_crash() -> None:
    found = read_history(b"[" * 50_000)
    assert [error.line for error in found.errors] == [1]


CHAT = [
    {"role": "user", "content": "how was it?"},
    {"role": "assistant", "content": "fine"},
]


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        ({"feedback": "up"}, [("how was it?", "fine", "liked")]),
        ({"feedback": None, "edited": "grand"}, [("how was it?", "grand", "edited")]),
        ({"feedback": "up", "edited": "grand"}, [("how was it?", "grand", "edited")]),
        ({"feedback": "down"}, []),
        ({}, []),
    ],
)
def test_of_a_chat_only_what_was_endorsed_is_kept(
    extra: dict[str, object], expected: list[tuple[str, str, str]]
) -> None:
    found = read_history(lines({"messages": CHAT, **extra}))
    assert [(t.query, t.text, t.source) for t in found.texts] == expected
    assert found.errors == []


@given(st.binary(max_size=300))
def test_any_bytes_give_texts_or_named_lines_or_a_clear_refusal(data: bytes) -> None:
    try:
        found = read_history(data)
    except BadRequestError as error:
        assert str(error)
        return
    named = [error.line for error in found.errors]
    assert named == sorted(set(named))
    assert all(1 <= line <= data.count(b"\n") + 1 for line in named)


@given(st.lists(st.text(min_size=1).filter(str.strip), max_size=5))
def test_any_text_survives_the_file(texts: list[str]) -> None:
    clean = [t.replace("\0", "") or "x" for t in texts]
    clean = [t if t.strip() else "x" for t in clean]
    found = read_history(lines(*({"query": "", "text": text} for text in clean)))
    assert [text.text for text in found.texts] == clean


def peak_of(read: Callable[[], object]) -> int:
    """Most memory that Python held while this ran, in bytes."""
    tracemalloc.start()
    try:
        read()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


ONE = json.dumps({"query": "q", "text": "one"}).encode()
TWO = json.dumps({"query": "q", "text": "two"}).encode()


def test_a_line_of_50_mb_is_named_and_never_held() -> None:
    block = gzip.compress(b"x" * 2**20)
    # Members of a gzip file follow each other; this is the line's start, its 50 MB and its end.
    start, end = ONE + b'\n{"query": "q", "text": "', b'"}\n' + TWO
    data = gzip.compress(start) + block * 50 + gzip.compress(end)
    found: list[HistoryFile] = []
    assert peak_of(lambda: found.append(read_history(data))) < 8 * 2**20
    assert [text.text for text in found[0].texts] == ["one", "two"]
    ((line, reason),) = [(error.line, error.reason) for error in found[0].errors]
    assert (line, reason) == (2, "longer than 100,000 characters")


@pytest.mark.parametrize(
    ("block", "words"),
    [
        (b"x" * 2**20, "256 MiB"),
        (b"\n" * 2**20, "200,000 lines"),
    ],
    ids=["one line", "empty lines"],
)
def test_a_gzip_bomb_is_refused_in_little_memory(block: bytes, words: str) -> None:
    bomb = gzip.compress(block) * 1024
    assert len(bomb) < 3 * 2**20

    def read() -> None:
        with pytest.raises(TooLargeError, match=words):
            read_history(bomb)

    assert peak_of(read) < 8 * 2**20


def test_thousands_of_bad_lines_are_all_named() -> None:
    found = read_history(b"x\n" * 5_000 + ONE)
    assert [error.line for error in found.errors] == list(range(1, 5_001))
    assert len(found.texts) == 1


def test_a_line_of_just_the_length_is_taken() -> None:
    line = b'{"text": "' + b"x" * (MAX_LINE_CHARS - 12) + b'"}'
    assert len(line) == MAX_LINE_CHARS
    assert len(read_history(line + b"\n" + line).texts) == 2


def test_a_byte_order_mark_is_no_error() -> None:
    assert read_history(b"\xef\xbb\xbf" + ONE + b"\r\n" + TWO).errors == []


POISON = {
    "NUL": {"text": "a\0b"},
    "surrogate": {"text": "half a \ud83d face"},
    "surrogate query": {"query": "\udc80", "text": "t"},
    "NUL in an edit": {"messages": [{"role": "assistant", "content": "x"}], "edited": "a\0b"},
    "no number": {"text": "t", "order": float("nan")},
    "endless": {"text": "t", "order": float("inf")},
    "huge": {"text": "t", "order": 10**400},
    "before the first day": {"text": "t", "time": "0001-01-01T00:00:00+14:00"},
    "after the last day": {"text": "t", "time": "9999-12-31T23:59:59-14:00"},
    "no role": {"messages": [{"content": "x"}], "feedback": "up"},
    "parts": {"messages": [{"role": "assistant", "content": [1]}], "feedback": "up"},
}


@pytest.mark.parametrize("row", POISON.values(), ids=POISON.keys())
def test_what_no_store_can_hold_is_a_bad_line(row: dict[str, object]) -> None:
    found = read_history(lines(row, {"query": "q", "text": "good"}))
    assert [error.line for error in found.errors] == [1]
    assert [text.text for text in found.texts] == ["good"]


def test_marks_of_writing_direction_and_emoji_are_kept() -> None:
    texts = ["\u202eright to left\u202c", "\u200f\u0645\u0631\u062d", "😀🍞", "Grüße, 日本語"]
    found = read_history(lines(*({"text": text} for text in texts)))
    assert [text.text for text in found.texts] == texts
