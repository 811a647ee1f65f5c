from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
from scripted_gateway import ScriptedGateway
from scripted_records import KEY

from ui.adapters_tab import AdaptersTab, rollback_choices
from ui.app import Header
from ui.gateway import Gateway
from ui.memory_tab import MemoryTab, start_over
from ui.schedule_tab import KEPT, ScheduleTab
from ui.settings import UiSettings

SETTINGS = UiSettings()
FIELDS: list[Any] = ["0 3 * * *", "UTC", 10, 60.0, 8.0, 0.0, False, 20]


@pytest.fixture
def gateway(fake_gateway: ScriptedGateway) -> Iterator[Gateway]:
    with Gateway(fake_gateway.url, KEY) as gateway:
        yield gateway


def test_facts_are_added_and_removed(gateway: Gateway) -> None:
    tab = MemoryTab(gateway)
    facts, box = tab.add_fact("otto", " I like oil. ")
    assert isinstance(facts, list)
    assert [fact.text for fact in facts] == ["I repair clocks.", "I like oil."]
    assert box == ""
    left = tab.remove_fact("otto", facts[0])
    assert isinstance(left, list)
    assert [fact.text for fact in left] == ["I like oil."]


def test_a_refused_fact_stays_in_its_box(gateway: Gateway, fake_gateway: ScriptedGateway) -> None:
    fake_gateway.fail("/facts", 413, "The fact is too long.")
    with pytest.warns(UserWarning, match="too long"):
        assert MemoryTab(gateway).add_fact("otto", "long") == (gr.skip(), gr.skip())


@pytest.mark.parametrize(("name", "text"), [(None, "I keep bees."), ("otto", "  ")])
def test_a_fact_without_persona_or_text_is_not_added_and_stays_in_its_box(
    gateway: Gateway, fake_gateway: ScriptedGateway, name: str | None, text: str
) -> None:
    with pytest.warns(UserWarning, match="first"):
        assert MemoryTab(gateway).add_fact(name, text) == (gr.skip(), gr.skip())
    assert fake_gateway.requests == []


def test_texts_are_listed_newest_first(gateway: Gateway) -> None:
    _, rows, title, _ = MemoryTab(gateway).show("maeve")
    assert isinstance(rows, list)
    assert [row[2][:9] for row in rows] == ["Not a bot", "Grand lit"]
    assert "2" in title


@pytest.mark.parametrize("path", ["/facts", "/history"])
def test_a_memory_that_cannot_be_read_stays_unless_it_is_somebody_elses(
    gateway: Gateway, fake_gateway: ScriptedGateway, path: str
) -> None:
    tab = MemoryTab(gateway)
    skip = gr.skip()
    fake_gateway.fail(path, 503, "The gateway is starting.")
    with pytest.warns(UserWarning, match="is starting"):
        assert tab.show("otto", "otto") == (skip, skip, skip, "otto")
    fake_gateway.fail(path, 503, "The gateway is starting.")
    with pytest.warns(UserWarning, match="is starting"):
        facts, rows, title, shown = tab.show("otto", "maeve")
    assert (facts, rows, shown) == (None, [], "otto")
    assert "0" not in title


def test_another_persona_starts_without_the_import_of_the_one_before() -> None:
    query, preview, imported, upload = start_over()
    assert (query, imported, upload) == ("", "", None)
    assert "Write a message" in preview


def test_an_import_names_bad_lines(gateway: Gateway, tmp_path: Path) -> None:
    file = tmp_path / "texts.jsonl"
    file.write_text('{"query": "q", "text": "t"}\n<b>\n')
    card = MemoryTab(gateway).import_file("otto", str(file))
    assert "<strong>1</strong> added" in card
    assert "<td>2</td><td>this is no JSON</td>" in card


def test_a_preview_shows_what_a_chat_would_see(gateway: Gateway) -> None:
    assert "I repair clocks." in MemoryTab(gateway).preview("otto", "Hi")


def test_a_refresh_is_looked_at_until_its_verdict(
    gateway: Gateway, fake_gateway: ScriptedGateway
) -> None:
    tab = AdaptersTab(gateway)
    pages = [tab.refresh("maeve", "perce")]
    while pages[-1][4]["active"]:
        fake_gateway.refreshes.advance("maeve")
        pages.append(tab.show("maeve"))
    cards = [str(page[1]) for page in pages]
    assert "Waiting for the worker" in cards[0]
    assert any("step 7 of 20" in card for card in cards)
    assert any('class="now">Warm up' in card for card in cards)
    assert ["Published v2" in card for card in cards] == [False] * (len(cards) - 1) + [True]
    assert "3.412" in cards[-1] and "2.871" in cards[-1]
    assert [page[3]["interactive"] for page in pages] == [False] * (len(pages) - 1) + [True]
    table = str(pages[-1][0])
    assert 0 < table.index("<strong>v2</strong>") < table.index("<strong>v1</strong>")


def test_a_refresh_is_followed_beyond_a_look_that_failed(
    gateway: Gateway, fake_gateway: ScriptedGateway
) -> None:
    tab = AdaptersTab(gateway)
    tab.refresh("maeve", "perce")
    for path in ("/refreshes", "/adapters"):
        fake_gateway.fail(path, 503, "The gateway is starting.")
        with pytest.warns(UserWarning, match="is starting"):
            *page, shown = tab.show("maeve", None, "maeve")
        assert page == [gr.skip()] * 6 and shown == "maeve"
    assert tab.show("maeve", None, "maeve")[4]["active"] is True


