import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perce.pir import UnequalPasses, token_pirs
from perce.words import word_pirs


def test_pir_is_the_difference_of_natural_log_probabilities() -> None:
    [likelier, same] = token_pirs(
        [7, 8], [(0, 2), (2, 5)], "My dog", [math.log(0.8), -2.0], [math.log(0.1), -2.0]
    )
    assert likelier.pir == pytest.approx(math.log(8))
    assert (likelier.token_id, likelier.text, likelier.personal) == (7, "My", True)
    assert (same.pir, same.text, same.personal) == (0.0, " do", False)


def test_the_threshold_itself_is_not_personal() -> None:
    [token] = token_pirs([1], [(0, 1)], "a", [-1.0], [-2.0])
    assert token.pir == 1.0
    assert not token.personal


def test_passes_over_other_tokens_are_refused() -> None:
    with pytest.raises(UnequalPasses, match="2 ids, 2 spans, 2 logprobs with and 1 without"):
        token_pirs([1, 2], [(0, 1), (1, 2)], "ab", [-1.0, -1.0], [-1.0])


def test_words_sum_the_pir_of_their_tokens_and_leave_punctuation_aside() -> None:
    reply = '"Surfing, isn\'t it?"  C 😀'
    pieces = ['"Sur', "fing", ",", " isn't", " ", "it", '?"', "  ", "C 😀"]
    starts = [sum(map(len, pieces[:index])) for index in range(len(pieces))]
    spans = [(start, start + len(piece)) for start, piece in zip(starts, pieces, strict=True)]
    pirs = [0.5, 1.5, 0.1, 0.2, 9.0, -1.0, 0.3, 9.0, 2.0]
    tokens = token_pirs(list(range(9)), spans, reply, pirs, [0.0] * 9)
    words = [(word.text, round(word.pir, 6), word.personal) for word in word_pirs(reply, tokens)]
    assert words == [
        ('"', 0.5, False),
        ("Surfing", 2.0, True),
        (",", 0.1, False),
        ("isn't", 0.2, False),
        ("it", -1.0, False),
        ('?"', 0.3, False),
        ("C", 2.0, True),
        ("😀", 2.0, True),
    ]


@given(reply=st.text(alphabet="ab .,!é😀\n'-", max_size=30), data=st.data())
def test_words_equal_a_search_over_all_tokens(reply: str, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.sets(st.integers(1, max(1, len(reply) - 1)))) if reply else [])
    bounds = [0, *[cut for cut in cuts if cut < len(reply)], len(reply)]
    widen = data.draw(st.lists(st.booleans(), min_size=len(bounds), max_size=len(bounds)))
    spans = [
        (start, min(end + wide, len(reply)))  # overlapping, as tokens inside a character are
        for start, end, wide in zip(bounds, bounds[1:], widen, strict=False)
    ]
    pirs = data.draw(st.lists(st.integers(-3, 5), min_size=len(spans), max_size=len(spans)))
    tokens = token_pirs(list(range(len(spans))), spans, reply, pirs, [0] * len(spans))
    words = word_pirs(reply, tokens)
    places = [place for word in words for place in range(word.start, word.end)]
    assert places == [index for index, character in enumerate(reply) if not character.isspace()]
    for word in words:
        own = [t for t in tokens if set(range(t.start, t.end)) & set(range(word.start, word.end))]
        assert word.text == reply[word.start : word.end]
        assert word.pir == sum(token.pir for token in own)
        assert word.personal == any(token.personal for token in own)
