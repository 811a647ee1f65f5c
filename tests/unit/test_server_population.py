"""The population at the gateway: who may name it, who is in it, and whom it answers."""

from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from gateway_calls import HELLO, chat, error_of
from population_versions import PopulationVersions
from scripted_engine import ScriptedEngine
from sqlalchemy import select

from server import population
from server.services import Services
from server.store.tables.people import Interaction

CHAT = {"messages": HELLO}
SHARES = {"shares": True}


@pytest.fixture
def made(gateway: TestClient, services: Services) -> PopulationVersions:
    """Makes versions in the gateway's store; the gateway has migrated it."""
    base = services.damage.base.fingerprint
    return PopulationVersions(services.database, services.settings.adapters_dir(), base)


@pytest.fixture
def service(gateway: TestClient) -> dict[str, str]:
    """The headers of a service, which acts for anybody."""
    key = gateway.post("/v1/keys", json={"role": "service"}).json()["key"]
    return {"Authorization": f"Bearer {key}"}


def own(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def test_nobody_can_be_added_as_the_population_or_get_a_key_for_it(
    gateway: TestClient, made: PopulationVersions
) -> None:
    made.owner()
    for body in ({"name": "@population"}, {"name": "@population", **SHARES}):
        status, message = error_of(gateway.post("/v1/users", json=body))
        assert status == 409 and "not a person" in message
    assert gateway.post("/v1/users", json={"name": "@Population"}).status_code == 400
    body = {"role": "user", "user": "@population"}
    assert gateway.post("/v1/keys", json=body).status_code == 409


@pytest.mark.parametrize("there", [True, False])
def test_nobody_acts_for_the_population(
    gateway: TestClient,
    mina: str,
    service: dict[str, str],
    made: PopulationVersions,
    scripted_engine: ScriptedEngine,
    there: bool,
) -> None:
    if there:
        made.owner()
    base = "/v1/users/@population"
    named = {"user": "@population"}
    calls = [
        ("POST", "/v1/chat/completions", {**CHAT, **named}),
        ("POST", "/v1/chat/completions", {**CHAT, **named, "stream": True}),
        ("POST", "/v1/completions", {"prompt": "x", **named}),
        ("POST", "/v1/pir", {"query": "q", "reply": "r", **named}),
        ("GET", base, None),
        ("PATCH", base, {"shares": False}),
        ("PATCH", base, {"consent": True}),
        ("DELETE", base, None),
        ("GET", f"{base}/export", None),
        ("GET", f"{base}/facts", None),
        ("POST", f"{base}/facts", {"text": "i am many."}),
        ("DELETE", f"{base}/facts/1", None),
        ("GET", f"{base}/history", None),
        ("POST", f"{base}/history", {"query": "q", "text": "t"}),
        ("GET", f"{base}/memory?query=x", None),
    ]
    for method, path, body in calls:
        for headers in ({}, service):
            answer = gateway.request(method, path, json=body, headers=headers)
            assert answer.status_code == 409, (method, path)
        assert gateway.request(method, path, json=body, headers=own(mina)).status_code == 403
    assert scripted_engine.bodies("/v1/chat/completions") == []
    assert [one["name"] for one in gateway.get("/v1/users").json()["data"]] == ["mina"]


def test_only_an_admin_sees_and_moves_the_populations_versions(
    gateway: TestClient, mina: str, service: dict[str, str], made: PopulationVersions
) -> None:
    base = "/v1/users/@population"
    assert gateway.get(f"{base}/adapters").json()["data"] == []
    wilf = made.person("wilf")
    made.shared(wilf)
    made.shared(wilf)
    calls = [
        ("GET", f"{base}/adapters", None),
        ("POST", f"{base}/adapters/rollback", {"to": None}),
        ("GET", f"{base}/refreshes", None),
        ("POST", f"{base}/refreshes", {}),
    ]
    for headers in (service, own(mina)):
        for method, path, body in calls:
            assert gateway.request(method, path, json=body, headers=headers).status_code == 403
    answer = gateway.post(f"{base}/adapters/rollback", json={"to": None}).json()
    assert (answer["active"], answer["answers"]) == ("v1", "v1")
    status, message = error_of(gateway.post(f"{base}/refreshes", json={}))
    assert status == 422 and "share at least 8 texts each, and has 1" in message
    found = gateway.post("/v1/adapters/verify", json={"user": "@population"}).json()
    assert (found["users"], found["versions"], found["findings"]) == (1, 2, [])


def test_sharing_needs_consent_and_is_switched_on_by_an_admin(
    gateway: TestClient, mina: str
) -> None:
    body = {"name": "zoe", "consent": False, **SHARES}
    status, message = error_of(gateway.post("/v1/users", json=body))
    assert status == 422 and "consent first" in message
    assert gateway.get("/v1/users/zoe").status_code == 404
    path = "/v1/users/mina"
    assert gateway.get(path).json()["shares"] is False
    assert gateway.patch(path, json=SHARES, headers=own(mina)).status_code == 403
    assert gateway.patch(path, json={}).json()["shares"] is False
    assert gateway.patch(path, json=SHARES).json()["shares"] is True
    assert gateway.get(f"{path}/export").json()["shares"] is True
    changed = gateway.patch(path, json={"shares": False}, headers=own(mina)).json()
    assert (changed["shares"], changed["consent"]) == (False, True)
    gateway.patch(path, json=SHARES)
    changed = gateway.patch(path, json={"consent": False}, headers=own(mina)).json()
    assert (changed["shares"], changed["consent"]) == (False, False)
    assert gateway.patch(path, json=SHARES).status_code == 422
    assert gateway.patch(path, json={"consent": True, **SHARES}).json()["shares"] is True
    assert gateway.patch(path, json={"name": "otto"}).status_code == 400
    assert gateway.patch("/v1/users/nobody", json=SHARES).status_code == 404


def test_who_has_no_version_is_answered_by_the_populations(
    gateway: TestClient,
    mina: str,
    made: PopulationVersions,
    scripted_engine: ScriptedEngine,
    services: Services,
) -> None:
    shared = made.shared(made.person("wilf"))
    scripted_engine.replies = ["shared", "base", "own"]
    answer = chat(gateway).json()
    assert answer["personalization"]["adapter"] == "population@v1"
    assert scripted_engine.bodies("/v1/chat/completions")[-1]["model"] == shared.name
    pir = {"user": "mina", "query": "q", "reply": "r"}
    assert gateway.post("/v1/pir", json=pir).json()["adapter"] == "population@v1"
    plain = chat(gateway, personalization={"adapter": "none"}).json()
    assert plain["personalization"]["adapter"] is None
    listed = gateway.get("/v1/users/mina/adapters").json()
    assert (listed["active"], listed["answers"], listed["data"]) == (None, "population@v1", [])
    assert gateway.get("/v1/users/mina").json()["adapter"] is None
    for named in ("v1", "population@v1", "@population"):
        refused = chat(gateway, personalization={"adapter": named})
        assert refused.status_code == (404 if named == "v1" else 400)
    made.publish(made.read("mina"), shared)
    assert chat(gateway).json()["personalization"]["adapter"] == "v1"
    listed = gateway.get("/v1/users/mina/adapters").json()
    assert (listed["active"], listed["answers"]) == ("v1", "v1")
    assert listed["data"][0]["parent"] == "population@v1"
    with services.database.read() as session:
        logged = session.scalars(select(Interaction.adapter).order_by(Interaction.created_at))
        assert logged.all() == [shared.name, None, f"u{made.read('mina').id}@v1"]


def test_damage_falls_through_to_older_versions_then_the_population_then_the_base(
    gateway: TestClient, mina: str, made: PopulationVersions, scripted_engine: ScriptedEngine
) -> None:
    wilf, user = made.person("wilf"), made.read("mina")
    versions = [made.shared(wilf), made.shared(wilf), made.publish(user), made.publish(user)]
    expected = ["v1", "population@v2", "population@v1", None]
    scripted_engine.replies = ["hello"] * 4
    for broken, label in zip([versions[n] for n in (3, 2, 1, 0)], expected, strict=True):
        (Path(broken.folder) / "adapter_config.json").write_text("[]")
        extension = chat(gateway).json()["personalization"]
        assert (extension["adapter"], extension["damaged"]) == (label, "v2")


def test_a_damaged_version_of_the_population_is_named_as_such(
    gateway: TestClient, mina: str, made: PopulationVersions, scripted_engine: ScriptedEngine
) -> None:
    shared = made.shared(made.person("wilf"))
    (Path(shared.folder) / "adapter_config.json").unlink()
    scripted_engine.replies = ["hello"]
    extension = chat(gateway).json()["personalization"]
    assert (extension["adapter"], extension["damaged"]) == (None, "population@v1")
    assert gateway.get("/readyz").json()["adapters"]["damaged"] == 1


def test_the_label_tells_whose_version_it_is(made: PopulationVersions) -> None:
    wilf = made.person("wilf")
    shared, of_wilf = made.shared(wilf), made.publish(wilf)
    assert population.label_for(wilf, shared) == "population@v1"
    assert population.label_for(wilf, of_wilf) == "v1"
    assert population.label_for(made.owner(), shared) == "v1"
