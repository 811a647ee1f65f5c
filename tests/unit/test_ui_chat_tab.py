from collections.abc import Iterator

import pytest
from scripted_gateway import ScriptedGateway
from scripted_records import KEY, REPLY, new_version

from ui.chat_tab import ChatTab, View, settle
from ui.conversation import Conversation
from ui.gateway import Gateway
from ui.records import Contrast
from ui.settings import UiSettings
from ui.subject import Subject

TEXT = "".join(text for text, _ in REPLY)
SETTINGS = UiSettings()


@pytest.fixture
def gateway(fake_gateway: ScriptedGateway) -> Iterator[Gateway]:
    with Gateway(fake_gateway.url, KEY) as gateway:
        yield gateway


@pytest.fixture
def chat(gateway: Gateway) -> ChatTab:
    return ChatTab(gateway, SETTINGS)


def say(tab: ChatTab, message: str, conversation: Conversation | None = None) -> list[View]:
    return list(
        tab.send(conversation or Conversation(), message, "maeve", "persona", "active", True)
    )


def test_a_reply_appears_as_it_is_written_and_then_with_its_words_marked(chat: ChatTab) -> None:
    views = say(chat, "Hi")
    writing, finished = views[0], views[-1]
    assert "caret" in writing[1]
    assert "<mark" not in writing[1]
    assert "caret" not in finished[1]
    assert finished[1].count("<mark") == sum(pir > 1 for _, pir in REPLY)
    assert finished[0].last_reply() is not None
    assert finished[4]["interactive"] and finished[5]["interactive"]


def test_the_box_is_emptied_once_and_send_and_contrast_wait_for_the_reply(chat: ChatTab) -> None:
    first, *others = say(chat, "Hi")
    assert len(others) > 1
    assert first[3]["value"] == ""
    assert all("value" not in view[3] for view in others)
    for view in (first, *others[:-1]):
        assert not view[6]["interactive"] and not view[7]["interactive"]
    assert others[-1][6]["interactive"] and others[-1][7]["interactive"]


def test_what_was_in_the_context_is_shown_escaped(chat: ChatTab) -> None:
    context = say(chat, "Hi")[-1][2]
    assert "I live in Galway" in context
    assert "0.81" in context
    assert "&lt;b&gt;I like &amp; dislike HTML" in context


def test_the_next_message_carries_the_conversation(
    chat: ChatTab, fake_gateway: ScriptedGateway
) -> None:
    first = say(chat, "Hi")[-1][0]
    say(chat, "And?", first)
    body = fake_gateway.requests[-1][2]
    assert [message["content"] for message in body["messages"]] == ["Hi", TEXT, "And?"]
    assert body["personalization"]["conversation"] == first.id


def test_a_new_conversation_leaves_the_draft_alone(chat: ChatTab) -> None:
    first = say(chat, "Hi")[-1][0]
    subject = Subject("mina", first.id)
    begun = chat.begin(subject, "mina")
    assert begun[0].turns == () and begun[0].id != first.id
    assert subject.is_still(begun[0]) and not subject.is_still(first)
    assert "value" not in begun[3]


@pytest.mark.parametrize(
    ("status", "message"), [(503, "The engine is starting."), (413, "The message is too <long>.")]
)
def test_a_refused_message_is_left_unsent_and_the_gateways_words_are_shown(
    chat: ChatTab, fake_gateway: ScriptedGateway, status: int, message: str
) -> None:
    before = say(chat, "Hi")[-1][0]
    fake_gateway.fail("/v1/chat", status, message)
    with pytest.warns(UserWarning, match=message.replace("<", "&lt;").replace(">", "&gt;")):
        last = say(chat, "Again", before)[-1]
    assert last[0] == before
    assert last[8] == "Again"


def test_an_unsent_message_goes_back_before_what_was_typed_since() -> None:
    box, unsent, send, contrast = settle("And?", "Again")
    assert (box["value"], unsent) == ("Again\nAnd?", "")
    assert send["interactive"] and contrast["interactive"]
    assert "value" not in settle("And?", "")[0]


def test_an_engine_that_dies_on_the_way_leaves_the_conversation_as_it_was(
    chat: ChatTab, fake_gateway: ScriptedGateway
) -> None:
    fake_gateway.break_stream = True
    with pytest.warns(UserWarning, match="engine went away"):
        last = say(chat, "Hi")[-1]
    assert last[0].turns == ()
    assert last[8] == "Hi"


def test_without_persona_or_message_nothing_is_sent(
    chat: ChatTab, fake_gateway: ScriptedGateway
) -> None:
    with pytest.warns(UserWarning, match="persona"):
        list(chat.send(Conversation(), "Hi", None, "persona", "active", True))
    with pytest.warns(UserWarning, match="message"):
        say(chat, "  ")
    assert fake_gateway.requests == []


def test_another_contrast_scores_the_same_tokens_anew_and_keeps_the_context(
    chat: ChatTab, fake_gateway: ScriptedGateway
) -> None:
    conversation = say(chat, "Hi")[-1][0]
    rescored, page, key = chat.rescore(conversation, "maeve", "both")
    _, path, body = fake_gateway.requests[-1]
    assert path == "/v1/pir"
    assert body["token_ids"] == [100 + n for n in range(len(REPLY))]
    assert body["messages"] == [{"role": "user", "content": "Hi"}]
    assert body["adapter"] == "v1"
    assert body["conversation"] == conversation.id
    assert page.count("<mark") == sum(pir / 2 > 1 for _, pir in REPLY)
    assert "persona and adapter" in key
    old, new = conversation.last_reply(), rescored.last_reply()
    assert old and new and old.personalization and new.personalization
    assert new.personalization.context == old.personalization.context


