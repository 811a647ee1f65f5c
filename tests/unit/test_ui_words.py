import re
from html import unescape

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ui.records import Personalization, PersonalToken, PersonalWord
from ui.words import highlight, legend, level, summary


def word(text: str, start: int, pir: float | None) -> PersonalWord:
    personal = pir is not None and pir > 1
    return PersonalWord(text=text, start=start, end=start + len(text), pir=pir, personal=personal)


def scored(*words: PersonalWord, tokens: tuple[PersonalToken, ...] = ()) -> Personalization:
    return Personalization(user="maeve", words=words, pir=tokens, contrast="persona")


def test_only_personal_words_are_marked() -> None:
    html = highlight("grand day", scored(word("grand", 0, 2.5), word("day", 6, 0.3)))
    assert re.findall(r"<mark[^>]*>([^<]*)</mark>", html) == ["grand"]


@pytest.mark.parametrize(
    ("pir", "expected"),
    [(None, 0), (-3.0, 0), (1.0, 0), (1.01, 1), (2.0, 2), (2.99, 2), (3.0, 3), (5.0, 4), (80.0, 4)],
)
def test_levels_rise_with_pir(pir: float | None, expected: int) -> None:
    assert level(word("so", 0, pir)) == expected


def test_a_word_that_the_gateway_calls_personal_is_always_visible() -> None:
    below = PersonalWord(text="so", start=0, end=2, pir=0.9, personal=True)
    assert level(below) == 1


def test_a_word_written_in_spite_of_the_user_is_underlined() -> None:
    html = highlight("coffee", scored(word("coffee", 0, -1.2)))
    assert 'class="pir-against"' in html
    assert "<mark" not in html


@settings(deadline=None)
@given(st.data())
def test_the_text_survives_unchanged_whatever_it_holds(data: st.DataObject) -> None:
    text = data.draw(st.text(alphabet=st.sampled_from("ab<>&\"' \né€{}$`"), max_size=40))
    words = []
    for match in re.finditer(r"\S+", text):
        pir = data.draw(st.none() | st.floats(-30, 30))
        words.append(word(match[0], match.start(), pir))
    html = highlight(text, scored(*words))
    assert unescape(re.sub(r"<[^>]*>", "", html)) == text


def test_markup_in_a_reply_is_shown_and_never_run() -> None:
    text = "<img src=x onerror=alert(1)>"
    token = PersonalToken(
        token_id=1,
        text='"><script>',
        start=0,
        end=4,
        logprob=-0.1,
        logprob_without=-3.1,
        pir=3.0,
        personal=True,
    )
    html = highlight(text, scored(word("<img", 0, 3.0), tokens=(token,)))
    assert "<img" not in html
    assert "<script" not in html
    assert "&lt;img" in html


def test_the_tooltip_tells_pir_factor_and_both_logprobs() -> None:
    token = PersonalToken(
        token_id=7,
        text=" tea",
        start=0,
        end=4,
        logprob=-0.25,
        logprob_without=-2.55,
        pir=2.3,
        personal=True,
    )
    html = highlight(" tea", scored(word("tea", 1, 2.3), tokens=(token,)))
    tip = re.search(r'data-tip="([^"]*)"', html)
    assert tip is not None
    for part in ("PIR 2.30", "10.0× likelier", "tea", "0.25 with", "2.55 without"):  # noqa: RUF001
        assert part in unescape(tip[1])


def test_summary_counts_words_and_names_the_contrast() -> None:
    assert summary(scored(word("a", 0, 2.0), word("b", 2, 0.0))) == (
        "1 of 2 words depend on the persona in the prompt"
    )
    assert summary(Personalization(user="maeve")) == "No words to score."


def test_the_legend_shows_every_level() -> None:
    html = legend("adapter")
    assert all(f"pir-{n}" in html for n in range(1, 5))
    assert "the adapter" in html
