import base64
import random
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapt.curation import Curated, StoredText, curate, explain
from adapt.duplicates import NearDuplicates
from adapt.language import flaw, words
from adapt.voice import ModelVoice, is_stock_phrase
from perce.tokens import ChatTokenizer
from server.store.memory import LoggedReply

NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)
DISCLAIMER = "This message and all that is attached to it are meant for the addressee alone."
VOCABULARY = [f"{a}{b}{c}" for a in "bdklmnprst" for b in "aeiou" for c in "lmnrst"]


def prose(seed: int, count: int) -> str:
    return " ".join(random.Random(seed).choices(VOCABULARY, k=count))


def stored(texts: Iterable[str], source: str = "import") -> list[StoredText]:
    return [StoredText(i + 1, f"query {i}", t, float(i), source) for i, t in enumerate(texts)]


def curated(
    texts: Sequence[StoredText],
    tokenizer: ChatTokenizer,
    replies: Sequence[LoggedReply] = (),
    max_length: int = 2048,
    max_texts: int = 2000,
) -> Curated:
    return curate(texts, ModelVoice(replies), tokenizer, max_length, max_texts)


def said(text: str, query: str = "q", endorsed: bool = False, at: datetime = NOON) -> LoggedReply:
    return LoggedReply(query, text, endorsed, at)


def test_copies_are_told_by_their_words(reference_tokenizer: ChatTokenizer) -> None:
    copies = ["I baked bread, twice!", "i  baked\nbread twice", "I BAKED — bread: twice…"]
    found = curated(stored([*copies, "I baked rolls, twice!"]), reference_tokenizer)
    assert [text.id for text in found.texts] == [1, 4]
    assert found.left_out == {"duplicate": 2}


@pytest.mark.parametrize(
    ("changed", "alike"), [(1, True), (3, True), (30, False)], ids=["one", "three", "half"]
)
def test_near_copies_are_told_by_their_word_triples(
    reference_tokenizer: ChatTokenizer, changed: int, alike: bool
) -> None:
    one = prose(0, 60).split()
    other = [*one[: 60 - changed], *prose(1, changed).split()]
    found = curated(stored([" ".join(one), " ".join(other)]), reference_tokenizer)
    assert found.left_out == ({"near_duplicate": 1} if alike else {})
    assert found.texts[0].id == 1


@settings(deadline=None, max_examples=40)
@given(st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=30), st.data())
def test_near_copies_agree_with_counting_all_triples(first: list[str], data: st.DataObject) -> None:
    def triples(of: list[str]) -> set[tuple[str, ...]]:
        return {tuple(of[i : i + 3]) for i in range(max(1, len(of) - 2))}

    second = list(first)
    second[data.draw(st.integers(0, len(first) - 1))] = data.draw(st.sampled_from("abxy"))
    unlike = NearDuplicates()
    assert not unlike.add(first)
    common, every = triples(first) & triples(second), triples(first) | triples(second)
    assert unlike.add(second) == (len(common) / len(every) >= 0.8)


def test_a_repeated_paragraph_stays_in_its_oldest_text(reference_tokenizer: ChatTokenizer) -> None:
    texts = [f"{prose(seed, 12)}\n{DISCLAIMER}" for seed in range(4)]
    found = curated(stored([*texts, f"Sure.\n{DISCLAIMER}"]), reference_tokenizer)
    assert [text.text for text in found.texts] == [texts[0], *(prose(i, 12) for i in (1, 2, 3))]
    assert found.left_out == {"boilerplate": 1}
    assert found.trimmed == 3


def test_a_paragraph_in_two_texts_and_a_short_closing_line_are_the_users_way(
    reference_tokenizer: ChatTokenizer,
) -> None:
    texts = [f"{prose(seed, 12)}\nYours ever, W.T." for seed in range(8)]
    texts[2:4] = [f"{text}\n{DISCLAIMER}" for text in texts[2:4]]
    found = curated(stored(texts), reference_tokenizer)
    assert [text.text for text in found.texts] == texts
    assert (found.left_out, found.trimmed) == ({}, 0)


def wall(size: int, every: int = 0) -> str:
    text = base64.b64encode(random.Random(1).randbytes(size)).decode()
    step = every or len(text)
    return " ".join(text[i : i + step] for i in range(0, len(text), step))


