"""Answers that come after somebody else was picked, or after the gateway was away for a while."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from page_actions import pick, say
from playwright.sync_api import Page, expect
from scripted_gateway import ScriptedGateway
from scripted_records import new_refresh

LATE_S = 1.2
LATER_MS = 2500
Act = Callable[[Page], None]


@pytest.fixture(autouse=True)
def _kept(fake: ScriptedGateway) -> Iterator[None]:
    """What a test does to maeve is undone."""
    person = fake.users["maeve"]
    before = {part: [dict(record) for record in person[part]] for part in person}
    yield
    person.update(before)


def _add(page: Page) -> None:
    page.locator("#new-fact input, #new-fact textarea").fill("I keep bees.")
    page.locator("#add-fact").click()


def _remove(page: Page) -> None:
    page.locator(".fact", has_text="tea").get_by_role("button", name="Remove").click()


def _preview(page: Page) -> None:
    query = page.locator("#preview-query textarea, #preview-query input")
    query.fill("Hello?")
    query.press("Enter")


def _roll_back(page: Page) -> None:
    page.locator("#rollback-to input").click()
    page.get_by_role("option", name="None of their own").click()
    page.locator("#rollback").click()


@pytest.mark.parametrize(
    ("tab", "act", "path", "part", "of_maeve", "of_otto"),
    [
        ("Memory", _add, "/facts", ".memory-layout", "Galway", "I repair clocks."),
        ("Memory", _remove, "/facts", ".memory-layout", "Galway", "I repair clocks."),
        ("Memory", _preview, "/memory", "#preview", "Galway", "Write a message"),
        ("Adapters", _roll_back, "/adapters/rollback", "#versions", "v1", "No version yet"),
    ],
)
def test_what_comes_late_is_not_shown_under_another_name(
    maeve: Page,
    fake: ScriptedGateway,
    tab: str,
    act: Act,
    path: str,
    part: str,
    of_maeve: str,
    of_otto: str,
) -> None:
    maeve.get_by_role("tab", name=tab).click()
    page = maeve.locator(part)
    if part != "#preview":
        expect(page).to_contain_text(of_maeve)
    fake.delay(f"/users/maeve{path}", LATE_S)
    act(maeve)
    pick(maeve, "otto")
    expect(page).to_contain_text(of_otto)
    maeve.wait_for_timeout(LATER_MS)
    expect(page).to_contain_text(of_otto)
    expect(page).not_to_contain_text(of_maeve)
    assert fake.delays == []


def test_a_refresh_that_is_refused_late_does_not_bring_its_persona_back(
    maeve: Page, fake: ScriptedGateway
) -> None:
    maeve.get_by_role("tab", name="Adapters").click()
    versions = maeve.locator("#versions")
    expect(versions).to_contain_text("v1")
    fake.delay("/users/maeve/refreshes", LATE_S)
    fake.fail("/users/maeve/refreshes", 409, "There are too few texts.")
    maeve.locator("#refresh").click()
    pick(maeve, "otto")
    expect(versions).to_contain_text("No version yet")
    expect(maeve.get_by_text("too few texts")).to_be_visible()
    maeve.wait_for_timeout(LATER_MS)
    expect(versions).to_contain_text("No version yet")


def test_an_import_that_ends_late_is_not_told_to_another_persona(
    maeve: Page, fake: ScriptedGateway, tmp_path: Path
) -> None:
    maeve.get_by_role("tab", name="Memory").click()
    expect(maeve.locator("#texts-head")).to_contain_text("Texts 2")
    file = tmp_path / "texts.jsonl"
    file.write_text('{"query": "And the bees?", "text": "Flying it, so they are."}\n')
    fake.delay("/users/maeve/history", LATE_S)
    maeve.locator("#import input[type=file]").set_input_files(file)
    pick(maeve, "otto")
    maeve.wait_for_timeout(LATER_MS)
    assert len(fake.users["maeve"]["texts"]) == 3
    expect(maeve.locator("#texts-head")).to_contain_text("Texts 1")
    expect(maeve.locator("#imported")).not_to_contain_text("added")


def test_what_is_added_late_is_there_when_its_persona_is_picked_again(
    maeve: Page, fake: ScriptedGateway
) -> None:
    maeve.get_by_role("tab", name="Memory").click()
    expect(maeve.get_by_text("I live in Galway")).to_be_visible()
    fake.delay("/users/maeve/facts", LATE_S)
    _add(maeve)
    for name in ("otto", "maeve"):
        pick(maeve, name)
    expect(maeve.locator(".fact", has_text="I keep bees.")).to_be_visible()


@pytest.mark.parametrize("change", [lambda page: pick(page, "otto"), lambda page: _new(page)])
def test_scores_that_wait_for_others_do_not_bring_the_old_conversation_back(
    maeve: Page, fake: ScriptedGateway, change: Act
) -> None:
    say(maeve, "Hello?")
    for _ in range(2):
        fake.delay("/v1/pir", LATE_S)
    maeve.get_by_label("Both").click()
    maeve.get_by_label("Adapter", exact=True).and_(maeve.get_by_role("radio")).click()
    change(maeve)
    expect(maeve.get_by_text("Chat as")).to_have_count(2)
    maeve.wait_for_timeout(LATER_MS)
    expect(maeve.locator("#conversation")).not_to_contain_text("Hello?")


def test_a_gateway_that_is_away_is_told_once_and_no_longer_when_it_is_back(
    maeve: Page, fake: ScriptedGateway
) -> None:
    fake.users["maeve"]["refreshes"].append(new_refresh("maeve", "r1", "perce"))
    fake.refreshes.moving = False
    try:
        maeve.get_by_role("tab", name="Adapters").click()
        expect(maeve.locator("#progress")).to_contain_text("Waiting for the worker")
        for _ in range(40):
            fake.fail("/refreshes", 503, "The engine is starting: try again in a minute.")
        while len(fake.failures) > 20:
            maeve.wait_for_timeout(50)
        trouble = maeve.get_by_text("The engine is starting")
        assert trouble.count() == 1
        expect(maeve.locator("#progress")).to_contain_text("Waiting for the worker")
        fake.failures.clear()
        # Sooner than a notice would go by itself.
        expect(trouble).to_have_count(0, timeout=LATER_MS)
    finally:
        fake.refreshes.moving = True


def _new(page: Page) -> None:
    page.locator("#new").click()
