"""Answers that come when the page is about something else already."""

from collections.abc import Callable, Iterator

import gradio as gr

from ui.conversation import Conversation
from ui.subject import Subject, timely, timely_parts


def test_an_answer_is_dropped_where_somebody_else_was_picked_meanwhile() -> None:
    subject = Subject("maeve")

    def look(name: str | None, picked: str) -> str:
        subject.pick(picked)
        return f"the page of {name}"

    assert timely(look)(subject, "maeve", "maeve") == "the page of maeve"
    assert timely(look)(subject, "maeve", "otto") == gr.skip()
    assert timely(look)(subject, "otto", "maeve") == gr.skip()
    assert timely(look)(subject, "maeve", "maeve") == "the page of maeve"


def test_an_answer_is_dropped_where_another_conversation_was_begun_meanwhile() -> None:
    subject = Subject("maeve")
    conversation = subject.begin()

    def score(conversation: Conversation, meanwhile: Callable[[], object]) -> str:
        meanwhile()
        return "scores"

    assert timely(score)(subject, conversation.asked("Hi"), dict) == "scores"
    assert timely(score)(subject, conversation.asked("Hi"), subject.begin) == gr.skip()
    assert timely(score)(subject, subject.begin(), lambda: subject.pick("otto")) == gr.skip()


def test_what_answers_in_parts_ends_with_the_first_that_is_late() -> None:
    subject = Subject("maeve")
    ended: list[str] = []

    def write(name: str | None) -> Iterator[str]:
        try:
            yield "Ah"
            subject.pick("otto")
            yield " sure"
            ended.append("went on")
        finally:
            ended.append("closed")

    assert list(timely_parts(write)(subject, "maeve")) == ["Ah"]
    assert ended == ["closed"]


def test_a_page_is_about_nobody_and_no_conversation_at_first() -> None:
    subject = Subject()
    assert subject.is_still(None) and subject.is_still(Conversation(id=""))
    assert not subject.is_still(Conversation())
