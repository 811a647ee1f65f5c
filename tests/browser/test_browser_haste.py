"""A person who is faster than the UI: typing, clicking and picking while something is under way."""

from collections.abc import Iterator

import pytest
from page_actions import message_box, pick, say, send
from playwright.sync_api import Page, expect
from scripted_gateway import ScriptedGateway

LATE_S = 1.2
LATER_MS = 2500


@pytest.fixture
def slow(fake: ScriptedGateway) -> Iterator[ScriptedGateway]:
    """The gateway, taking its time over each piece of a reply."""
    usual, fake.pause_s = fake.pause_s, 0.15
    yield fake
    fake.pause_s = usual


def test_what_is_typed_during_a_reply_stays_and_send_and_contrast_wait(
    maeve: Page, slow: ScriptedGateway
) -> None:
    _begin_a_reply(maeve)
    waiting = [maeve.locator("#send"), maeve.get_by_label("Both")]
    for locator in waiting:
        expect(locator).to_be_disabled()
    message_box(maeve).fill("And then?")
    expect(maeve.locator("#conversation .note")).to_be_visible()
    expect(message_box(maeve)).to_have_value("And then?")
    for locator in waiting:
        expect(locator).to_be_enabled()


def test_a_message_whose_reply_breaks_off_goes_back_before_the_draft(
    maeve: Page, slow: ScriptedGateway
) -> None:
    slow.break_stream = True
    try:
        _begin_a_reply(maeve)
        message_box(maeve).fill("And then?")
        expect(message_box(maeve)).to_have_value("Hello?\nAnd then?")
    finally:
        slow.break_stream = False
    expect(maeve.locator("#send")).to_be_enabled()
    expect(maeve.get_by_label("Both")).to_be_enabled()


def test_a_new_conversation_ends_the_wait_for_a_reply(maeve: Page, slow: ScriptedGateway) -> None:
    _begin_a_reply(maeve)
    maeve.locator("#new").click()
    expect(maeve.get_by_text("Chat as maeve")).to_be_visible()
    expect(maeve.locator("#send")).to_be_enabled()
    expect(maeve.get_by_label("Both")).to_be_enabled()


def test_of_two_quick_contrasts_the_last_one_is_shown(maeve: Page, fake: ScriptedGateway) -> None:
    say(maeve, "Hello?")
    fake.delay("/v1/pir", LATE_S)
    maeve.get_by_label("Both").click()
    maeve.get_by_label("Adapter", exact=True).and_(maeve.get_by_role("radio")).click()
    expect(maeve.locator("#conversation .note")).to_contain_text("depend on the adapter")


def test_late_scores_do_not_bring_the_old_conversation_back(
    maeve: Page, fake: ScriptedGateway
) -> None:
    say(maeve, "Hello?")
    fake.delay("/v1/pir", LATE_S)
    maeve.get_by_label("Both").click()
    maeve.locator("#new").click()
    expect(maeve.get_by_text("Chat as maeve")).to_be_visible()
    maeve.wait_for_timeout(LATER_MS)
    expect(maeve.get_by_text("Chat as maeve")).to_be_visible()


@pytest.mark.parametrize(
    ("tab", "path", "part", "of_maeve"),
    [
        ("Memory", "/users/otto/facts", ".fact-row >> nth=0", "I live in Galway"),
        ("Adapters", "/users/otto/refreshes", "#versions", "Better than the base"),
    ],
)
def test_of_two_quick_picks_the_last_ones_page_is_shown(
    maeve: Page, fake: ScriptedGateway, tab: str, path: str, part: str, of_maeve: str
) -> None:
    maeve.get_by_role("tab", name=tab).click()
    expect(maeve.locator(part)).to_contain_text(of_maeve)
    fake.delay(path, LATE_S)
    pick(maeve, "otto")
    pick(maeve, "maeve")
    maeve.wait_for_timeout(LATER_MS)
    expect(maeve.locator(part)).to_contain_text(of_maeve)


def test_a_conversation_is_not_begun_again_for_what_was_read_late(
    maeve: Page, fake: ScriptedGateway
) -> None:
    for path in ("/users/otto/facts", "/users/otto/refreshes", "/users/otto/adapters"):
        fake.delay(path, LATE_S)
    for name in ("otto", "maeve"):
        pick(maeve, name)
        expect(maeve.get_by_text(f"Chat as {name}")).to_be_visible()
    say(maeve, "Hello?")
    maeve.wait_for_timeout(LATER_MS)
    expect(maeve.locator("#conversation .note")).to_be_visible()


def test_a_persona_picked_with_the_keyboard_has_a_conversation_of_its_own(maeve: Page) -> None:
    say(maeve, "Hello?")
    persona = maeve.get_by_label("Chat as")
    persona.click()
    persona.press("ArrowDown")
    persona.press("Enter")
    expect(maeve.get_by_text("Chat as otto")).to_be_visible()
    maeve.get_by_role("tab", name="Memory").click()
    expect(maeve.get_by_text("I repair clocks.")).to_be_visible()


def _begin_a_reply(page: Page) -> None:
    send(page, "Hello?")
    expect(page.locator("#conversation .assistant .bubble")).to_contain_text("Ah sure")
