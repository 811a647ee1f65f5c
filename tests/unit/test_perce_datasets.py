import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perce.datasets.aloe import (
    NoScore,
    improvement,
    judge_messages,
    judged_score,
    read_aloe,
    scores_by_turn,
)
from perce.datasets.longlamp import read_longlamp
from perce.datasets.records import UnreadableDataset
from perce.datasets.writers import Written, read_users, split_by_order


def lines(path: Path, *records: object) -> Path:
    content = "".join(f"{json.dumps(record, ensure_ascii=False)}\n" for record in records)
    packed = content.encode()
    path.write_bytes(gzip.compress(packed) if path.suffix == ".gz" else packed)
    return path


def text(user: str, order: object, content: object = "Words.") -> dict[str, object]:
    return {"user": user, "order": order, "query": f"Query {order}?", "text": content}


@pytest.mark.parametrize("name", ["users.jsonl", "users.jsonl.gz"])
def test_users_are_split_by_order_and_the_largest_come_first(tmp_path: Path, name: str) -> None:
    few = [text("b", n) for n in (2, 1)]
    many = [text("a", n) for n in (9, 3, 7, 1, 5)]
    first, second = read_users(lines(tmp_path / name, *few, *many))
    assert (first.name, second.name) == ("a", "b")
    assert [one.query for one in first.train] == [f"Query {n}?" for n in (1, 3, 5, 7)]
    assert [one.query for one in first.test] == ["Query 9?"]
    assert [len(second.train), len(second.test)] == [1, 1]


@pytest.mark.parametrize("at", [0, 15, -1])
def test_a_damaged_packed_file_is_named(tmp_path: Path, at: int) -> None:
    file = lines(tmp_path / "users.jsonl.gz", *(text("a", n) for n in range(20)))
    packed = bytearray(file.read_bytes())
    packed[at] ^= 0xFF
    file.write_bytes(packed)
    with pytest.raises(UnreadableDataset, match=r"users\.jsonl\.gz cannot be read"):
        read_users(file)


@pytest.mark.parametrize(("texts", "tests"), [(2, 1), (7, 1), (8, 2), (10, 2), (50, 10)])
def test_the_newest_fifth_tests(texts: int, tests: int) -> None:
    own = [Written(str(n), "Words.") for n in range(texts)]
    writer = split_by_order("a", own)
    assert [*writer.train, *writer.test] == own
    assert len(writer.test) == tests


def test_only_the_newest_texts_are_taken_and_lone_ones_left_out(tmp_path: Path) -> None:
    file = lines(tmp_path / "u.jsonl", *(text("a", n) for n in range(10)), text("lone", 0))
    [writer] = read_users(file, most_texts=4)
    queries = [one.query for one in (*writer.train, *writer.test)]
    assert queries == ["Query 6?", "Query 7?", "Query 8?", "Query 9?"]


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ("{no json", "no JSON"),
        ("[1, 2]", "no JSON object"),
        (json.dumps(text("a", 1, "  ")), "'text' is no text"),
        (json.dumps(text("a", 1, None)), "'text' is no text but null"),
        (json.dumps({"user": "a", "order": 1, "text": "x"}), "'query' is missing"),
        (json.dumps(text("a", "1")), "'order' is no number"),
        (json.dumps(text("a", True)), "'order' is no number"),
    ],
)
def test_a_broken_line_is_named_with_its_reason(tmp_path: Path, broken: str, reason: str) -> None:
    file = tmp_path / "users.jsonl"
    file.write_text(f"{json.dumps(text('a', 0))}\n\n{broken}\n")
    with pytest.raises(UnreadableDataset) as error:
        read_users(file)
    assert str(error.value).startswith(f"{file}, line 3: ")
    assert reason in str(error.value)


