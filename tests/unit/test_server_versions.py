"""Which adapter version answers: the active one, another in place of a damaged one, or none."""

from collections.abc import Callable
from pathlib import Path

from fastapi.testclient import TestClient
from gateway_calls import chat, error_of, events
from scripted_engine import ScriptedEngine
from sqlalchemy import func, select

from perce.adapter_files import model_fingerprint
from server.damage import ServedBase
from server.services import Services
from server.store.tables.adapters import Adapter, Lease


def test_the_active_adapter_answers_and_its_lease_goes_back(
    gateway: TestClient, adapter: Adapter, scripted_engine: ScriptedEngine, services: Services
) -> None:
    scripted_engine.replies = ["v1 speaking"]
    # The engine does not know the adapter yet, as after a restart: it is loaded on the way.
    answer = chat(gateway).json()
    assert answer["personalization"]["adapter"] == "v1"
    assert scripted_engine.loaded == {adapter.name: adapter.folder}
    assert scripted_engine.bodies("/v1/chat/completions")[-1]["model"] == adapter.name
    with services.database.read() as session:
        assert session.scalar(select(func.count()).select_from(Lease)) == 0


def test_an_older_version_stands_in_for_a_damaged_one(
    gateway: TestClient,
    adapter: Adapter,
    publish: Callable[[], Adapter],
    scripted_engine: ScriptedEngine,
) -> None:
    newer = publish()
    file = Path(newer.folder) / "adapter_config.json"
    file.write_text("[]")
    scripted_engine.replies = ["v1", "v1", "base", "base", "v2"]
    for stream in (False, True):
        answer = chat(gateway, stream=stream)
        last = events(answer.text)[-2] if stream else answer.json()
        extension = last["personalization"]
        assert (extension["adapter"], extension["damaged"]) == ("v1", "v2")
    assert gateway.get("/readyz").json()["adapters"]["damaged"] == 1
    assert "attune_adapters_damaged 1.0" in gateway.get("/metrics").text
    status, message = error_of(chat(gateway, personalization={"adapter": "v2"}))
    assert status == 409 and "adapter_config.json was changed" in message
    (Path(adapter.folder) / "adapter_config.json").unlink()
    extension = chat(gateway).json()["personalization"]
    assert (extension["adapter"], extension["damaged"]) == (None, "v2")
    assert "damaged" not in chat(gateway, personalization={"adapter": "none"}).json()
    assert set(scripted_engine.loaded) == {adapter.name}
    file.write_text("{}")
    extension = chat(gateway).json()["personalization"]
    assert extension["adapter"] == "v2" and "damaged" not in extension


def test_a_version_of_another_base_model_is_never_served(
    gateway: TestClient,
    adapter: Adapter,
    publish: Callable[[], Adapter],
    services: Services,
    scripted_engine: ScriptedEngine,
) -> None:
    publish()
    with services.database.write() as session:
        session.get_one(Adapter, adapter.id).base_model = "sha256:another"
    scripted_engine.replies = ["v2", "base", "v1"]
    assert chat(gateway).json()["personalization"]["adapter"] == "v2"
    for answer in (
        chat(gateway, personalization={"adapter": "v1"}),
        gateway.post("/v1/users/mina/adapters/rollback", json={"to": "v1"}),
    ):
        status, message = error_of(answer)
        assert status == 409 and "trained on sha256:another" in message and "refresh" in message
    with services.database.write() as session:
        for row in session.scalars(select(Adapter)):
            row.base_model = "sha256:another"
    extension = chat(gateway).json()["personalization"]
    assert (extension["adapter"], extension["damaged"]) == (None, "v2")
    assert gateway.get("/readyz").json()["adapters"]["damaged"] == 2
    assert adapter.name not in scripted_engine.loaded
    with services.database.write() as session:
        session.get_one(Adapter, adapter.id).base_model = services.damage.base.fingerprint
    extension = chat(gateway).json()["personalization"]
    assert (extension["adapter"], extension["damaged"]) == ("v1", "v2")


def test_requests_read_the_base_models_hash_and_never_its_files(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text("{}")
    base = ServedBase(str(tmp_path))
    first = base.fingerprint
    assert first == model_fingerprint(str(tmp_path))
    config.write_text("[1]")
    assert base.fingerprint == first
    base.look()
    assert base.fingerprint == model_fingerprint(str(tmp_path)) != first


def test_an_engine_that_restarted_is_never_shown_damaged_files(
    gateway: TestClient, adapter: Adapter, scripted_engine: ScriptedEngine
) -> None:
    scripted_engine.replies = ["v1", "base"]
    assert chat(gateway).json()["personalization"]["adapter"] == "v1"
    scripted_engine.loaded.clear()
    (Path(adapter.folder) / "adapter_config.json").write_text("[]")
    assert chat(gateway).json()["personalization"]["damaged"] == "v1"
    assert scripted_engine.loaded == {}


def test_a_rollback_is_done_even_where_no_worker_can_drain(
    gateway: TestClient,
    adapter: Adapter,
    publish: Callable[[], Adapter],
    services: Services,
    scripted_engine: ScriptedEngine,
) -> None:
    publish()
    rolled = gateway.post("/v1/users/mina/adapters/rollback", json={}).json()
    assert rolled["active"] == "v1" and set(scripted_engine.loaded) == {adapter.name}
    with services.database.read() as session:
        assert session.scalar(select(func.count()).select_from(Lease)) == 0


def test_a_rollback_that_cannot_be_warmed_changes_nothing(
    gateway: TestClient,
    adapter: Adapter,
    publish: Callable[[], Adapter],
    scripted_engine: ScriptedEngine,
) -> None:
    publish()
    scripted_engine.down = True
    assert error_of(gateway.post("/v1/users/mina/adapters/rollback", json={}))[0] == 503
    assert gateway.get("/v1/users/mina/adapters").json()["active"] == "v2"
