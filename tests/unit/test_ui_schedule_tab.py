"""The schedule's tab against the scripted gateway, without a browser."""

from collections.abc import Iterator
from typing import Any

import pytest
from scripted_gateway import ScriptedGateway
from scripted_records import KEY, new_plan

from ui.gateway import Gateway
from ui.records import Plan, Round
from ui.schedule_cards import started_card
from ui.schedule_tab import KEPT, UNCHANGED, ScheduleTab

FIELDS: list[Any] = ["0 3 * * *", "UTC", 10, 60.0, 8.0, 0.0, False, 20]


@pytest.fixture
def gateway(fake_gateway: ScriptedGateway) -> Iterator[Gateway]:
    with Gateway(fake_gateway.url, KEY) as gateway:
        yield gateway


def test_the_schedule_is_changed_paused_and_resumed(gateway: Gateway) -> None:
    tab = ScheduleTab(gateway)
    page = tab.save(" 30 2 * * 1 ", "Europe/Berlin", 3, 30, 4, 6, True, 5)
    card, _, _, form, *fields, filled = page
    assert fields == ["30 2 * * 1", "Europe/Berlin", 3, 30, 4, 6, True, 5]
    assert "at least 3 new texts, quiet for 30 min, not refreshed for 4 h" in card
    assert "<dd>6 h</dd>" in card and "at most 5 an hour" in card and "none yet" in card
    assert form["visible"] and list(filled) == fields
    for standing, state in ((tab.pause(), "Paused"), (tab.resume(), "Active")):
        card, pause, resume = standing
        assert state in card
        assert (pause["visible"], resume["visible"]) == (state == "Active", state == "Paused")
    started = tab.run_now()
    assert "otto" in started and "1 due, 1 planned" in started
    assert "1 due, 1 planned" in tab.show(None, *fields)[0]


@pytest.mark.parametrize(
    ("planned", "said"), [(2, "No refresh is open yet"), (0, "waits for the next round")]
)
def test_a_round_that_has_opened_nothing_says_so_in_words(planned: int, said: str) -> None:
    plan = Plan.model_validate(new_plan(2) | {"planned": planned, "carried_over": 2 - planned})
    card = started_card(Round(run="run-1", plan=plan))
    assert "2 due" in card and said in card
    assert "<table" not in card


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
    _, _, _, _, *fields, filled = tab.show(None, None, None, None, None, None, None, False, None)
    assert fields == FIELDS and list(filled) == FIELDS
    fake_gateway.schedule.schedule["min_new_texts"] = 3
    edited = tab.show(filled, "30 2 * * *", *fields[1:])
    assert "at least 3 new texts" in edited[0] and edited[3:] == KEPT[3:]
    assert tab.show(filled, *fields)[6] == 3


def test_a_schedule_that_cannot_be_read_or_changed_leaves_everything_as_it_is(
    gateway: Gateway, fake_gateway: ScriptedGateway
) -> None:
    tab = ScheduleTab(gateway)
    fake_gateway.fail("/schedule", 503, "The gateway is starting.")
    with pytest.warns(UserWarning, match="is starting"):
        assert tab.show(None, *FIELDS) == KEPT
    fake_gateway.fail("/schedule", 503, "The gateway is starting.")
    with pytest.warns(UserWarning, match="is starting"):
        assert tab.pause() == UNCHANGED
