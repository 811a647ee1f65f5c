"""Engines that fall asleep between a request and the call that it needs next."""

from collections.abc import Callable
from datetime import timedelta

import pytest
from fastapi.testclient import TestClient
from gateway_calls import chat, error_of, events
from scripted_engine import ScriptedEngine
from sqlalchemy import select

from server import naps
from server.naps import note_nap
from server.services import Services
from server.store.tables.adapters import Adapter
from server.store.tables.base import now
from server.store.tables.people import Interaction


@pytest.fixture
def fall_asleep(services: Services) -> Callable[[], None]:
    def noted() -> None:
        with services.database.write() as session:
            note_nap(session, ["http://engine"], "worker", now() + timedelta(seconds=40))

    return noted


@pytest.mark.parametrize("stream", [False, True])
def test_a_reply_whose_engine_falls_asleep_before_its_pir_is_kept(
    gateway: TestClient,
    mina: str,
    scripted_engine: ScriptedEngine,
    services: Services,
    fall_asleep: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
    stream: bool,
) -> None:
    monkeypatch.setattr(naps, "LOOK_EVERY_S", 0.0)

    def said(text: str) -> str:
        fall_asleep()
        return text

    scripted_engine.parser, scripted_engine.replies = said, ["so warm"]
    answer = chat(gateway, stream=stream, personalization={"pir": True})
    if stream:
        assert events(answer.text)[-1]["error"]["code"] == "engine_asleep"
    else:
        assert answer.json()["error"]["code"] == "engine_asleep"
        assert 35 <= int(answer.headers["Retry-After"]) <= 40
    assert scripted_engine.bodies("/v1/completions") == []
    with services.database.read() as session:
        assert session.scalars(select(Interaction.reply)).all() == ["so warm"]


def test_no_adapter_is_loaded_into_an_engine_that_sleeps(
    gateway: TestClient,
    adapter: Adapter,
    publish: Callable[[], Adapter],
    scripted_engine: ScriptedEngine,
    fall_asleep: Callable[[], None],
) -> None:
    publish()
    fall_asleep()
    answer = gateway.post("/v1/users/mina/adapters/rollback", json={"to": "v1"})
    assert error_of(answer)[0] == 503
    assert answer.json()["error"]["code"] == "engine_asleep"
    assert 35 <= int(answer.headers["Retry-After"]) <= 40
    assert scripted_engine.bodies("/v1/load_lora_adapter") == []
    assert gateway.get("/v1/users/mina/adapters").json()["active"] == "v2"
