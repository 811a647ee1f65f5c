"""The main job and its report against a scripted gateway, over real HTTP."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from local_server import LocalServer, Request, Response
from rich.console import Console

from scripts.attune.up.demo import load_personas, read_personas
from scripts.attune.up.display import Display, RefreshBar
from scripts.attune.up.errors import MainJobError, UpError
from scripts.attune.up.once import Measured, Question, run_main_job
from scripts.attune.up.report import MainJob, personal_gain, show_report, write_report
from scripts.attune.up.supervisor import Event
from ui.gateway import Gateway
from ui.records import Losses

BEFORE = "It is fine."
AFTER = "Log, Friday. It is fine."
MEASURED = Measured(install_s=12.5, engine_start_s=17.25, exact=True)
QUESTION = Question("anders", "Write a review of a bicycle pump.", 96)


def scored(text: str, personal: set[str], contrast: str, shift: float = 0.0) -> dict[str, Any]:
    """A token and a word for each word of the text; those in `personal` have PIR 2."""
    tokens, words, start = [], [], 0
    for number, word in enumerate(text.split()):
        span = {"start": start, "end": start + len(word)}
        pir = (2.0 if word in personal else 0.1) + shift
        is_personal = {"pir": pir, "personal": word in personal}
        logprobs = {"logprob": -0.5, "logprob_without": -0.5 - pir}
        tokens.append({"token_id": number, "text": word, **span, **logprobs, **is_personal})
        words.append({"text": word, **span, **is_personal})
        start += len(word) + 1
    return {"user": "anders", "context": [], "pir": tokens, "words": words, "contrast": contrast}


@dataclass
class Script(LocalServer):
    """What the gateway answers, and what it was asked."""

    refresh: dict[str, Any] = field(
        default_factory=lambda: {
            "status": "succeeded",
            "verdict": "publish",
            "adapter": "v1",
            "held_out_loss": {"base": 3.0, "incumbent": None, "candidate": 2.5},
            "personal_loss": {"base": 4.0, "incumbent": None, "candidate": 3.0},
            "seconds": 20.0,
        }
    )
    active: str | None = None
    after: str = AFTER
    rescored_shift: float = 0.0
    polls: int = 0
    users: dict[str, dict[str, Any]] = field(default_factory=dict)
    facts: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    bad_line: bool = False
    requests: list[tuple[str, str, Any]] = field(default_factory=list)

    def respond(self, request: Request) -> Response:
        is_json = request.headers.get("Content-Type") == "application/json"
        body = request.json() if is_json else request.body
        return Response(json.dumps(self.answer(request.method, request.path, body)).encode())

    def answer(self, method: str, path: str, body: Any) -> dict[str, Any]:  # noqa: ANN401
        self.requests.append((method, path, body))
        match method, path.strip("/").split("/"):
            case "GET", ["readyz"]:
                return {"status": "ready", "model": "attune-reference"}
            case "POST", ["v1", "chat", "completions"]:
                return self._chat(body["personalization"])
            case "POST", ["v1", "pir"]:
                return self._pir(body)
            case _, ["v1", "users", *rest]:
                return self._users(method, rest, body)
        raise AssertionError(f"{method} {path} was not expected")

    def _chat(self, extension: dict[str, Any]) -> dict[str, Any]:
        adapted = extension["adapter"] == "active"
        text = self.after if adapted else BEFORE
        personalization = scored(text, {"Log,", "Friday."}, "persona")
        personalization["adapter"] = self.active if adapted else None
        return {
            "id": "chatcmpl-1",
            "choices": [{"message": {"role": "assistant", "content": text}}],
            "personalization": personalization,
        }

    def _pir(self, body: dict[str, Any]) -> dict[str, Any]:
        if body["contrast"] == "adapter":
            return scored(self.after, {"Friday."}, "adapter")
        return scored(self.after, {"Log,", "Friday."}, "persona", self.rescored_shift)

    def _users(self, method: str, rest: list[str], body: Any) -> dict[str, Any]:  # noqa: ANN401
        match method, rest:
            case "GET", []:
                return {"data": list(self.users.values())}
            case "POST", []:
                user = {"name": body["name"], "created_at": "now", "consent": True}
                self.users[body["name"]] = user | {"facts": 0, "texts": 0}
                return self.users[body["name"]] | {"key": "attune-1"}
            case _, [name, "facts"]:
                facts = self.facts.setdefault(name, [])
                if method == "GET":
                    return {"data": facts}
                fact = {"id": len(facts), "text": body["text"], "created_at": "now"}
                facts.append(fact)
                return fact
            case "POST", [name, "history"]:
                errors = [{"line": 3, "reason": "no query"}] if self.bad_line else []
                return {"imported": len(body.splitlines()), "duplicates": 0, "errors": errors}
            case "GET", [_, "adapters"]:
                return {"active": self.active, "data": []}
            case "POST", [_, "adapters", "rollback"]:
                self.active = None if body["to"] == "none" else body["to"]
                return {"active": self.active, "data": []}
            case "POST", [_, "refreshes"]:
                return self._refresh("queued")
            case "GET", [_, "refreshes", "r1"]:
                self.polls += 1
                if self.polls < 2:
                    return self._refresh("running") | {"stage": "train", "progress": PROGRESS}
                if self.refresh["verdict"] == "publish":
                    self.active = "v1"
                return self._refresh("queued") | self.refresh
        raise AssertionError(f"{method} /v1/users/{rest} was not expected")

    def _refresh(self, status: str) -> dict[str, Any]:
        kind = {"id": "r1", "user": "anders", "method": "perce", "created_at": "now"}
        return kind | {"status": status}


PROGRESS = {"step": 3, "steps": 30}


@pytest.fixture
def script() -> Iterator[Script]:
    with Script() as served:
        yield served


@pytest.fixture
def gateway(script: Script) -> Iterator[Gateway]:
    with Gateway(script.url, "attune-key") as client:
        yield client


def job_of(gateway: Gateway) -> MainJob:
    return run_main_job(gateway, QUESTION, MEASURED, lambda _: None)


def test_the_report_has_the_keys_and_the_numbers(
    gateway: Gateway, script: Script, tmp_path: Path
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


def test_both_chats_ask_the_same_greedily_and_stay_out_of_the_history(
    gateway: Gateway, script: Script
) -> None:
    job_of(gateway)
    chats = [body for _, path, body in script.requests if path == "/v1/chat/completions"]
    assert [chat["personalization"]["adapter"] for chat in chats] == ["none", "active"]
    for chat in chats:
        assert chat["messages"] == [{"role": "user", "content": QUESTION.query}]
        assert (chat["seed"], chat["store"], chat["user"]) == (1, False, "anders")
        assert chat["personalization"]["pir"] is True
    token_ids = [body["token_ids"] for _, path, body in script.requests if path == "/v1/pir"]
    assert token_ids == [list(range(5))] * 2


def test_a_user_with_an_adapter_goes_back_to_the_base_model_first(
    gateway: Gateway, script: Script
) -> None:
    script.active = "v4"
    job_of(gateway)
    paths = [path for method, path, _ in script.requests if method == "POST"]
    assert paths[0].endswith("/adapters/rollback")
    assert script.active == "v1"


def test_a_rejected_candidate_leaves_the_users_adapter_and_fails_the_job(
    gateway: Gateway, script: Script
) -> None:
    script.active = "v4"
    script.refresh |= {"verdict": "reject", "reason": "no better than v4", "adapter": None}
    failures = job_of(gateway).failures()
    assert failures[0] == "the gate rejected the new adapter: no better than v4"
    assert script.active == "v4"


def test_a_failed_refresh_ends_the_job_with_its_reason(gateway: Gateway, script: Script) -> None:
    script.refresh |= {"status": "failed", "verdict": None, "error": "too few texts"}
    with pytest.raises(MainJobError, match=r"The refresh of anders failed \(too few texts\)"):
        job_of(gateway)


def test_what_does_not_hold_is_said(gateway: Gateway, script: Script) -> None:
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
        run_main_job(gateway, QUESTION, MEASURED, bar.show)
    display = Display(console)
    with display.starting(["engine", "ui"]):
        display.event(Event("engine", "ready", 17.2))
    display.event(Event("engine", "died", 0.5, "was killed by SIGKILL"))
    assert out.getvalue().splitlines() == [
        "refresh: queued",
        "refresh: train",
        "refresh: succeeded",
        "starting engine, ui",
        "engine ready after 17 s",
        "engine was killed by SIGKILL; it starts again in a moment",
    ]


def test_demo_personas_are_loaded_once(gateway: Gateway, script: Script) -> None:
    personas = read_personas()
    loaded: list[str] = []
    for _ in range(2):
        load_personas(gateway, personas, lambda persona: loaded.append(persona.name))
    assert loaded[:4] == ["anders", "harriet", "mina", "wilf"]
    assert len(script.users) == 4
    assert [fact["text"] for fact in script.facts["anders"]] == list(personas[0].facts), (
        "a fact came twice"
    )


def test_a_damaged_demo_history_is_named(gateway: Gateway, script: Script) -> None:
    script.bad_line = True
    with pytest.raises(UpError, match=r"history of anders is damaged at line 3 \(no query\)"):
        load_personas(gateway, read_personas(), lambda _: None)
