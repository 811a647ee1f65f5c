import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from perce.identification import (
    Identified,
    OneKindOfWord,
    by_pir,
    by_surprise,
    match_words,
    measure,
    occurrences,
    word_spans,
    words_in,
)
from perce.pir import TokenPIR, token_pirs
from perce.spans import Span

MALIBU = "Paddling out at Malibu, daily."
DOG = "My dog barks."


def words(text: str, spans: list[Span] | tuple[Span, ...]) -> list[str]:
    return [text[start:end] for start, end in spans]


def pirs_of(reply: str, pieces: dict[str, float]) -> list[TokenPIR]:
    """Tokens that lie end to end, with a PIR each."""
    assert "".join(pieces) == reply
    ends = np.cumsum([len(piece) for piece in pieces]).tolist()
    spans = list(zip([0, *ends], ends, strict=False))
    return token_pirs(list(range(len(spans))), spans, reply, [*pieces.values()], [0.0] * len(spans))


def test_words_are_letters_and_digits_with_apostrophes_inside() -> None:
    text = (
        "\"There's _nothing_ like sun-bleached hair\u2019s 'glow' at 7.5: d\u2019accord? \U0001f600"
    )
    assert words(text, word_spans(text)) == [
        *("There's", "nothing", "like", "sun", "bleached", "hair\u2019s", "glow", "at", "7", "5"),
        "d\u2019accord",
    ]
    assert word_spans("") == word_spans("... ?! _ \u2014 ''") == []


def test_a_word_is_annotated_once_however_many_phrases_touch_it() -> None:
    phrases = [(0, 12), (4, 12), (16, 23), (22, 23), (5, 5)]
    assert words(MALIBU, words_in(MALIBU, phrases)) == ["Paddling", "out", "Malibu"]


@pytest.mark.parametrize(
    ("text", "phrase", "spans"),
    [
        ("I start with art, art.", "art", [(13, 16), (18, 21)]),
        ("He surfs", "surf", [(3, 7)]),
        ("Will will go", "will", [(5, 9)]),
        ("Will goes", " will ", [(0, 4)]),
        ("\u0130n \u0130stanbul we met", "we", [(12, 14)]),  # lower() would make it longer
        ("It\u2019s \u201cmine\u201d", 'it\'s "mine"', [(0, 11)]),
        ("C++ (really)", "C++", [(0, 3)]),
        ("the dog's bed", "'s", [(7, 9)]),
        ("anything", " \n", []),
        ("", "a", []),
    ],
)
def test_a_phrase_is_found_as_whole_words_first(text: str, phrase: str, spans: list[Span]) -> None:
    assert occurrences(text, phrase) == spans


@given(st.text("aAbB .'", max_size=20), st.text("aAbB .'", max_size=4))
def test_a_phrase_is_found_if_and_only_if_it_is_there(text: str, phrase: str) -> None:
    spans = occurrences(text, phrase)
    wanted = phrase.strip().lower()
    assert bool(spans) == (bool(wanted) and wanted in text.lower())
    assert all(text[start:end].lower() == wanted for start, end in spans)


def test_word_matching_finds_the_content_words_of_the_persona() -> None:
    persona = ["I'm a SURFER and I don't own a dog.", "It's 2 miles to Malibu."]
    reply = "I'm a surfer, don't you see? It\u2019s Malibu; my dogs are 2."
    found = match_words(persona, reply)
    assert words(reply, found.tokens) == ["surfer", "Malibu", "2"]
    assert [span for span, _ in found.words] == word_spans(reply)
    assert {span for span, score in found.words if score == 1.0} == set(found.tokens)
    assert {score for _, score in found.words} == {0.0, 1.0}


def test_tokens_with_a_leading_space_are_identified_and_words_score_their_tokens() -> None:
    reply = "At Mal-ibu, it's!"
    pieces = {"At": 0.5, " Mal": 2.0, "-": 8.0, "ibu": -0.5, ",": 9.0, " it": 1.0, "'s": 1.5}
    found = by_pir(reply, pirs_of(reply, pieces | {"!": 7.0}))
    assert words(reply, found.tokens) == [" Mal", "'s"]
    assert found.words == (
        ((0, 2), 0.5),
        ((3, 6), 2.0),
        ((7, 10), -0.5),
        ((12, 16), 2.5),
    )


def test_a_leading_space_does_not_reach_into_the_word_before() -> None:
    found = by_pir(DOG, pirs_of(DOG, {"My": 0.0, " dog": 3.0, " barks": 0.0, ".": 0.0}))
    figures = measure([DOG], [[(3, 6)]], [found])
    assert (figures.precision, figures.recall, figures.f1, figures.auroc) == (1, 1, 1, 1)


def test_surprise_is_how_unlikely_words_are_whoever_the_user_is() -> None:
    reply = "At Malibu!"
    spans, without = [(0, 2), (2, 6), (6, 9), (9, 10)], [-0.5, -3.0, -1.0, -9.0]
    tokens = token_pirs([1, 2, 3, 4], spans, reply, [0.0, -5.0, -1.0, 0.0], without)
    found = by_surprise(reply, tokens)
    assert found == Identified(((2, 6),), (((0, 2), 0.5), ((3, 9), 4.0)))


def test_tokens_that_share_a_character_count_each() -> None:
    reply = "caf\u00e9"
    tokens = token_pirs([1, 2, 3], [(0, 3), (3, 4), (3, 4)], reply, [0.0, 2.0, 3.0], [0.0] * 3)
    found = by_pir(reply, tokens)
    assert found.tokens == ((3, 4), (3, 4))
    assert found.words == (((0, 4), 5.0),)