@pytest.mark.parametrize("content", [b"", b"\n \n", b"\xff\xfe", b"[]"])
def test_a_file_without_records_is_named(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "users.jsonl"
    file.write_bytes(content)
    with pytest.raises(UnreadableDataset, match=r"users\.jsonl"):
        read_users(file)


def test_a_file_that_is_not_packed_as_its_name_says_is_named(tmp_path: Path) -> None:
    file = tmp_path / "users.jsonl.gz"
    file.write_bytes(b"plain")
    with pytest.raises(UnreadableDataset, match="gzip"):
        read_users(file)


def test_a_line_separator_inside_a_text_does_not_end_the_line(tmp_path: Path) -> None:
    file = lines(tmp_path / "u.jsonl", text("a", 0, "one\u2028two"), text("a", 1))
    assert read_users(file)[0].train[0].text == "one\u2028two"


ABSTRACTS = {
    "name": "Ada",
    "input": 'Generate an abstract for the title "C" using the following items: 1. x',
    "output": "We show C.",
    "profile": [
        {"id": "2", "title": "B", "abstract": "We show B.", "year": 2018},
        {"id": "1", "title": "A", "abstract": "We show A.", "year": 2009},
        {"id": "3", "title": "None", "abstract": " ", "year": 2019},
    ],
}
REVIEWS = {
    "reviewerId": "R1",
    "input": "Generate the review text ...",
    "output": "Sturdy.",
    "profile": [
        {"overall": "5.0", "summary": "Good", "description": "A lamp", "reviewText": "It shines."},
        {"overall": "1.0", "summary": None, "description": "A pan", "reviewText": "It rusts."},
    ],
}
TOPICS = {
    "author": "jo",
    "input": "Generate the content for a reddit post Cats",
    "output": "Cats are fine.",
    "profile": [{"author": "jo", "id": "t", "summary": "Dogs", "content": "Dogs are loud."}],
}


@pytest.mark.parametrize("listed", [True, False])
def test_longlamps_tasks_are_told_by_their_user_field(tmp_path: Path, listed: bool) -> None:
    file = tmp_path / "task.json"
    records = [ABSTRACTS, REVIEWS, TOPICS]
    if listed:
        file.write_text(json.dumps(records))
    else:
        lines(file, *records)
    ada, reviewer, jo = read_longlamp(file)
    assert [writer.name for writer in (ada, reviewer, jo)] == ["Ada", "R1", "jo"]
    # The oldest paper first, the one without an abstract left out.
    assert ada.train == (
        Written('Generate an abstract for the title "A"', "We show A."),
        Written('Generate an abstract for the title "B"', "We show B."),
    )
    assert ada.test == (Written(str(ABSTRACTS["input"]), "We show C."),)
    assert [one.text for one in reviewer.train] == ["It shines.", "It rusts."]
    assert all(part in reviewer.train[0].query for part in ('"5.0"', '"A lamp"', '"Good"'))
    assert '""' in reviewer.train[1].query
    assert jo.train == (Written("Generate the content for a reddit post Dogs", "Dogs are loud."),)
    assert jo.test[0].text == "Cats are fine."


def test_longlamp_keeps_one_record_of_a_user_and_none_without_profile(tmp_path: Path) -> None:
    later = TOPICS | {"output": "Dogs are loud.", "profile": [{"content": "Cats are fine."}]}
    silent = TOPICS | {"author": "al", "profile": []}
    [jo] = read_longlamp(lines(tmp_path / "t.jsonl", TOPICS, later, silent))
    assert (jo.test[0].text, jo.train[0].text) == ("Cats are fine.", "Dogs are loud.")


def test_longlamp_takes_the_last_texts_of_a_profile(tmp_path: Path) -> None:
    [ada] = read_longlamp(lines(tmp_path / "a.jsonl", ABSTRACTS), most_texts=1)
    assert [one.text for one in ada.train] == ["We show B."]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"profile": "none"}, "'profile' is no list"),
        ({"profile": ["text"]}, "'profile' is no list"),
        ({"output": ""}, "'output' is no text"),
        ({"name": None}, "'name' is no text"),
    ],
)
def test_a_broken_record_of_longlamp_is_named(
    tmp_path: Path, change: dict[str, Any], reason: str
) -> None:
    file = tmp_path / "a.json"
    file.write_text(json.dumps([ABSTRACTS, ABSTRACTS | change]))
    with pytest.raises(UnreadableDataset, match=f"record 2: .*{reason}"):
        read_longlamp(file)


def test_a_record_of_no_task_is_named(tmp_path: Path) -> None:
    file = lines(tmp_path / "a.jsonl", {"input": "x", "output": "y", "profile": []})
    with pytest.raises(UnreadableDataset, match="name, reviewerId, author"):
        read_longlamp(file)


TURNS = [
    {"user": f"Hi {n}", "assistant": {"preferred": f"P{n}", "rejected": f"R{n}"}, "chosen": chosen}
    for n, chosen in enumerate(["rejected", "preferred", "preferred"])
]
DIALOGUE = {"profile": "He brews beer.", "personality": "Witty.", "conversations": TURNS}


