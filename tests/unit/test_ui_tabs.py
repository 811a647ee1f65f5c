from collections.abc import Iterator
from pathlib import Path

import pytest
from scripted_gateway import ScriptedGateway
from scripted_records import KEY, REPLY

from ui.adapters_tab import AdaptersTab, rollback_choices
from ui.app import Header
from ui.chat_tab import ChatTab, View
from ui.conversation import Conversation
from ui.gateway import Gateway
from ui.memory_tab import MemoryTab
from ui.records import Contrast
from ui.schedule_tab import ScheduleTab
from ui.settings import UiSettings

TEXT = "".join(text for text, _ in REPLY)
SETTINGS = UiSettings()


@pytest.fixture
def fake() -> Iterator[ScriptedGateway]:
    with ScriptedGateway() as fake:
        yield fake


@pytest.fixture
def gateway(fake: ScriptedGateway) -> Iterator[Gateway]:
    with Gateway(fake.url, KEY) as gateway:
        yield gateway


@pytest.fixture
def chat(gateway: Gateway) -> ChatTab:
    return ChatTab(gateway, SETTINGS)


def say(tab: ChatTab, message: str, conversation: Conversation | None = None) -> list[View]:
    return list(
        tab.send(message, "maeve", conversation or Conversation(), "persona", "active", True)
    )


def test_a_reply_appears_as_it_is_written_and_then_with_its_words_marked(chat: ChatTab) -> None:
    views = say(chat, "Hi")
    writing, finished = views[0], views[-1]
    assert "caret" in writing[1]
    assert "<mark" not in writing[1]
    assert "caret" not in finished[1]
    assert finished[1].count("<mark") == sum(pir > 1 for _, pir in REPLY)
    assert finished[0].last_reply() is not None
    assert finished[3]["value"] == ""
    assert finished[4]["interactive"] and finished[5]["interactive"]


def test_what_was_in_the_context_is_shown_escaped(chat: ChatTab) -> None:
    context = say(chat, "Hi")[-1][2]
    assert "I live in Galway" in context
    assert "0.81" in context
    assert "&lt;b&gt;I like &amp; dislike HTML" in context


def test_the_next_message_carries_the_conversation(chat: ChatTab, fake: ScriptedGateway) -> None:
    first = say(chat, "Hi")[-1][0]
    say(chat, "And?", first)
    body = fake.requests[-1][2]
    assert [message["content"] for message in body["messages"]] == ["Hi", TEXT, "And?"]
    assert body["personalization"]["conversation"] == first.id


def test_a_new_conversation_leaves_the_draft_alone(chat: ChatTab) -> None:
    first = say(chat, "Hi")[-1][0]
    begun = chat.begin("mina")
    assert begun[0].turns == () and begun[0].id != first.id
    assert "value" not in begun[3]


@pytest.mark.parametrize(
    ("status", "message"), [(503, "The engine is starting."), (413, "The message is too <long>.")]
)
def test_a_refused_message_stays_in_its_box_and_the_gateways_words_are_shown(
    chat: ChatTab, fake: ScriptedGateway, status: int, message: str
) -> None:
    before = say(chat, "Hi")[-1][0]
    fake.fail("/v1/chat", status, message)
    with pytest.warns(UserWarning, match=message.replace("<", "&lt;").replace(">", "&gt;")):
        last = say(chat, "Again", before)[-1]
    assert last[0] == before
    assert last[3]["value"] == "Again"


def test_an_engine_that_dies_on_the_way_leaves_the_conversation_as_it_was(
    chat: ChatTab, fake: ScriptedGateway
) -> None:
    fake.break_stream = True
    with pytest.warns(UserWarning, match="engine went away"):
        last = say(chat, "Hi")[-1]
    assert last[0].turns == ()
    assert last[3]["value"] == "Hi"


def test_without_persona_or_message_nothing_is_sent(chat: ChatTab, fake: ScriptedGateway) -> None:
    with pytest.warns(UserWarning, match="persona"):
        list(chat.send("Hi", None, Conversation(), "persona", "active", True))
    with pytest.warns(UserWarning, match="message"):
        say(chat, "  ")
    assert fake.requests == []


