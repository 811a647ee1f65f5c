"""The whole product in headless Chromium: a demo persona chats with the real engine."""

import pytest
from playwright.sync_api import Page, expect
from running_stack import Stack

REPLY_WITHIN_MS = 180_000


@pytest.mark.timeout(900)
def test_a_demo_persona_chats_and_sees_highlighted_words(page: Page, stack: Stack) -> None:
    page.goto(stack.ui_url)
    page.get_by_label("Chat as").click()
    page.get_by_role("option").first.click()
    page.locator("#message textarea").fill("What do you think of the new café by the station?")
    page.locator("#send").click()
    conversation = page.locator("#conversation")
    expect(conversation.locator(".note")).to_contain_text("words depend", timeout=REPLY_WITHIN_MS)
    expect(conversation.locator("mark.pir").first).to_be_visible()
    conversation.locator("mark.pir").first.hover()
    expect(page.get_by_role("tooltip")).to_contain_text("PIR")
    expect(page.locator("#context .facts li").first).to_be_visible()
