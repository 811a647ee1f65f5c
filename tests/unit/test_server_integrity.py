"""What `attune adapters verify` finds, what a repair removes, and what it never touches."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from pydantic import SecretStr
from scripted_engine import ScriptedEngine
from shelf import BASE_MODEL, Shelf

from perce.retrieval import Encoder
from perce.tokens import ChatTokenizer
from server import pointer, registry
from server.app import create_app
from server.engine import Engine
from server.integrity import LEFTOVER_AGE_S, Finding, Integrity, remove
from server.services import Services
from server.settings import Settings
from server.store.tables.adapters import Adapter
from server.store.tables.base import now
from server.store.tables.people import User
from server.store.users import erase_user

WEIGHTS = "adapter_model.safetensors"


@pytest.fixture
def findings(shelf: Shelf) -> Callable[..., list[Finding]]:
    def found(*users: User) -> list[Finding]:
        integrity = Integrity(shelf.database, shelf.adapters_dir, BASE_MODEL)
        return [*(f for user in users for f in integrity.of_user(user)), *integrity.of_nobody()]

    return found


def aged(path: Path) -> Path:
    os.utime(path, (0, path.stat().st_mtime - LEFTOVER_AGE_S - 1))
    return path


def test_nothing_is_found_where_all_is_well(
    shelf: Shelf, findings: Callable[..., list[Finding]]
) -> None:
    mina, wilf = shelf.user("mina"), shelf.user("wilf")
    for user in (mina, mina, wilf):
        shelf.publish(user)
    with shelf.database.write() as session:
        rejected = registry.add_candidate(
            session, wilf, registry.Provenance("", "ce", None), {}, shelf.adapters_dir
        )
        registry.reject(session, rejected, "worse")
    assert findings(mina, wilf) == []


@pytest.mark.parametrize("which", [0, 1])
def test_damage_of_active_and_retired_versions_is_told_with_what_to_do(
    shelf: Shelf, findings: Callable[..., list[Finding]], which: int
) -> None:
    user = shelf.user()
    versions = [shelf.publish(user), shelf.publish(user)]
    (Path(versions[which].folder) / WEIGHTS).write_bytes(b"WEIGHTS")
    (finding,) = findings(user)
    assert (finding.problem, finding.user, finding.version) == ("damaged", "mina", f"v{which + 1}")
    assert f"{WEIGHTS} was changed" in finding.detail
    assert ("an older version answers mina" in finding.advice) is (which == 1)
    assert not finding.removable and not remove(finding)


def test_rows_without_files_and_other_base_models(
    shelf: Shelf, findings: Callable[..., list[Finding]]
) -> None:
    mina, wilf = shelf.user("mina"), shelf.user("wilf")
    lost = shelf.publish(mina)
    shelf.publish(wilf, base="sha256:another")
    for file in Path(lost.folder).iterdir():
        file.unlink()
    Path(lost.folder).rmdir()
    assert [(f.problem, f.user) for f in findings(mina, wilf)] == [
        ("no files", "mina"),
        ("base model", "wilf"),
    ]


def test_what_will_be_finished_by_itself_is_told_and_not_removed(
    shelf: Shelf, findings: Callable[..., list[Finding]]
) -> None:
    user = shelf.user()
    claimed = shelf.publish(user)
    shelf.publish(user)
    shelf.candidate(user)
    with shelf.database.write() as session:
        registry.move(session.get_one(Adapter, claimed.id), "erased")
    found = findings(user)
    assert [(f.problem, f.version, f.removable) for f in found] == [
        ("unfinished", "v1", False),
        ("unfinished", "v3", False),
    ]


def test_strays_and_leftovers_are_removed_and_the_rest_stays(
    shelf: Shelf, findings: Callable[..., list[Finding]]
) -> None:
    mina, gone = shelf.user("mina"), shelf.user("gone")
    kept = shelf.publish(mina)
    shelf.publish(gone)
    erased = shelf.publish(mina)
    with shelf.database.write() as session:
        erase_user(session, gone)
        pointer.rollback(session, mina, kept, None)
        row = session.get_one(Adapter, erased.id)
        registry.move(row, "erased")
        row.erased_at = now()
    home = shelf.adapters_dir / "u1"
    (home / "v9").mkdir()
    old, young = home / ".v3.0123abcd", home / ".v4.0123abcd"
    for folder in (old, young):
        folder.mkdir()
    aged(old)
    (shelf.adapters_dir / "notes.txt").write_text("by hand")
    found = findings(mina)
    assert {(f.problem, Path(f.path).name, f.removable) for f in found} == {
        ("stray", "v9", True),
        ("stray", "v2", True),
        ("leftover", old.name, True),
        ("stray", "u2", True),
        ("stray", "notes.txt", False),
    }
    assert next(f for f in found if f.path.endswith("u2")).engine_names == ["u2@v1"]
    assert sum(remove(finding) for finding in found) == 4
    assert sorted(path.name for path in home.iterdir()) == [young.name, "v1"]
    assert [finding.removable for finding in findings(mina)] == [False]
    assert not any(remove(finding) for finding in found)


@pytest.fixture
def gateway(
    shelf: Shelf,
    scripted_engine: ScriptedEngine,
    reference_tokenizer: ChatTokenizer,
    word_encoder: Encoder,
) -> Iterator[TestClient]:
    settings = Settings(home=shelf.home / "gateway", admin_key=SecretStr("attune-admin"))
    engine = Engine("http://engine", transport=scripted_engine.transport())
    services = Services.build(settings, (engine,), reference_tokenizer, word_encoder)
    headers = {"Authorization": "Bearer attune-admin"}
    with TestClient(create_app(services), headers=headers, raise_server_exceptions=False) as client:
        yield client


def test_the_api_checks_page_by_page_and_repairs(
    gateway: TestClient, scripted_engine: ScriptedEngine, shelf: Shelf
) -> None:
    for number in range(51):
        assert gateway.post("/v1/users", json={"name": f"user{number}"}).status_code == 201
    first = gateway.post("/v1/adapters/verify", json={}).json()
    assert (first["users"], first["versions"], first["findings"]) == (50, 0, [])
    rest = gateway.post("/v1/adapters/verify", json={"after": first["next"]}).json()
    assert (rest["users"], rest["next"]) == (1, None)

    stray = shelf.home / "gateway" / "adapters" / "u900" / "v2"
    stray.mkdir(parents=True)
    scripted_engine.loaded["u900@v2"] = str(stray)
    (found,) = gateway.post("/v1/adapters/verify", json={}).json()["findings"]
    assert (found["problem"], found["repaired"], stray.exists()) == ("stray", False, True)
    scripted_engine.down = True
    answer = gateway.post("/v1/adapters/verify", json={"repair": True})
    assert answer.status_code == 503 and stray.exists()  # an engine may hold it
    scripted_engine.down = False
    (found,) = gateway.post("/v1/adapters/verify", json={"repair": True}).json()["findings"]
    assert found["repaired"] and not stray.exists() and scripted_engine.loaded == {}
    assert gateway.post("/v1/adapters/verify", json={}).json()["findings"] == []


def test_only_admins_may_check_and_the_user_must_exist(gateway: TestClient) -> None:
    key = gateway.post("/v1/users", json={"name": "mina"}).json()["key"]
    own = {"Authorization": f"Bearer {key}"}
    assert gateway.post("/v1/adapters/verify", json={}, headers=own).status_code == 403
    assert gateway.post("/v1/adapters/verify", json={"user": "nobody"}).status_code == 404
    assert gateway.post("/v1/adapters/verify", json={"user": "mina"}).json()["users"] == 1
