"""What a person does on the pages of the UI."""

from playwright.sync_api import Locator, Page, expect


def pick(page: Page, persona: str) -> None:
    page.get_by_label("Chat as").click()
    page.get_by_role("option", name=persona).click()


def message_box(page: Page) -> Locator:
    return page.locator("#message textarea")


def send(page: Page, message: str) -> None:
    message_box(page).fill(message)
    page.locator("#send").click()


def say(page: Page, message: str) -> None:
    """Send a message and wait for its reply."""
    send(page, message)
    expect(page.locator("#conversation .note")).to_be_visible()
