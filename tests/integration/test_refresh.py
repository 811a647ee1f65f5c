"""The main job on the real stack: refresh, gate, publish, swap, PIR, rollback, erase."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from running_stack import Stack, wait_until

QUESTION = "Write a review of the cast-iron pan."


def chat(stack: Stack, user: str, **wish: object) -> dict[str, Any]:
    body = {
        "user": user,
        "messages": [{"role": "user", "content": QUESTION}],
        "temperature": 0,
        "max_tokens": 48,
        "personalization": wish,
    }
    with stack.client() as client:
        answer: dict[str, Any] = (
            client.post("/v1/chat/completions", json=body).raise_for_status().json()
        )
    return answer


def start(stack: Stack, user: str, method: str = "perce") -> str:
    with stack.client() as client:
        answer = client.post(f"/v1/users/{user}/refreshes", json={"method": method})
        identity: str = answer.raise_for_status().json()["id"]
    return identity


def finished(stack: Stack, user: str, identity: str, seconds: float = 300) -> dict[str, Any]:
    found: dict[str, Any] = {}

    def ended() -> bool:
        with stack.client() as client:
            found.update(client.get(f"/v1/users/{user}/refreshes/{identity}").json())
        return found.get("status") in ("succeeded", "failed", "cancelled")

    wait_until(ended, seconds)
    return found


def adapters(stack: Stack, user: str) -> dict[str, Any]:
    with stack.client() as client:
        listed: dict[str, Any] = client.get(f"/v1/users/{user}/adapters").json()
    return listed


@pytest.fixture(scope="module")
def refreshed(stack: Stack) -> dict[str, Any]:
    """Wilf's first refresh."""
    return finished(stack, "wilf", start(stack, "wilf"))


def test_a_refresh_is_gated_and_published(stack: Stack, refreshed: dict[str, Any]) -> None:
    assert (refreshed["status"], refreshed["verdict"]) == ("succeeded", "publish"), refreshed
    overall, personal = refreshed["held_out_loss"], refreshed["personal_loss"]
    assert overall["candidate"] < overall["base"]
    assert personal["candidate"] <= 0.9 * personal["base"]
    assert overall["incumbent"] is None
    examples = refreshed["report"]["examples"]
    assert examples["train"] > examples["held_out"] > 0
    assert examples["left_out_in_words"] == "" or sum(examples["left_out"].values()) > 0
    listed = adapters(stack, "wilf")
    assert listed["active"] == refreshed["adapter"] == "v1"
    folder = stack.home / "adapters" / listed["data"][0]["name"].split("@")[0] / "v1"
    assert {p.name for p in folder.iterdir()} >= {
        "adapter_config.json",
        "adapter_model.safetensors",
        "checksums.json",
    }
    assert not (stack.home / "work" / refreshed["id"]).exists()


def test_the_new_version_answers_otherwise_and_pir_says_where(
    stack: Stack, refreshed: dict[str, Any]
) -> None:
    before = chat(stack, "wilf", adapter="none", pir=True)
    after = chat(stack, "wilf", pir=True, contrast="adapter")
    assert before["personalization"]["adapter"] is None
    assert after["personalization"]["adapter"] == "v1"
    replies = [answer["choices"][0]["message"]["content"] for answer in (before, after)]
    assert replies[0] != replies[1]
    assert any(token["personal"] for token in after["personalization"]["pir"])


@pytest.mark.parametrize("contrast", ["persona", "adapter", "both"])
def test_pir_of_a_chat_equals_pir_scored_afresh(
    stack: Stack, refreshed: dict[str, Any], contrast: str
) -> None:
    chatted = chat(stack, "wilf", pir=True, contrast=contrast)["personalization"]["pir"]
    body = {
        "user": "wilf",
        "query": QUESTION,
        "token_ids": [token["token_id"] for token in chatted],
        "contrast": contrast,
    }
    with stack.client() as client:
        afresh = client.post("/v1/pir", json=body).raise_for_status().json()["pir"]
    differences = [abs(a["pir"] - b["pir"]) for a, b in zip(chatted, afresh, strict=True)]
    assert len(differences) >= 8
    assert max(differences) <= 1e-3


def test_rollback_and_forth(stack: Stack, refreshed: dict[str, Any]) -> None:
    with stack.client() as client:
        rolled = client.post("/v1/users/wilf/adapters/rollback", json={}).json()
        assert rolled["active"] is None
        assert chat(stack, "wilf")["personalization"]["adapter"] is None
        again = client.post("/v1/users/wilf/adapters/rollback", json={"to": "v1"}).json()
        assert again["active"] == "v1"
    assert chat(stack, "wilf")["personalization"]["adapter"] == "v1"


def test_plain_cross_entropy_goes_the_same_way(stack: Stack) -> None:
    ended = finished(stack, "harriet", start(stack, "harriet", "ce"))
    assert ended["status"] == "succeeded", ended
    assert ended["report"]["training"]["mean_weight"] == 1.0


def test_a_worker_killed_while_training_ends_the_refresh_after_its_restart(stack: Stack) -> None:
    identity = start(stack, "anders")

    def training() -> bool:
        with stack.client() as client:
            return bool(client.get(f"/v1/users/anders/refreshes/{identity}").json()["progress"])

    wait_until(training, 120)
    os.kill(_worker(stack.home), signal.SIGKILL)
    ended = finished(stack, "anders", identity)
    assert ended["status"] == "succeeded", ended
    states = [one["state"] for one in adapters(stack, "anders")["data"]]
    assert states == ["active" if ended["verdict"] == "publish" else "rejected"]


def test_a_cancelled_refresh_stops_and_changes_nothing(stack: Stack) -> None:
    before = adapters(stack, "mina")
    identity = start(stack, "mina")
    path = f"/v1/users/mina/refreshes/{identity}"
    seen: dict[str, Any] = {}

    def training() -> bool:
        with stack.client() as client:
            seen.update(client.get(path).json()["progress"] or {})
        return bool(seen)

    wait_until(training, 120)
    assert seen["tokens_per_s"] > 0 and seen["seconds_left"] >= 0
    with stack.client() as client:
        assert client.post(f"{path}/cancel").status_code == 202
        ended = finished(stack, "mina", identity, 60)
        assert (ended["status"], ended["verdict"]) == ("cancelled", None)
        assert client.post(f"{path}/cancel").status_code == 409
    assert adapters(stack, "mina") == before
    assert not (stack.home / "work" / identity).exists()


def test_erasing_a_user_leaves_no_files(stack: Stack) -> None:
    with stack.client() as client:
        client.post("/v1/users", json={"name": "gone"}).raise_for_status()
        history = (Path(__file__).parents[2] / "demo/mina/history.jsonl").read_bytes()
        client.post("/v1/users/gone/history", content=history).raise_for_status()
        ended = finished(stack, "gone", start(stack, "gone"))
        name = adapters(stack, "gone")["data"][0]["name"]
        folder = stack.home / "adapters" / name.split("@")[0]
        assert ended["verdict"] == "publish" and folder.exists()
        assert client.delete("/v1/users/gone").json()["adapters"] == 1
        assert not (folder / "v1").exists()
        assert client.get("/v1/users/gone").status_code == 404
    assert chat(stack, "mina")["choices"]


def _worker(home: Path) -> int:
    """The pid of the stack's worker."""
    for process in psutil.process_iter(["cmdline", "environ"]):
        command = process.info["cmdline"] or []
        if "adapt" in command and (process.info["environ"] or {}).get("ATTUNE_HOME") == str(home):
            pid: int = process.pid
            return pid
    raise AssertionError(f"no worker of {home} at {time.ctime()}")
