"""The four demo personas: well-formed, dated, varied, and told apart by their voices."""

import json
import math
import re
from collections import Counter
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import combinations, pairwise
from pathlib import Path

import pytest

DEMO = Path(__file__).parents[2] / "demo"
NAMES = sorted(path.parent.name for path in DEMO.glob("*/profile.json"))
HELD_OUT_SHARE = 0.2
EMOJI = "✨🥐😭💛"


@dataclass(frozen=True)
class Entry:
    """One line of a history."""

    query: str
    text: str
    time: datetime


def read_profile(name: str) -> dict[str, object]:
    profile = json.loads((DEMO / name / "profile.json").read_text(encoding="utf-8"))
    assert isinstance(profile, dict)
    return profile


def read_facts(name: str) -> list[str]:
    facts = read_profile(name)["facts"]
    assert isinstance(facts, list)
    return [str(fact) for fact in facts]


def read_history(name: str) -> list[Entry]:
    lines = (DEMO / name / "history.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    assert all(row.keys() == {"query", "text", "time"} for row in rows)
    return [Entry(row["query"], row["text"], datetime.fromisoformat(row["time"])) for row in rows]


def split_by_order(history: list[Entry]) -> tuple[list[Entry], list[Entry]]:
    """Oldest 80 % and newest 20 %."""
    cut = len(history) - math.ceil(len(history) * HELD_OUT_SHARE)
    return history[:cut], history[cut:]


def words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+(?:'[^\W_]+)?", text.lower())


def trigrams_of_words(text: str) -> set[tuple[str, ...]]:
    sequence = words(text)
    return {tuple(sequence[i : i + 3]) for i in range(len(sequence) - 2)}


def without_formulas(text: str) -> str:
    """The text without its first three and last six words: no opening formula, no sign-off."""
    return " ".join(text.split()[3:-6])


class CharacterNaiveBayes:
    """Multinomial naive Bayes over character n-grams of one to four, with add-one smoothing."""

    def __init__(self, texts_by_label: dict[str, list[str]]) -> None:
        self._counts = {
            label: Counter(gram for text in texts for gram in self._grams(text))
            for label, texts in texts_by_label.items()
        }
        self._totals = {label: sum(counts.values()) for label, counts in self._counts.items()}
        self._vocabulary = len(set().union(*self._counts.values()))

    @staticmethod
    def _grams(text: str) -> list[str]:
        return [text[i : i + n] for n in range(1, 5) for i in range(len(text) - n + 1)]

    def predict(self, text: str) -> str:
        grams = self._grams(text)

        def log_likelihood(label: str) -> float:
            counts, total = self._counts[label], self._totals[label]
            return sum(math.log((counts[gram] + 1) / (total + self._vocabulary)) for gram in grams)

        return max(self._counts, key=log_likelihood)


def held_out_accuracy(samples: dict[str, tuple[list[str], list[str]]]) -> float:
    """Share of held-out samples that the classifier gives to their own author."""
    classifier = CharacterNaiveBayes({name: train for name, (train, _) in samples.items()})
    hits = [
        classifier.predict(sample) == name
        for name, (_, held_out) in samples.items()
        for sample in held_out
    ]
    return sum(hits) / len(hits)


def texts_by_split(name: str) -> tuple[list[str], list[str]]:
    train, held_out = split_by_order(read_history(name))
    return [entry.text for entry in train], [entry.text for entry in held_out]


def test_there_are_four_people_with_plain_names() -> None:
    assert len(NAMES) == 4
    assert all(re.fullmatch(r"[a-z]+", name) for name in NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_profile_has_a_tagline_and_first_person_facts(name: str) -> None:
    profile = read_profile(name)
    assert profile.keys() == {"name", "tagline", "facts"}
    assert profile["name"] == name
    assert isinstance(profile["tagline"], str)
    assert 5 <= len(words(profile["tagline"])) <= 20
    facts = read_facts(name)
    assert 5 <= len(facts) <= 10
    assert len(set(facts)) == len(facts)
    assert all(re.match(r"(?:I|My)\b", fact, re.IGNORECASE) for fact in facts)
    assert all(3 <= len(words(fact)) <= 15 for fact in facts)


@pytest.mark.parametrize("name", NAMES)
def test_history_is_long_enough_and_its_texts_short_enough(name: str) -> None:
    history = read_history(name)
    assert len(history) >= 40
    assert all(15 <= len(entry.text.split()) <= 70 for entry in history)
    assert all(entry.query and entry.query == entry.query.strip() for entry in history)


@pytest.mark.parametrize("name", NAMES)
def test_dates_ascend_through_2026_and_carry_a_time_zone(name: str) -> None:
    times = [entry.time for entry in read_history(name)]
    assert all(time.tzinfo is not None for time in times)
    assert all(earlier < later for earlier, later in pairwise(times))
    assert {time.year for time in times} == {2026}
    assert times[-1].month <= 10
    assert times[-1] - times[0] >= timedelta(days=270)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("part", ["train", "held-out"])
def test_reviews_posts_and_chat_answers_are_about_a_third_each(name: str, part: str) -> None:
    train, held_out = split_by_order(read_history(name))
    queries = [entry.query for entry in (train if part == "train" else held_out)]
    reviews = sum(query.startswith("Write a review") for query in queries)
    posts = sum(query.startswith("Write a post") for query in queries)
    for count in (reviews, posts, len(queries) - reviews - posts):
        assert 0.2 <= count / len(queries) <= 0.45


def test_no_text_repeats_another() -> None:
    texts = [entry.text for name in NAMES for entry in read_history(name)]
    grams = [trigrams_of_words(text) for text in texts]
    for (i, left), (j, right) in combinations(enumerate(grams), 2):
        shared = len(left & right) / min(len(left), len(right))
        assert shared < 0.3, f"nearly the same: {texts[i]!r} and {texts[j]!r}"


@pytest.mark.parametrize("name", NAMES)
def test_every_fact_shows_up_in_the_texts(name: str) -> None:
    own, others = Counter[str](), Counter[str]()
    for author in NAMES:
        for entry in read_history(author):
            (own if author == name else others).update(set(words(entry.text)))
    for fact in read_facts(name):
        telling = [word for word in words(fact) if own[word] > others[word]]
        assert telling, f"{fact!r} has no word that is {name}'s own"


def test_the_log_names_the_weekday_of_its_date() -> None:
    for entry in read_history("anders"):
        assert entry.text.startswith(f"Log, {entry.time:%A}. ")


@pytest.mark.parametrize(
    ("name", "habit"),
    [
        ("anders", r"Log, [^!?;]* (?:10|[1-9]) out of 10\."),
        ("mina", rf"ok so (?=.*\bhonestly\b)(?=.*\bsooo\b)[^A-Z;]*!! [{EMOJI}]"),
        ("harriet", r"One (?=.*;)(?=.*\brather\b)[^!]* Verdict: [^!]*\."),
        ("wilf", r"Well now, (?=.*\breckon\b)[^!;]* W\.T\."),
    ],
    ids=["anders", "mina", "harriet", "wilf"],
)
def test_the_habits_that_the_readme_names_hold_in_every_text(name: str, habit: str) -> None:
    strays = [e.text for e in read_history(name) if not re.fullmatch(habit, e.text)]
    assert not strays


def test_newest_texts_are_told_apart_by_voice() -> None:
    assert held_out_accuracy({name: texts_by_split(name) for name in NAMES}) >= 0.9


def test_voices_differ_beyond_opening_and_sign_off() -> None:
    samples = {
        name: (
            [without_formulas(text) for text in train],
            [without_formulas(text) for text in held_out],
        )
        for name, (train, held_out) in ((name, texts_by_split(name)) for name in NAMES)
    }
    assert held_out_accuracy(samples) >= 0.9


def test_queries_do_not_give_the_author_away() -> None:
    """Control for the two tests above: all four are asked alike, so the voice must tell."""
    samples = {}
    for name in NAMES:
        train, held_out = split_by_order(read_history(name))
        samples[name] = ([entry.query for entry in train], [entry.query for entry in held_out])
    assert held_out_accuracy(samples) <= 0.6