@pytest.mark.parametrize(
    ("user", "contrast", "adapter", "persona", "why"),
    [
        ("maeve", "persona", "active", False, "no persona in the prompt"),
        ("maeve", "both", "active", False, "no persona in the prompt"),
        ("maeve", "adapter", "none", True, "no adapter to take away"),
        ("otto", "adapter", "active", True, "no adapter to take away"),
    ],
)
def test_a_reply_that_cannot_be_scored_is_given_all_the_same_and_says_why(
    chat: ChatTab, user: str, contrast: Contrast, adapter: str, persona: bool, why: str
) -> None:
    last = list(chat.send(Conversation(), "Hi", user, contrast, adapter, persona))[-1]
    assert "start with a pot" in last[1]
    assert "<mark" not in last[1]
    assert why in last[1]


def test_a_contrast_that_cannot_be_scored_clears_the_marks_until_one_can(
    chat: ChatTab, fake_gateway: ScriptedGateway
) -> None:
    first = list(chat.send(Conversation(), "Hi", "otto", "persona", "active", True))[-1][0]
    without, page, _ = chat.rescore(first, "otto", "adapter")
    assert "<mark" not in page
    assert "no adapter to take away" in page
    _, page, _ = chat.rescore(without, "otto", "persona")
    assert page.count("<mark") == sum(pir > 1 for _, pir in REPLY)
    assert fake_gateway.requests[-1][2]["token_ids"] == [100 + n for n in range(len(REPLY))]


def test_a_reply_of_the_populations_version_is_scored_and_scored_anew(
    chat: ChatTab, fake_gateway: ScriptedGateway
) -> None:
    fake_gateway.refreshes.population = "population@v1"
    halved = sum(pir / 2 > 1 for _, pir in REPLY)
    last = list(chat.send(Conversation(), "Hi", "otto", "adapter", "active", True))[-1]
    assert "adapter population@v1" in last[1]
    assert last[1].count("<mark") == halved
    _, page, _ = chat.rescore(last[0], "otto", "both")
    assert fake_gateway.requests[-1][2]["adapter"] == "active"
    assert page.count("<mark") == halved


def test_a_reply_is_not_scored_by_another_version_than_the_one_that_wrote_it(
    chat: ChatTab, fake_gateway: ScriptedGateway
) -> None:
    fake_gateway.refreshes.population = "population@v1"
    first = list(chat.send(Conversation(), "Hi", "otto", "persona", "active", True))[-1][0]
    fake_gateway.refreshes.population = "population@v2"
    _, page, _ = chat.rescore(first, "otto", "both")
    assert "<mark" not in page
    assert "another version answers now" in page


def test_a_score_that_the_gateway_refuses_is_said_and_clears_the_marks(
    chat: ChatTab, fake_gateway: ScriptedGateway
) -> None:
    conversation = say(chat, "Hi")[-1][0]
    fake_gateway.fail("/v1/pir", 503, "The engine is starting.")
    with pytest.warns(UserWarning, match="engine is starting"):
        _, page, _ = chat.rescore(conversation, "maeve", "both")
    assert "<mark" not in page


def test_scores_are_asked_for_as_whoever_got_the_reply(
    chat: ChatTab, fake_gateway: ScriptedGateway
) -> None:
    conversation = say(chat, "Hi")[-1][0]
    chat.rescore(conversation, "otto", "both")
    assert fake_gateway.requests[-1][2]["user"] == "maeve"


def test_another_contrast_before_the_first_reply_changes_just_the_legend(
    chat: ChatTab, fake_gateway: ScriptedGateway
) -> None:
    conversation = Conversation()
    assert chat.rescore(conversation, "maeve", "adapter")[0] == conversation
    assert fake_gateway.requests == []


def test_endorsing_names_the_reply_and_the_user(
    chat: ChatTab, fake_gateway: ScriptedGateway
) -> None:
    chat.endorse(say(chat, "Hi")[-1][0], "up")
    expected = {"id": "chatcmpl-1", "user": "maeve", "feedback": "up", "edited": None}
    assert fake_gateway.requests[-1][1:] == ("/v1/feedback", expected)


def test_the_adapter_choices_are_what_the_persona_has(chat: ChatTab) -> None:
    assert chat.adapters("maeve")["choices"] == [
        ("Active (v1)", "active"),
        ("None: base model", "none"),
        ("v1 (active)", "v1"),
    ]
    assert chat.adapters("maeve", "v1")["value"] == "v1"
    assert chat.adapters("maeve", "v7")["value"] == "active"
    assert chat.adapters(None)["choices"][0] == ("Active (none yet)", "active")


def test_the_adapter_choices_name_what_answers_and_the_newest_version_first(
    chat: ChatTab, fake_gateway: ScriptedGateway
) -> None:
    fake_gateway.refreshes.population = "population@v1"
    assert chat.adapters("otto")["choices"][0] == ("Active (population@v1)", "active")
    fake_gateway.users["maeve"]["adapters"][0]["state"] = "retired"
    fake_gateway.users["maeve"]["adapters"].append(new_version("maeve", 2, "active", "v1"))
    assert chat.adapters("maeve")["choices"][2:] == [("v2 (active)", "v2"), ("v1 (retired)", "v1")]