def test_a_dialogue_goes_on_with_the_chosen_replies(tmp_path: Path) -> None:
    [dialogue] = read_aloe(lines(tmp_path / "aloe.jsonl", DIALOGUE))
    assert (dialogue.profile, dialogue.personality) == ("He brews beer.", "Witty.")
    assert [message["content"] for message in dialogue.messages(2)] == [
        *("Hi 0", "R0", "Hi 1", "P1", "Hi 2")
    ]
    roles = [message["role"] for message in dialogue.messages(2)]
    assert roles == ["user", "assistant", "user", "assistant", "user"]


@pytest.mark.parametrize(
    ("turn", "reason"),
    [
        ({"chosen": "both"}, "'chosen'"),
        ({"assistant": "P"}, "'assistant'"),
        ({"assistant": {"preferred": "P"}}, "'rejected' is missing"),
        ({"user": ""}, "'user' is no text"),
    ],
)
def test_a_broken_turn_is_named(tmp_path: Path, turn: dict[str, Any], reason: str) -> None:
    broken = DIALOGUE | {"conversations": [TURNS[0], TURNS[1] | turn]}
    with pytest.raises(UnreadableDataset, match=f"line 2, turn 2: .*{reason}"):
        read_aloe(lines(tmp_path / "aloe.jsonl", DIALOGUE, broken))


def test_the_judge_sees_the_user_the_message_and_the_reply() -> None:
    system, asked = judge_messages("He brews beer.", "Witty.", "Cheers?", "Prost!")
    assert (system["role"], asked["role"]) == ("system", "user")
    assert "1" in system["content"] and "5" in system["content"]
    parts = ("He brews beer.", "Witty.", "Cheers?", "Prost!")
    places = [asked["content"].index(part) for part in parts]
    assert places == sorted(places)


@pytest.mark.parametrize(("verdict", "score"), [("4", 4), (" 5\n", 5), ("Score: 3/5", 3)])
def test_a_score_is_read(verdict: str, score: int) -> None:
    assert judged_score(verdict) == score


@pytest.mark.parametrize("verdict", ["", "good", "6", "0", "-3", "3.5", "4 or 5"])
def test_what_is_no_score_is_an_error(verdict: str) -> None:
    with pytest.raises(NoScore):
        judged_score(verdict)


def test_a_turns_scores_are_those_of_the_dialogues_that_got_there() -> None:
    assert scores_by_turn([[1, 2, 3], [3, 4]]) == [[1, 3], [2, 4], [3]]
    assert scores_by_turn([[None, 2], [5, None]]) == [[5], [2]]
    assert scores_by_turn([[None], []]) == [[]]
    assert scores_by_turn([]) == []


def line(levels: Sequence[float | None]) -> list[float]:
    """The rate and R² of levels that have them."""
    grown = improvement(levels)
    assert grown is not None
    return [grown.rate, grown.r_squared]


@pytest.mark.parametrize("levels", [[1.0, 2, 3, 4], [2.5, 2.6, 2.7, 2.8], [0, 50, 100, 150]])
def test_a_straight_rise_goes_from_0_to_1_in_all_turns_but_one(levels: list[float]) -> None:
    assert line(levels) == pytest.approx([1 / 3, 1])
    assert line(levels[::-1]) == pytest.approx([-1 / 3, 1])


def test_a_turn_without_a_level_leaves_the_others_in_their_places() -> None:
    assert line([1.0, None, 3.0, 4.0]) == pytest.approx([1 / 3, 1])


def test_levels_that_go_up_and_down_alike_have_no_rate_and_explain_nothing() -> None:
    assert line([1.0, 4.0, 1.0]) == pytest.approx([0, 0])


@pytest.mark.parametrize("levels", [[], [3.0], [2.0, 2.0, 2.0], [None, 4.0, None]])
def test_levels_without_a_range_have_no_rate(levels: list[float | None]) -> None:
    assert improvement(levels) is None


@given(st.lists(st.integers(20, 100), min_size=2, max_size=10).filter(lambda x: len({*x}) > 1))
def test_the_improvement_is_numpys_line_through_the_normalised_levels(scores: list[int]) -> None:
    levels = np.array(scores) / 20
    normalised = (levels - levels.min()) / (levels.max() - levels.min())
    turns = np.arange(1, len(levels) + 1)
    slope, _ = np.polyfit(turns, normalised, 1)
    correlation = np.corrcoef(turns, levels)[0, 1]
    assert line(levels.tolist()) == pytest.approx([slope, correlation**2], abs=1e-9)