def test_another_contrast_scores_the_same_tokens_anew_and_keeps_the_context(
    chat: ChatTab, fake: ScriptedGateway
) -> None:
    conversation = say(chat, "Hi")[-1][0]
    rescored, page, key = chat.rescore("maeve", conversation, "both")
    _, path, body = fake.requests[-1]
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
    last = list(chat.send("Hi", user, Conversation(), contrast, adapter, persona))[-1]
    assert "start with a pot" in last[1]
    assert "<mark" not in last[1]
    assert why in last[1]


def test_a_contrast_that_cannot_be_scored_clears_the_marks_until_one_can(
    chat: ChatTab, fake: ScriptedGateway
) -> None:
    first = list(chat.send("Hi", "otto", Conversation(), "persona", "active", True))[-1][0]
    without, page, _ = chat.rescore("otto", first, "adapter")
    assert "<mark" not in page
    assert "no adapter to take away" in page
    _, page, _ = chat.rescore("otto", without, "persona")
    assert page.count("<mark") == sum(pir > 1 for _, pir in REPLY)
    assert fake.requests[-1][2]["token_ids"] == [100 + n for n in range(len(REPLY))]


def test_a_score_that_the_gateway_refuses_is_said_and_clears_the_marks(
    chat: ChatTab, fake: ScriptedGateway
) -> None:
    conversation = say(chat, "Hi")[-1][0]
    fake.fail("/v1/pir", 503, "The engine is starting.")
    with pytest.warns(UserWarning, match="engine is starting"):
        _, page, _ = chat.rescore("maeve", conversation, "both")
    assert "<mark" not in page


def test_another_contrast_before_the_first_reply_changes_just_the_legend(
    chat: ChatTab, fake: ScriptedGateway
) -> None:
    conversation = Conversation()
    assert chat.rescore("maeve", conversation, "adapter")[0] == conversation
    assert fake.requests == []


def test_endorsing_names_the_reply_and_the_user(chat: ChatTab, fake: ScriptedGateway) -> None:
    chat.endorse(say(chat, "Hi")[-1][0], "up")
    expected = {"id": "chatcmpl-1", "user": "maeve", "feedback": "up", "edited": None}
    assert fake.requests[-1][1:] == ("/v1/feedback", expected)


def test_the_adapter_choices_are_what_the_persona_has(chat: ChatTab) -> None:
    assert chat.adapters("maeve")["choices"] == [
        ("Active (v1)", "active"),
        ("None: base model", "none"),
        ("v1 (active)", "v1"),
    ]
    assert chat.adapters("maeve", "v1")["value"] == "v1"
    assert chat.adapters("maeve", "v7")["value"] == "active"
    assert chat.adapters(None)["choices"][0] == ("Active (none yet)", "active")


def test_facts_are_added_and_removed(gateway: Gateway) -> None:
    tab = MemoryTab(gateway)
    facts, box = tab.add_fact("otto", " I like oil. ")
    assert [fact.text for fact in facts] == ["I repair clocks.", "I like oil."]
    assert box == ""
    assert [fact.text for fact in tab.remove_fact("otto", facts[0])] == ["I like oil."]


def test_a_refused_fact_stays_in_its_box(gateway: Gateway, fake: ScriptedGateway) -> None:
    fake.fail("/facts", 413, "The fact is too long.")
    with pytest.warns(UserWarning, match="too long"):
        _, box = MemoryTab(gateway).add_fact("otto", "long")
    assert box == "long"


def test_texts_are_listed_newest_first(gateway: Gateway) -> None:
    rows, title = MemoryTab(gateway).texts("maeve")
    assert [row[2][:9] for row in rows] == ["Not a bot", "Grand lit"]
    assert "2" in title


def test_an_import_names_bad_lines(gateway: Gateway, tmp_path: Path) -> None:
    file = tmp_path / "texts.jsonl"
    file.write_text('{"query": "q", "text": "t"}\n<b>\n')
    card = MemoryTab(gateway).import_file("otto", str(file))
    assert "<strong>1</strong> added" in card
    assert "<td>2</td><td>this is no JSON</td>" in card


def test_a_preview_shows_what_a_chat_would_see(gateway: Gateway) -> None:
    assert "I repair clocks." in MemoryTab(gateway).preview("otto", "Hi")


