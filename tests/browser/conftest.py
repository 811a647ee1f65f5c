"""A page in headless Chromium, and the UI before a scripted gateway: no engine, no model.

Tests that need a page are skipped where there is no Chromium.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from page_actions import pick
from playwright.sync_api import Browser, Page, expect, sync_playwright
from running_ui import running_ui
from scripted_gateway import ScriptedGateway

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
SLOWEST_STEP_MS = 30_000
SYSTEM_CHROMIUM = Path("/usr/bin/chromium")


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    found = str(SYSTEM_CHROMIUM) if SYSTEM_CHROMIUM.exists() else shutil.which("chromium")
    if found is None:
        pytest.skip("there is no Chromium: install the package `chromium` to run browser tests")
    expect.set_options(timeout=SLOWEST_STEP_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=list(FLAGS))
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1360, "height": 900})
    context.set_default_timeout(SLOWEST_STEP_MS)
    yield context.new_page()
    context.close()


@pytest.fixture(scope="module")
def fake() -> Iterator[ScriptedGateway]:
    with ScriptedGateway(pause_s=0.02, moving=True) as fake:
        yield fake


@pytest.fixture(scope="module")
def ui_url(fake: ScriptedGateway, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_ui(fake.url, tmp_path_factory.mktemp("ui") / "ui.log") as url:
        yield url


@pytest.fixture
def maeve(page: Page, ui_url: str) -> Page:
    """The page with the persona `maeve` picked."""
    page.goto(ui_url)
    pick(page, "maeve")
    expect(page.get_by_text("Chat as maeve")).to_be_visible()
    return page
