import gzip
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.errors import BadRequestError
from server.history import MAX_LINE_CHARS, read_history


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
