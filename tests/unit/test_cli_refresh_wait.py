import pytest

from scripts.attune.refresh_report import data_lines
from scripts.attune.refresh_wait import duration, stage_line
from ui.records import Refresh


def refresh(**values: object) -> Refresh:
    head = {"id": "r", "user": "mina", "method": "perce", "status": "running", "created_at": "now"}
    return Refresh.model_validate(head | values)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "0 s"), (59.4, "59 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")],
)
def test_durations_are_said_as_people_say_them(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_the_line_of_a_refresh_that_trains_has_its_pace() -> None:
    progress = {"step": 3, "steps": 9, "tokens_per_s": 1234.5, "seconds_left": 61.0}
    line = stage_line(refresh(stage="train", progress=progress))
    assert line == "train · 1,234 tokens/s · 1 min 1 s left"


def test_the_line_says_what_is_known() -> None:
    assert stage_line(refresh(status="queued")) == "queued"
    assert stage_line(refresh(stage="train", cancel_requested=True)) == "being cancelled"
    assert stage_line(refresh(status="cancelled")) == "cancelled"


def test_the_report_says_what_was_learnt_from_and_left_out() -> None:
    report = {
        "examples": {
            "train": 20,
            "held_out": 1,
            "replayed": 7,
            "left_out": {"duplicate": 3},
            "left_out_in_words": "3 duplicate",
        },
        "training": {
            "steps": 15,
            "tokens": 3000,
            "seconds": 2.0,
            "first_loss": 2.5,
            "last_loss": 1.25,
        },
    }
    assert data_lines(refresh(status="succeeded", report=report)) == [
        "learnt from 20 texts, 7 of them again; judged on 1 text; left out: 3 duplicate.",
        "trained 15 steps at 1,500 tokens/s, loss 2.500 → 1.250.",
    ]
    assert data_lines(refresh(report={})) == []