def test_what_cannot_be_read_of_a_persona_does_not_leave_the_one_before(
    gateway: Gateway, fake_gateway: ScriptedGateway
) -> None:
    fake_gateway.fail("/adapters", 503, "The gateway is starting.")
    with pytest.warns(UserWarning, match="is starting"):
        page = AdaptersTab(gateway).show("otto", "v1", "maeve")
    assert "cannot be read now" in page[0] and page[1] == ""
    assert page[2]["choices"] == [] and page[2]["value"] is None
    assert page[6] == "otto"


def test_a_refresh_that_waits_is_cancelled(gateway: Gateway, fake_gateway: ScriptedGateway) -> None:
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


def test_a_rollback_changes_the_active_version(
    gateway: Gateway, fake_gateway: ScriptedGateway
) -> None:
    tab = AdaptersTab(gateway)
    tab.refresh("maeve", "perce")
    fake_gateway.refreshes.finish("maeve")
    assert rollback_choices(gateway.adapters("maeve")) == [
        ("v1 (retired)", "v1"),
        ("None of their own", "none"),
    ]
    tab.rollback("maeve", "v1")
    assert gateway.adapters("maeve").active == "v1"
    tab.rollback("maeve", "none")
    assert gateway.adapters("maeve").active is None


def test_the_schedule_is_changed_paused_and_resumed(gateway: Gateway) -> None:
    tab = ScheduleTab(gateway)
    card, form, *fields, filled = tab.save(" 30 2 * * 1 ", "Europe/Berlin", 3, 30, 4, 6, True, 5)
    assert fields == ["30 2 * * 1", "Europe/Berlin", 3, 30, 4, 6, True, 5]
    assert "at least 3 new texts, quiet for 30 min, last refreshed 4 h ago" in card
    assert "<dd>6 h</dd>" in card and "at most 5 an hour" in card and "none yet" in card
    assert form["visible"] and list(filled) == fields
    assert "Paused" in tab.pause()
    assert "Active" in tab.resume()
    started = tab.run_now()
    assert "otto" in started and "1 due, 1 planned" in started
    assert "1 due, 1 planned" in tab.show(None, *fields)[0]


def test_a_bad_cron_is_refused_and_stays_in_its_box(gateway: Gateway) -> None:
    with pytest.warns(UserWarning, match="no cron expression"):
        page = ScheduleTab(gateway).save("daily", "UTC", 3, 60, 8, 0, False, 20)
    assert page == KEPT


@pytest.mark.parametrize(
    ("place", "nothing"), [(0, ""), (1, " "), (2, None), (3, None), (4, None), (5, None), (7, None)]
)
def test_an_empty_field_is_refused_before_the_gateway_is_asked(
    gateway: Gateway, fake_gateway: ScriptedGateway, place: int, nothing: str | None
) -> None:
    fields = [*FIELDS]
    fields[place] = nothing
    with pytest.warns(UserWarning, match="field is empty"):
        assert ScheduleTab(gateway).save(*fields) == KEPT
    assert fake_gateway.requests == []


def test_fields_that_were_edited_stay_and_others_are_read_anew(
    gateway: Gateway, fake_gateway: ScriptedGateway
) -> None:
    tab = ScheduleTab(gateway)
    _, _, *fields, filled = tab.show(None, None, None, None, None, None, None, False, None)
    assert fields == FIELDS and list(filled) == FIELDS
    fake_gateway.schedule.schedule["min_new_texts"] = 3
    edited = tab.show(filled, "30 2 * * *", *fields[1:])
    assert "at least 3 new texts" in edited[0] and edited[1:] == KEPT[1:]
    assert tab.show(filled, *fields)[4] == 3


def test_a_schedule_that_cannot_be_read_or_changed_leaves_everything_as_it_is(
    gateway: Gateway, fake_gateway: ScriptedGateway
) -> None:
    tab = ScheduleTab(gateway)
    fake_gateway.fail("/schedule", 503, "The gateway is starting.")
    with pytest.warns(UserWarning, match="is starting"):
        assert tab.show(None, *FIELDS) == KEPT
    fake_gateway.fail("/schedule", 503, "The gateway is starting.")
    with pytest.warns(UserWarning, match="is starting"):
        assert tab.pause() == gr.skip()


def test_the_header_says_whether_the_engine_is_ready(
    gateway: Gateway, fake_gateway: ScriptedGateway
) -> None:
    header = Header(gateway)
    assert "scripted-model is ready" in header.status()
    fake_gateway.ready = False
    assert "The engine is starting" in header.status()


def test_the_header_lists_everyone_and_leaves_the_choice_alone(gateway: Gateway) -> None:
    update = Header(gateway).personas()
    assert update == {"choices": ["maeve", "otto"], "__type__": "update"}


def test_without_a_gateway_every_tab_says_so_and_stays_up() -> None:
    with Gateway("http://127.0.0.1:1", KEY) as nowhere:
        with pytest.warns(UserWarning, match="No gateway answers"):
            assert MemoryTab(nowhere).show("maeve")[0] is None
        with pytest.warns(UserWarning, match="No gateway answers"):
            page = AdaptersTab(nowhere).show("maeve")
        assert page[4]["active"] is False
        with pytest.warns(UserWarning, match="No gateway answers"):
            ScheduleTab(nowhere).show(None, *FIELDS)
        assert "No gateway answers" in Header(nowhere).status()
