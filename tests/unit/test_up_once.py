"""The main job and its report against a scripted gateway, over real HTTP."""

import json
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from threading import Event

import pytest
from once_gateway import AFTER, BEFORE, OnceGateway
from rich.console import Console

from scripts.attune.up import supervisor
from scripts.attune.up.demo import load_personas, read_personas
from scripts.attune.up.display import Display, RefreshBar
from scripts.attune.up.errors import (
    MainJobError,
    MainJobInterruptedError,
    NotRestoredError,
    UpError,
)
from scripts.attune.up.once import Measured, Question, run_main_job
from scripts.attune.up.report import MainJob, personal_gain, show_report, write_report
from ui.gateway import Gateway
from ui.records import Losses, Refresh
from ui.transport import GatewayError

MEASURED = Measured(install_s=12.5, engine_start_s=17.25, exact=True)
QUESTION = Question("anders", "Write a review of a bicycle pump.", 96)


@pytest.fixture
def script() -> Iterator[OnceGateway]:
    with OnceGateway() as served:
        yield served


@pytest.fixture
def gateway(script: OnceGateway) -> Iterator[Gateway]:
    with Gateway(script.url, "attune-key") as client:
        yield client


def job_of(gateway: Gateway) -> MainJob:
    return run_main_job(gateway, QUESTION, MEASURED, lambda _: None, Event())


def test_the_report_has_the_keys_and_the_numbers(
    gateway: Gateway, script: OnceGateway, tmp_path: Path
) -> None:
    job = job_of(gateway)
    assert job.failures() == []
    write_report(tmp_path / "r.json", job.as_json())
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["install_s"] == 12.5
    assert report["engine_start_s"] == 17.2
    assert report["refresh"]["seconds"] == 20.0
    assert report["refresh"]["verdict"] == "publish"
    assert report["refresh"]["held_out_loss"] == {"base": 3.0, "incumbent": None, "candidate": 2.5}
    assert report["refresh"]["personal_loss"]["candidate"] == 3.0
    assert report["before"]["reply"] == BEFORE
    assert [token["text"] for token in report["before"]["pir"]] == BEFORE.split()
    assert report["after"]["reply"] == AFTER
    assert report["after"]["adapter"] == "v1"
    assert report["after"]["pir"][0]["pir"] == 2.0
    assert report["after"]["pir_adapter"][0]["pir"] == 0.1
    assert report["after"]["personal_changes"] == ["Log,", "Friday."]
    assert report["ok"] is True


def test_both_chats_ask_the_same_with_one_seed_and_stay_out_of_the_history(
    gateway: Gateway, script: OnceGateway
) -> None:
    job_of(gateway)
    chats = [body for _, path, body in script.requests if path == "/v1/chat/completions"]
    assert [chat["personalization"]["adapter"] for chat in chats] == ["none", "active"]
    for chat in chats:
        assert chat["messages"] == [{"role": "user", "content": QUESTION.query}]
        assert (chat["temperature"], chat["seed"]) == (0.4, 1)
        assert (chat["store"], chat["user"]) == (False, "anders")
        assert chat["personalization"]["pir"] is True
    token_ids = [body["token_ids"] for _, path, body in script.requests if path == "/v1/pir"]
    assert token_ids == [list(range(5))] * 2


def test_a_user_with_an_adapter_goes_back_to_the_base_model_first(
    gateway: Gateway, script: OnceGateway
) -> None:
    script.active = "v4"
    job_of(gateway)
    paths = [path for method, path, _ in script.requests if method == "POST"]
    assert paths[0].endswith("/adapters/rollback")
    assert script.active == "v1"


def test_a_rejected_candidate_leaves_the_users_adapter_and_fails_the_job(
    gateway: Gateway, script: OnceGateway
) -> None:
    script.active = "v4"
    script.refresh |= {"verdict": "reject", "reason": "no better than v4", "adapter": None}
    failures = job_of(gateway).failures()
    assert failures[0] == "the gate rejected the new adapter: no better than v4"
    assert script.active == "v4"


def test_a_failed_refresh_ends_the_job_with_its_reason(
    gateway: Gateway, script: OnceGateway
) -> None:
    script.refresh |= {"status": "failed", "verdict": None, "error": "too few texts"}
    with pytest.raises(MainJobError, match=r"The refresh of anders failed \(too few texts\)"):
        job_of(gateway)


@pytest.mark.parametrize("step", ["/chat/completions", "/refreshes", "/refreshes/r1"])
def test_a_step_that_is_refused_gives_the_user_the_earlier_version_back(
    gateway: Gateway, script: OnceGateway, step: str
) -> None:
    script.active, script.refuse = "v4", step
    with pytest.raises(GatewayError, match=r"^Not now\.$"):
        job_of(gateway)
    rollbacks = [body["to"] for _, path, body in script.requests if path.endswith("/rollback")]
    assert rollbacks == ["none", "v4"]


