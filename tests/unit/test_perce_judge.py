import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perce.identification import word_spans, words_in
from perce.judge import judge_messages, judged

REPLY = "I start at Malibu; it\u2019s sun-bleached art, Malibu."


def found_words(verdict: str, reply: str = REPLY) -> list[str]:
    return [reply[start:end] for start, end in judged(reply, verdict).tokens]


def test_the_judge_is_shown_persona_question_and_reply() -> None:
    system, user = judge_messages(["I surf.", "I am 30 [really]."], "Where to?", "To Malibu.")
    assert (system["role"], user["role"]) == ("system", "user")
    assert "JSON list" in system["content"]
    assert user["content"] == (
        "Profile:\n- I surf.\n- I am 30 [really].\n\nQuestion: Where to?\nAnswer: To Malibu."
    )


@pytest.mark.parametrize(
    ("verdict", "words"),
    [
        ('["art"]', ["art"]),
        ('["Malibu"]', ["Malibu", "Malibu"]),
        ('["malibu; it\'s"]', ["Malibu", "it\u2019s"]),
        ('["bleached art", "art, Malibu."]', ["bleached", "art", "Malibu"]),
        ('```json\n["art"]\n```', ["art"]),
        ('{"personal": ["art"]}', ["art"]),
        ('<think>["start"] or [art]? No.</think>\n["Malibu"]', ["Malibu", "Malibu"]),
        ('Maybe ["art"], but no: []', []),
        ('["art"]\n\nSee [1] and [the profile].', ["art"]),
        ('["art", 3, null, ["start"], "", "  ", "."]', ["art"]),
        ('["Honolulu"]', []),
        ("[]", []),
        ("", []),
        ("art, Malibu", []),
        ('["art", "Mal', []),
        ("]art[", []),
        ('"art"]', []),
    ],
)
def test_a_verdict_is_read_leniently(verdict: str, words: list[str]) -> None:
    assert found_words(verdict) == words


@pytest.mark.parametrize(
    "verdict", ["[" * 100_000, "[" * 5_000 + "]" * 5_000, f"[{'1' * 5_000}]", '["\\ud800"]']
)
def test_hostile_json_identifies_nothing(verdict: str) -> None:
    assert found_words(verdict) == []


@pytest.mark.parametrize("reply", ["", "?!"])
def test_a_reply_without_words_has_nothing_to_judge(reply: str) -> None:
    judgement = judged(reply, '["?!", ""]')
    assert (judgement.tokens, judgement.words) == ((), ())


VERDICTS = st.one_of(
    st.text(),
    st.text('[]{}",\\ \n1eaMalibu'),
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text("Malibu art"),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=3), inner),
    ).map(json.dumps),
)


@given(st.text() | st.just(REPLY), VERDICTS)
def test_no_verdict_raises_and_words_are_those_of_the_reply(reply: str, verdict: str) -> None:
    judgement = judged(reply, verdict)
    assert [span for span, _ in judgement.words] == word_spans(reply)
    assert [span for span, score in judgement.words if score == 1.0] == list(judgement.tokens)
    assert {score for _, score in judgement.words} <= {0.0, 1.0}


@given(st.data(), st.text("no brackets\n"), st.text("here either."))
def test_every_word_that_the_judge_copies_is_found(
    data: st.DataObject, before: str, after: str
) -> None:
    reply = data.draw(st.text("ab c.,'-\u00e9\u0130\U0001f600", max_size=30))
    chosen = data.draw(st.sets(st.sampled_from(word_spans(reply)))) if word_spans(reply) else set()
    listed = json.dumps([reply[start:end] for start, end in sorted(chosen)])
    found = set(judged(reply, before + listed + after).tokens)
    assert chosen <= found
    copied = {reply[start:end] for start, end in chosen}
    # Besides the places that were meant, only others of the same words.
    assert all(any(word in reply[slice(*span)] for word in copied) for span in found - chosen)
    assert found <= set(words_in(reply, [(0, len(reply))]))