NO_LANGUAGE = [
    (wall(300), "not_language"),
    (wall(300, every=76).replace(" ", "\n"), "not_language"),
    (wall(600, every=9), "not_language"),
    ("Here it is: " + wall(300), "not_language"),
    (random.Random(2).randbytes(200).hex(" "), "not_language"),
    ("4711 0815 42 17 33", "not_language"),
    ("?!... --- ...", "not_language"),
    ("https://example.org/a/very/long/path/to/something?with=a&query=string", "not_language"),
    ("😀🎉 👍🏽👨‍👩‍👧", "emoji_only"),
    ("Bread.", "one_word"),
    ("don't!", "one_word"),
    ("हिन्दी", "one_word"),
    ("はい", "one_word"),
    ("👍 ok", "one_word"),
    ("buy now and save " * 12, "repetitive"),
]
LANGUAGE = [
    "Bread again.",
    "ok so this pan is sooo heavy 😭😭😭😭😭😭😭😭 but the edges?? ✨",
    "ありがとうございます、明日また来ます。",
    "好的 我们明天早上八点见面吧",
    "ขอบคุณมากครับ พรุ่งนี้เจอกัน",
    "मैं आज घर पर हूँ और रोटी बना रहा हूँ",
    "\u202bשלום עולם, מה שלומך היום?\u202c",  # noqa: RUF001 - that is how Hebrew is written
    "Grüße aus Zürich — naïve façade, ¿qué tal? Я дома.",
    "Water: 4 of 5, wind 12 kn, all well on board.",
    "See https://example.org/a/very/long/path/to/something?with=a&query=string for how "
    "the bakery on our street makes its rolls, and tell me what you think of the crust.",
    "Rindfleischetikettierungsüberwachungsaufgabenübertragungsgesetz ist ein langes Wort.",
    "def add(a, b):\n    return a + b  # the sum, as everybody would expect it to be",
]


@pytest.mark.parametrize(("text", "reason"), NO_LANGUAGE)
def test_what_teaches_no_language_is_left_out(text: str, reason: str) -> None:
    assert flaw(text, words(text)) == reason


@pytest.mark.parametrize("text", LANGUAGE)
def test_languages_of_all_scripts_are_learnt_from(text: str) -> None:
    assert flaw(text, words(text)) is None


@pytest.mark.parametrize(
    "text",
    [
        "As an AI language model, I do not have a favourite bread.",
        "I'm sorry, but I can't assist with that.",
        "I\u2019m sorry, I cannot help you with this request, as it goes against my guidelines.",
        "Hello! How can I help you today?",
        "How may I assist you?",
    ],
)
def test_stock_phrases_are_the_models(text: str) -> None:
    assert is_stock_phrase(text)


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't come on Sunday; the oven is being repaired.",
        "How can I help you see what I mean? Picture a loaf " + "and then another " * 20,
        "An AI wrote this ad, I think.",
        "Hello! How was the ferry?",
    ],
)
def test_what_people_say_is_theirs(text: str) -> None:
    assert not is_stock_phrase(text)


def test_a_reply_that_was_not_endorsed_is_not_the_users(reference_tokenizer: ChatTokenizer) -> None:
    replies = [
        said("The crust wants steam, I find."),
        said("Rolls are quicker, to be fair.", endorsed=True),
        said("Salt goes in last, as ever."),
    ]
    texts = stored(["the crust wants steam I find", "Rolls are quicker, to be fair."])
    # Written before the model said it: the model has learnt to say what the user says.
    early = StoredText(3, "q", "Salt goes in last, as ever.", 3.0, since=NOON - timedelta(days=1))
    found = curated([*texts, early], reference_tokenizer, replies)
    assert [text.id for text in found.texts] == [2, 3]
    assert found.left_out == {"model_voice": 1}


def test_a_liked_reply_to_anything_is_the_models_and_an_edit_never_is(
    reference_tokenizer: ChatTokenizer,
) -> None:
    stock = "That is a good question, thank you."
    replies = [said(stock, f"question {i}", endorsed=i == 0) for i in range(3)]
    replies += [said("Steam it well, then wait.", "crust?", endorsed=True)] * 3
    liked = stored([stock, "Steam it well, then wait."], "liked")
    found = curated(liked, reference_tokenizer, replies)
    assert [text.id for text in found.texts] == [2]
    assert found.left_out == {"model_voice": 1}
    assert curated(stored([stock], "edited"), reference_tokenizer, replies).left_out == {}


def test_the_newest_are_taken_of_too_many(reference_tokenizer: ChatTokenizer) -> None:
    found = curated(stored(prose(i, 12) for i in range(12)), reference_tokenizer, max_texts=5)
    assert [text.id for text in found.texts] == [8, 9, 10, 11, 12]
    assert found.left_out == {"too_old": 7}


def test_too_long_is_counted_in_tokens(reference_tokenizer: ChatTokenizer) -> None:
    fits, exceeds = prose(0, 30), prose(1, 200)
    assert reference_tokenizer.count(fits) <= 200 < reference_tokenizer.count(exceeds)
    found = curated(stored([fits, exceeds, "z" * 90_000]), reference_tokenizer, max_length=200)
    assert [text.id for text in found.texts] == [1]
    assert found.left_out == {"too_long": 2}


def test_what_was_left_out_is_said_in_words() -> None:
    counts = {"duplicate": 3, "too_long": 12, "model_voice": 1}
    said = "12 over the length limit, 3 duplicate, 1 in the model's own voice"
    assert explain(counts) == said
    assert explain({}) == ""
