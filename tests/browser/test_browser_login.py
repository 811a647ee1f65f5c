"""The pages where other machines can open them: nothing without the key."""

from collections.abc import Iterator

import httpx
import pytest
from playwright.sync_api import Page, expect
from running_ui import running_ui
from scripted_gateway import ScriptedGateway
from scripted_records import KEY


@pytest.fixture(scope="module")
def public_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    log = tmp_path_factory.mktemp("ui") / "ui.log"
    with ScriptedGateway() as fake, running_ui(fake.url, log, host="0.0.0.0") as url:
        yield url


def test_the_key_opens_the_pages_and_a_wrong_one_does_not(page: Page, public_url: str) -> None:
    page.goto(public_url)
    expect(page.get_by_text("admin key")).to_be_visible()
    for password, opened in (("guessed", False), (KEY, True)):
        page.get_by_label("Username").fill("me")
        page.get_by_label("Password").fill(password)
        page.get_by_role("button", name="Login").click()
        if opened:
            expect(page.get_by_label("Chat as")).to_be_visible()
        else:
            expect(page.get_by_text("Incorrect Credentials")).to_be_visible()


@pytest.mark.parametrize("path", ["config", "gradio_api/info"])
def test_no_call_behind_the_pages_is_answered_without_the_key(public_url: str, path: str) -> None:
    assert httpx.get(public_url + path).status_code == 401


def test_no_handler_runs_without_the_key(public_url: str) -> None:
    joined = httpx.post(
        f"{public_url}gradio_api/queue/join", json={"data": [], "fn_index": 0, "session_hash": "x"}
    )
    assert joined.status_code == 401