def test_a_gateway_that_is_gone_leaves_the_command_that_restores_the_version(
    gateway: Gateway, script: OnceGateway
) -> None:
    script.active, script.refuse, script.goes_away = "v4", "/refreshes/r1", True
    with pytest.raises(NotRestoredError) as failure:
        job_of(gateway)
    assert str(failure.value).startswith("Not now. anders had the version v4 ")
    assert "`attune adapters rollback anders --to v4`" in str(failure.value)


def test_an_error_after_the_publication_leaves_the_new_version(
    gateway: Gateway, script: OnceGateway
) -> None:
    script.active, script.refuse = "v4", "/pir"
    with pytest.raises(GatewayError):
        job_of(gateway)
    assert script.active == "v1"


@pytest.mark.parametrize("early", [True, False])
def test_a_job_that_is_to_leave_ends_with_the_earlier_version(
    gateway: Gateway, script: OnceGateway, early: bool
) -> None:
    script.active = "v4"
    leave = Event()
    if early:
        leave.set()

    def at_first_sight(_: Refresh) -> None:
        leave.set()

    with pytest.raises(MainJobInterruptedError):
        run_main_job(gateway, QUESTION, MEASURED, at_first_sight, leave)
    assert script.active == "v4"
    started = [path for _, path, _ in script.requests if path.endswith("/refreshes")]
    assert (len(started), script.polls, script.cancelled) == ((0 if early else 1), 0, not early)


def test_a_refresh_that_is_no_longer_watched_is_cancelled_before_the_version_is_back(
    gateway: Gateway, script: OnceGateway
) -> None:
    script.active = "v4"

    def broken(_: Refresh) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_main_job(gateway, QUESTION, MEASURED, broken, Event())
    posts = [path.rsplit("/", 1)[1] for method, path, _ in script.requests if method == "POST"]
    assert posts[-2:] == ["cancel", "rollback"]
    assert script.active == "v4"


def test_a_refresh_that_has_ended_is_not_cancelled(gateway: Gateway, script: OnceGateway) -> None:
    job_of(gateway)
    assert not script.cancelled


def test_what_does_not_hold_is_said(gateway: Gateway, script: OnceGateway) -> None:
    script.refresh["personal_loss"] = {"base": 4.0, "candidate": 3.9}
    script.after = BEFORE
    script.rescored_shift = 0.01
    assert job_of(gateway).failures() == [
        "the loss on held-out personal tokens is 2.5% below the base model's, not 10%",
        "the reply did not change in a word with PIR above 1",
        "scored afresh, the reply's PIR differs by up to 1.0e-02 nats",
    ]


def test_a_gain_that_was_not_measured_does_not_hold() -> None:
    assert personal_gain(None) is None
    assert personal_gain(Losses(base=2.0)) is None
    assert personal_gain(Losses(base=2.0, candidate=1.5)) == pytest.approx(0.25)


def test_the_table_and_the_coloured_replies_are_printed(gateway: Gateway) -> None:
    out = StringIO()
    show_report(
        Console(file=out, force_terminal=True, width=100, color_system="standard"), job_of(gateway)
    )
    said = out.getvalue()
    assert "publish" in said and "3.000" in said and "incumbent" in said
    assert "\x1b[1;33mFriday.\x1b[0m" in said, "a personal word carries no colour"
    assert "\x1b[1;33mfine." not in said


def test_off_a_terminal_every_change_is_a_line(gateway: Gateway) -> None:
    out = StringIO()
    console = Console(file=out, width=200)
    with RefreshBar(console) as bar:
        run_main_job(gateway, QUESTION, MEASURED, bar.show, Event())
    display = Display(console)
    with display.starting(["engine", "ui"]):
        display.event(supervisor.Event("engine", "ready", 17.2))
    display.event(supervisor.Event("engine", "died", 0.5, "was killed by SIGKILL"))
    assert out.getvalue().splitlines() == [
        "refresh: queued",
        "refresh: train",
        "refresh: succeeded",
        "starting engine, ui",
        "engine ready after 17 s",
        "engine was killed by SIGKILL; it starts again in a moment",
    ]


def test_demo_personas_are_loaded_once(gateway: Gateway, script: OnceGateway) -> None:
    personas = read_personas()
    loaded: list[str] = []
    for _ in range(2):
        load_personas(gateway, personas, lambda persona: loaded.append(persona.name))
    assert loaded[:4] == ["anders", "harriet", "mina", "wilf"]
    assert len(script.users) == 4
    assert [fact["text"] for fact in script.facts["anders"]] == list(personas[0].facts), (
        "a fact came twice"
    )


def test_a_damaged_demo_history_is_named(gateway: Gateway, script: OnceGateway) -> None:
    script.bad_line = True
    with pytest.raises(UpError, match=r"history of anders is damaged at line 3 \(no query\)"):
        load_personas(gateway, read_personas(), lambda _: None)