def test_a_refresh_is_looked_at_until_its_verdict(gateway: Gateway, fake: ScriptedGateway) -> None:
    tab = AdaptersTab(gateway)
    pages = [tab.refresh("maeve", "perce")]
    while pages[-1][4]["active"]:
        fake.refreshes.advance("maeve")
        pages.append(tab.show("maeve"))
    cards = [page[1] for page in pages]
    assert "Waiting for the worker" in cards[0]
    assert any("step 7 of 20" in card for card in cards)
    assert "Published v2" in cards[-1]
    assert "3.412" in cards[-1] and "2.871" in cards[-1]
    assert [page[3]["interactive"] for page in pages] == [False] * (len(pages) - 1) + [True]
    assert "<strong>v2</strong>" in pages[-1][0]


def test_a_refresh_that_waits_is_cancelled(gateway: Gateway, fake: ScriptedGateway) -> None:
    tab = AdaptersTab(gateway)
    assert tab.refresh("maeve", "perce")[5]["visible"] is True
    page = tab.cancel("maeve")
    assert "Cancelled: nothing was changed" in page[1]
    assert (page[3]["interactive"], page[4]["active"], page[5]["visible"]) == (True, False, False)


def test_a_refused_refresh_is_said(gateway: Gateway) -> None:
    with pytest.warns(UserWarning, match="too few texts"):
        page = AdaptersTab(gateway).refresh("otto", "ce")
    assert "No version yet" in page[0]
    assert page[4]["active"] is False


def test_a_version_picked_for_rollback_stays_picked_while_a_refresh_runs(gateway: Gateway) -> None:
    tab = AdaptersTab(gateway)
    assert tab.refresh("maeve", "perce", "none")[2]["value"] == "none"
    assert tab.show("maeve", "none")[2]["value"] == "none"
    assert tab.show("maeve", "v9")[2]["value"] is None


def test_a_rollback_changes_the_active_version(gateway: Gateway, fake: ScriptedGateway) -> None:
    tab = AdaptersTab(gateway)
    tab.refresh("maeve", "perce")
    fake.refreshes.finish("maeve")
    assert rollback_choices(gateway.adapters("maeve")) == [
        ("v1 (retired)", "v1"),
        ("None: base model", "none"),
    ]
    tab.rollback("maeve", "v1")
    assert gateway.adapters("maeve").active == "v1"
    tab.rollback("maeve", "none")
    assert gateway.adapters("maeve").active is None


def test_the_schedule_is_changed_paused_and_resumed(gateway: Gateway) -> None:
    tab = ScheduleTab(gateway)
    card, *fields = tab.save(" 30 2 * * 1 ", "Europe/Berlin", 3, 30, 4, 6, True, 5)
    assert fields == ["30 2 * * 1", "Europe/Berlin", 3, 30, 4, 6, True, 5]
    assert "at least 3 new texts, quiet for 30 min, last refreshed 4 h ago" in card
    assert "<dd>6 h</dd>" in card and "at most 5 an hour" in card and "none yet" in card
    assert "Paused" in tab.pause()[0]
    assert "Active" in tab.resume()[0]
    started = tab.run_now()
    assert "otto" in started and "1 due, 1 planned" in started
    assert "1 due, 1 planned" in tab.show()[0]


def test_a_bad_cron_is_refused_and_stays_in_its_box(gateway: Gateway) -> None:
    with pytest.warns(UserWarning, match="no cron expression"):
        card, *fields = ScheduleTab(gateway).save("daily", "UTC", 3, 60, 8, 0, False, 20)
    assert fields == ["daily", "UTC", 3, 60, 8, 0, False, 20]
    assert "0 3 * * *" in card


def test_the_header_says_whether_the_engine_is_ready(
    gateway: Gateway, fake: ScriptedGateway
) -> None:
    header = Header(gateway)
    assert "scripted-model is ready" in header.status()
    fake.ready = False
    assert "The engine is starting" in header.status()


def test_the_header_lists_everyone_and_leaves_the_choice_alone(gateway: Gateway) -> None:
    update = Header(gateway).personas()
    assert update == {"choices": ["maeve", "otto"], "__type__": "update"}


def test_without_a_gateway_every_tab_says_so_and_stays_up() -> None:
    with Gateway("http://127.0.0.1:1", KEY) as nowhere:
        with pytest.warns(UserWarning, match="No gateway answers"):
            assert MemoryTab(nowhere).facts("maeve") == []
        with pytest.warns(UserWarning, match="No gateway answers"):
            page = AdaptersTab(nowhere).show("maeve")
        assert page[4]["active"] is False
        with pytest.warns(UserWarning, match="No gateway answers"):
            ScheduleTab(nowhere).show()
        assert "No gateway answers" in Header(nowhere).status()