@pytest.mark.parametrize("reply", ["", "...?!", " \n", "\U0001f600"])
def test_a_reply_without_words_has_nothing_to_identify(reply: str) -> None:
    tokens = pirs_of(reply, {reply: 9.0})
    assert by_pir(reply, tokens) == match_words([reply], reply) == Identified((), ())


def test_the_measure_equals_one_counted_by_hand() -> None:
    # Tokens: Pad|dling| Malibu are right, | daily is not; | dog is right, | barks is not.
    # Annotated words: Paddling, Malibu and dog are found, out is not.
    # Pairs (annotated over other): 2 over 0 2 0 3, 0 over them, 5 over them, 1 over them.
    malibu = Identified(
        ((0, 3), (3, 8), (15, 22), (23, 29)),
        (((0, 8), 2.0), ((9, 12), 0.0), ((13, 15), 0.0), ((16, 22), 5.0), ((24, 29), 2.0)),
    )
    dog = Identified(((2, 6), (6, 12)), (((0, 2), 0.0), ((3, 6), 1.0), ((7, 12), 3.0)))
    nothing = Identified((), ())
    figures = measure(
        [MALIBU, "", DOG, "?!"],
        [[(0, 12), (9, 12), (16, 22)], [], [(3, 6)], []],
        [malibu, nothing, dog, nothing],
    )
    assert figures.precision == pytest.approx(4 / 6)
    assert figures.recall == pytest.approx(3 / 4)
    assert figures.f1 == pytest.approx(12 / 17)
    assert figures.auroc == pytest.approx((2.5 + 1 + 4 + 2) / 16)


def test_nothing_identified_has_no_precision_and_no_f1() -> None:
    found = Identified((), tuple((span, 0.0) for span in word_spans(DOG)))
    figures = measure([DOG], [[(3, 6)]], [found])
    assert (figures.precision, figures.recall, figures.f1, figures.auroc) == (0, 0, 0, 0.5)


def test_nothing_right_has_no_f1() -> None:
    found = Identified(((7, 12),), (((0, 2), 0.0), ((3, 6), 0.0), ((7, 12), 1.0)))
    figures = measure([DOG], [[(3, 6)]], [found])
    assert (figures.precision, figures.recall, figures.f1, figures.auroc) == (0, 0, 0, 0.25)


@pytest.mark.parametrize(
    ("reply", "spans", "counts"),
    [
        (DOG, [(0, 13)], "Of 3 words, 3 are annotated"),
        (DOG, [(2, 3), (12, 13)], "Of 3 words, 0 are annotated"),
        ("?!", [(0, 2)], "Of 0 words, 0 are annotated"),
    ],
)
def test_words_of_one_kind_cannot_be_measured(reply: str, spans: list[Span], counts: str) -> None:
    found = Identified((), tuple((span, 1.0) for span in word_spans(reply)))
    with pytest.raises(OneKindOfWord, match=rf"{counts}.*Take more replies"):
        measure([reply], [spans], [found])


def pairwise_auroc(labels: list[bool], scores: list[float]) -> float:
    """AUROC from its definition: the share of pairs in the right order, ties being half."""
    marked, values = np.array(labels), np.array(scores)
    difference = values[marked][:, None] - values[~marked][None, :]
    return float(np.mean((difference > 0) + 0.5 * (difference == 0)))


@st.composite
def scored_replies(draw: st.DrawFn) -> tuple[str, list[Span], Identified]:
    """A reply with arbitrary annotations and tokens; its words have few different scores."""
    reply = draw(st.text("ab '.-\u00e9", max_size=25))
    place = st.integers(0, len(reply))
    span = st.tuples(place, place).map(lambda ends: (min(ends), max(ends)))
    scores = draw(
        st.lists(st.sampled_from([-1.5, 0.0, 0.25, 7.0]), min_size=len(reply), max_size=len(reply))
    )
    scored = tuple(zip(word_spans(reply), scores, strict=False))
    tokens = tuple(draw(st.lists(span, max_size=6)))
    return reply, draw(st.lists(span, max_size=3)), Identified(tokens, scored)


@given(st.lists(scored_replies(), min_size=1, max_size=4))
def test_the_measure_equals_a_count_over_characters_and_pairs(
    cases: list[tuple[str, list[Span], Identified]],
) -> None:
    right, recovered = [], []
    labels: list[bool] = []
    scores: list[float] = []
    for _, spans, found in cases:
        annotated = {place for span in spans for place in range(*span)}
        identified = {place for token in found.tokens for place in range(*token)}
        own = [bool(annotated & set(range(*word))) for word, _ in found.words]
        wanted = [word for (word, _), marked in zip(found.words, own, strict=True) if marked]
        inside = {place for word in wanted for place in range(*word)}
        right += [bool(inside & set(range(*token))) for token in found.tokens]
        recovered += [bool(identified & set(range(*word))) for word in wanted]
        labels += own
        scores += [score for _, score in found.words]
    assume(any(labels) and not all(labels))
    figures = measure(*map(list, zip(*cases, strict=True)))
    precision = np.mean(right) if right else 0.0
    recall = np.mean(recovered)
    assert figures.precision == pytest.approx(precision)
    assert figures.recall == pytest.approx(recall)
    harmonic = 2 / (1 / precision + 1 / recall) if precision and recall else 0.0
    assert figures.f1 == pytest.approx(harmonic)
    assert figures.auroc == pytest.approx(pairwise_auroc(labels, scores))
