from collections.abc import Iterator
from pathlib import Path

import gradio as gr
import pytest
from scripted_gateway import ScriptedGateway
from scripted_records import KEY

from ui.adapter_choices import rollback_choices
from ui.adapters_tab import AdaptersTab
from ui.app import Header
from ui.cards import NOBODY
from ui.gateway import Gateway
from ui.memory_tab import NO_FACTS, UNREAD, MemoryTab, start_over
from ui.schedule_tab import ScheduleTab


@pytest.fixture
def gateway(fake_gateway: ScriptedGateway) -> Iterator[Gateway]:
    with Gateway(fake_gateway.url, KEY) as gateway:
        yield gateway


def test_facts_are_added_and_removed(gateway: Gateway) -> None:
    tab = MemoryTab(gateway)
    assert tab.add_fact("otto", " I like oil. ") == ""
    facts = tab.facts("otto")
    assert isinstance(facts, list)
    assert [fact.text for fact in facts] == ["I repair clocks.", "I like oil."]
    left = tab.remove_fact("otto", facts[0])
    assert isinstance(left, list)
    assert [fact.text for fact in left] == ["I like oil."]
    assert tab.remove_fact("otto", left[0]) == NO_FACTS


def test_a_refused_fact_stays_in_its_box(gateway: Gateway, fake_gateway: ScriptedGateway) -> None:
    fake_gateway.fail("/facts", 413, "The fact is too long.")
    with pytest.warns(UserWarning, match="too long"):
        assert MemoryTab(gateway).add_fact("otto", "long") == gr.skip()


@pytest.mark.parametrize(("name", "text"), [(None, "I keep bees."), ("otto", "  ")])
def test_a_fact_without_persona_or_text_is_not_added_and_stays_in_its_box(
    gateway: Gateway, fake_gateway: ScriptedGateway, name: str | None, text: str
) -> None:
    with pytest.warns(UserWarning, match="first"):
        assert MemoryTab(gateway).add_fact(name, text) == gr.skip()
    assert fake_gateway.requests == []


def test_texts_are_listed_newest_first(gateway: Gateway) -> None:
    _, table, head, _ = MemoryTab(gateway).show("maeve")
    assert [row[2][:9] for row in table["value"]] == ["Not a bot", "Grand lit"]
    assert table["visible"] and ">2<" in head


def test_a_persona_without_texts_has_no_table_and_is_told_how_to_get_some(
    gateway: Gateway, fake_gateway: ScriptedGateway
) -> None:
    fake_gateway.users["otto"]["texts"].clear()
    _, table, head, _ = MemoryTab(gateway).show("otto")
    assert not table["visible"]
    assert ">0<" in head and "import a file" in head


def test_without_a_persona_every_tab_says_that_one_is_to_be_picked(
    gateway: Gateway, fake_gateway: ScriptedGateway
) -> None:
    memory = MemoryTab(gateway)
    facts, table, head, _ = memory.show(None)
    assert facts == memory.facts(None) == NOBODY
    assert not table["visible"] and NOBODY in head
    versions, newest, *_ = AdaptersTab(gateway).show(None)
    assert NOBODY in versions and newest == ""
    assert fake_gateway.requests == []


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
        facts, table, head, shown = tab.show("otto", "maeve")
    assert (facts, table["value"], shown) == (UNREAD, [], "otto")
    assert UNREAD in head and "0" not in head


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
        fake_gateway.fail(path, 503, "The <gateway> is starting.")
        page = tab.show("maeve", None, "maeve")
        assert [part == gr.skip() for part in page[:6]] == [True] * 4 + [False, True]
        assert page[4]["active"] is True
        assert page[6]["visible"] and "The &lt;gateway&gt; is starting." in page[6]["value"]
        assert page[7] == "maeve"
    again = tab.show("maeve", None, "maeve")
    assert again[4]["active"] is True
    assert again[6]["visible"] is False


def test_what_cannot_be_read_of_a_persona_does_not_leave_the_one_before(
    gateway: Gateway, fake_gateway: ScriptedGateway
) -> None:
    fake_gateway.fail("/adapters", 503, "The gateway is starting.")
    page = AdaptersTab(gateway).show("otto", "v1", "maeve")
    assert "cannot be read now" in page[0] and page[1] == ""
    assert page[2]["choices"] == [] and page[2]["value"] is None
    assert page[4]["active"] is True
    assert "is starting" in page[6]["value"]
    assert page[7] == "otto"


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


@pytest.mark.parametrize(("name", "missing"), [(None, "persona"), ("maeve", "version")])
def test_a_rollback_of_nobody_or_to_nothing_is_said(
    gateway: Gateway, fake_gateway: ScriptedGateway, name: str | None, missing: str
) -> None:
    with pytest.warns(UserWarning, match=f"Pick a {missing} first"):
        AdaptersTab(gateway).rollback(name, None)
    assert [method for method, _, _ in fake_gateway.requests if method == "POST"] == []


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
            assert MemoryTab(nowhere).show("maeve")[0] == UNREAD
        assert "No gateway answers" in AdaptersTab(nowhere).show("maeve")[6]["value"]
        with pytest.warns(UserWarning, match="No gateway answers"):
            ScheduleTab(nowhere).show(None)
        assert "No gateway answers" in Header(nowhere).status()
