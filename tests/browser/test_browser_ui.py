"""The UI in headless Chromium against the scripted gateway: no engine, no model."""

from pathlib import Path

from page_actions import message_box, pick, say, send
from playwright.sync_api import Locator, Page, expect
from scripted_gateway import ScriptedGateway
from scripted_records import REPLY

TEXT = "".join(text for text, _ in REPLY)
PERSONAL = [text.strip() for text, pir in REPLY if pir > 1]


def test_a_persona_chats_and_sees_which_words_are_theirs(maeve: Page) -> None:
    say(maeve, "What should I do on Saturday?")
    conversation = maeve.locator("#conversation")
    expect(conversation.locator("mark.pir")).to_have_text(PERSONAL)
    expect(conversation.locator(".assistant .bubble")).to_have_text(TEXT)
    expect(conversation).to_contain_text("5 of 18 words depend on the persona")
    expect(maeve.locator("#context")).to_contain_text("I drink tea, never coffee.")
    conversation.locator("mark.pir").first.hover()
    expect(maeve.get_by_role("tooltip")).to_contain_text("PIR 2.40")


def test_the_numbers_are_reachable_by_keyboard(maeve: Page) -> None:
    say(maeve, "Hello?")
    maeve.locator("#conversation mark.pir").nth(2).focus()
    expect(maeve.get_by_role("tooltip")).to_contain_text("PIR 5.60")


def test_another_contrast_highlights_the_same_reply_anew(maeve: Page) -> None:
    say(maeve, "Hello?")
    maeve.get_by_label("Both").click()
    halved = [text.strip() for text, pir in REPLY if pir / 2 > 1]
    expect(maeve.locator("#conversation mark.pir")).to_have_text(halved)


def test_markup_from_user_and_model_is_shown_as_text(maeve: Page) -> None:
    say(maeve, "<img src=x onerror=document.title='owned'> ${1+1} {{value}}")
    expect(maeve.locator("#conversation mark.pir")).to_have_text(PERSONAL)
    expect(maeve.locator("#conversation .user .bubble")).to_have_text(
        "<img src=x onerror=document.title='owned'> ${1+1} {{value}}"
    )
    assert maeve.locator("#conversation img").count() == 0
    assert maeve.title() == "Attune"


def test_an_engine_that_is_not_ready_is_said_and_the_message_kept(
    maeve: Page, fake: ScriptedGateway
) -> None:
    fake.fail("/v1/chat/completions", 503, "The engine is starting: try again in a minute.")
    send(maeve, "Hello?")
    expect(maeve.get_by_text("try again in a minute")).to_be_visible()
    expect(message_box(maeve)).to_have_value("Hello?")
    expect(maeve.locator("#conversation mark.pir")).to_have_count(0)


def test_a_persona_picked_during_a_reply_does_not_see_it(
    maeve: Page, fake: ScriptedGateway
) -> None:
    fake.pause_s = 0.2
    try:
        send(maeve, "Hello?")
        expect(maeve.locator("#conversation .assistant .bubble")).to_contain_text("Ah sure")
        pick(maeve, "otto")
        expect(maeve.get_by_text("Chat as otto")).to_be_visible()
        maeve.wait_for_timeout(2 * 1000 * fake.pause_s * len(REPLY) / 2)
        expect(maeve.get_by_text("Chat as otto")).to_be_visible()
    finally:
        fake.pause_s = 0.02


def test_looking_at_the_personas_without_picking_one_keeps_the_conversation(maeve: Page) -> None:
    say(maeve, "Hello?")
    message_box(maeve).fill("And then?")
    maeve.get_by_label("Chat as").click()
    expect(maeve.get_by_role("option", name="otto")).to_be_visible()
    message_box(maeve).click()
    expect(maeve.get_by_role("option", name="otto")).to_have_count(0)
    maeve.wait_for_timeout(1000)
    expect(maeve.locator("#conversation mark.pir")).to_have_text(PERSONAL)
    expect(message_box(maeve)).to_have_value("And then?")


def test_the_memory_can_be_read_and_changed(maeve: Page, tmp_path: Path) -> None:
    maeve.get_by_role("tab", name="Memory").click()
    expect(maeve.get_by_text("<b>I like & dislike HTML</b>")).to_be_visible()
    maeve.locator("#new-fact input, #new-fact textarea").fill("I keep bees.")
    maeve.locator("#add-fact").click()
    row = maeve.locator(".fact", has_text="I keep bees.")
    expect(row).to_be_visible()
    row.get_by_role("button", name="Remove").click()
    expect(row).to_have_count(0)
    file = tmp_path / "texts.jsonl"
    file.write_text('{"query": "And the bees?", "text": "Flying it, so they are."}\nbroken\n')
    maeve.locator("#import input[type=file]").set_input_files(file)
    expect(maeve.locator("#imported")).to_contain_text("1 added")
    expect(maeve.locator("#imported")).to_contain_text("this is no JSON")
    expect(maeve.locator("#texts")).to_contain_text("Flying it, so they are.")
    pick(maeve, "otto")
    expect(maeve.get_by_text("I repair clocks.")).to_be_visible()
    expect(maeve.locator("#imported")).not_to_contain_text("added")
    expect(maeve.locator("#import")).not_to_contain_text("texts.jsonl")


def test_a_fact_for_nobody_is_not_lost(page: Page, ui_url: str) -> None:
    page.goto(ui_url)
    page.get_by_role("tab", name="Memory").click()
    fact = page.locator("#new-fact input, #new-fact textarea")
    fact.fill("I keep bees.")
    page.locator("#add-fact").click()
    expect(page.get_by_text("Pick a persona first.")).to_be_visible()
    expect(fact).to_have_value("I keep bees.")


def test_a_refresh_is_followed_to_a_new_version(maeve: Page) -> None:
    maeve.get_by_role("tab", name="Adapters").click()
    expect(maeve.locator("#versions")).to_contain_text("v1")
    maeve.locator("#refresh").click()
    expect(maeve.locator("#progress")).to_contain_text("Published v2")
    expect(_version(maeve, "v2")).to_contain_text("active")
    maeve.locator("#rollback-to input").click()
    maeve.get_by_role("option", name="v1 (retired)").click()
    maeve.locator("#rollback").click()
    expect(_version(maeve, "v1")).to_contain_text("active")
    expect(_version(maeve, "v2")).to_contain_text("retired")


def test_the_schedule_can_be_paused_and_changed(page: Page, ui_url: str) -> None:
    page.goto(ui_url)
    page.get_by_role("tab", name="Schedule").click()
    card = page.locator("#schedule")
    expect(card).to_contain_text("Active")
    page.locator("#pause").click()
    expect(card).to_contain_text("Paused")
    page.locator("#resume").click()
    expect(card).to_contain_text("Active")
    page.locator("#cron textarea, #cron input").fill("daily")
    page.locator("#save-schedule").click()
    expect(page.get_by_text("no cron expression")).to_be_visible()


def test_edits_of_the_schedule_stay_unsaved_until_every_field_is_filled(
    page: Page, ui_url: str, fake: ScriptedGateway
) -> None:
    page.goto(ui_url)
    page.get_by_role("tab", name="Schedule").click()
    cron = page.locator("#cron textarea, #cron input")
    least = page.locator("#min-new-texts input")
    expect(cron).to_have_value("0 3 * * *")
    for part, value in [("quiet-minutes", "60"), ("window-hours", "0"), ("online-per-hour", "20")]:
        expect(page.locator(f"#{part} input")).to_have_value(value)
    fake.schedule.schedule["min_new_texts"] = 4
    _reopen_schedule(page)
    expect(least).to_have_value("4")
    cron.fill("30 2 * * 1")
    page.locator("#pause").click()
    expect(page.locator("#schedule")).to_contain_text("Paused")
    page.locator("#resume").click()
    expect(page.locator("#schedule")).to_contain_text("Active")
    _reopen_schedule(page)
    expect(cron).to_have_value("30 2 * * 1")
    least.fill("")
    page.locator("#save-schedule").click()
    expect(page.get_by_text("A field is empty")).to_be_visible()
    expect(cron).to_have_value("30 2 * * 1")


def test_nothing_outside_this_machine_is_asked_for(page: Page, ui_url: str) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(ui_url)
    expect(page.get_by_text("scripted-model is ready")).to_be_visible()
    assert [url for url in asked if not url.startswith((ui_url, "data:", "blob:"))] == []


def _reopen_schedule(page: Page) -> None:
    for tab in ("Chat", "Schedule"):
        page.get_by_role("tab", name=tab).click()


def _version(page: Page, version: str) -> Locator:
    return page.locator("#versions tr", has=page.locator("strong", has_text=version))
