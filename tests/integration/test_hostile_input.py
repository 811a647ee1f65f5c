"""Bad input on the real stack: a clear error each, nothing lost, services still up."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from running_stack import Stack

HELLO = [{"role": "user", "content": "What do you think of the night bus?"}]


@pytest.fixture(autouse=True)
def nothing_lost_and_services_up(stack: Stack) -> Iterator[None]:
    """Whatever a test does: afterwards chats are answered and mina has all her texts."""
    yield
    stack.wait_ready()
    with stack.client() as client:
        assert client.get("/v1/users/mina").json()["texts"] >= 48
        answer = client.post(
            "/v1/chat/completions", json={"user": "mina", "messages": HELLO, "max_tokens": 4}
        )
        assert answer.status_code == 200, answer.text


def error_of(response: httpx.Response) -> tuple[int, str]:
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return response.status_code, error["message"]


def user_with(client: httpx.Client, name: str, texts: int) -> None:
    client.post("/v1/users", json={"name": name})
    rows = [f'{{"query": "post {i}", "text": "text number {i}"}}' for i in range(texts)]
    client.post(f"/v1/users/{name}/history", content="\n".join(rows)).raise_for_status()


def test_unknown_user(stack: Stack) -> None:
    with stack.client() as client:
        body = {"user": "nobody", "messages": HELLO}
        status, message = error_of(client.post("/v1/chat/completions", json=body))
        assert status == 404 and "attune users add nobody" in message
        assert error_of(client.post("/v1/users/nobody/refreshes", json={}))[0] == 404


def test_wrong_key(stack: Stack) -> None:
    with stack.client("attune-wrong") as client:
        status, message = error_of(client.post("/v1/chat/completions", json={"messages": HELLO}))
        assert status == 401 and "unknown" in message


@pytest.mark.parametrize(("texts", "words"), [(0, "no texts"), (1, "1 text,")])
def test_empty_history_and_history_of_one_text(stack: Stack, texts: int, words: str) -> None:
    with stack.client() as client:
        user_with(client, f"few{texts}", texts)
        status, message = error_of(client.post(f"/v1/users/few{texts}/refreshes", json={}))
        assert status == 422 and words in message
        # Such a user still chats.
        body = {"user": f"few{texts}", "messages": HELLO, "max_tokens": 4}
        assert client.post("/v1/chat/completions", json=body).status_code == 200


def test_a_message_of_200_000_characters(stack: Stack) -> None:
    with stack.client() as client:
        body = {"user": "mina", "messages": [{"role": "user", "content": "x" * 200_000}]}
        status, message = error_of(client.post("/v1/chat/completions", json=body))
        assert status == 413 and "200,000 characters" in message


def test_a_message_that_fits_the_gateway_and_not_the_model(stack: Stack) -> None:
    with stack.client() as client:
        body = {"user": "mina", "messages": [{"role": "user", "content": "bread " * 15_000}]}
        status, message = error_of(client.post("/v1/chat/completions", json=body))
        assert status == 400 and "shorten the conversation" in message


def test_an_invalid_line_in_an_import(stack: Stack) -> None:
    with stack.client() as client:
        user_with(client, "liner", 0)
        content = b'{"query": "q", "text": "one"}\n{broken\n{"query": "q", "text": "two"}\n'
        answer = client.post("/v1/users/liner/history", content=content).json()
        assert answer["imported"] == 2
        assert [error["line"] for error in answer["errors"]] == [2]
        assert client.post("/v1/users/liner/history", content=content).json()["imported"] == 0


def test_token_ids_that_the_model_does_not_have(stack: Stack) -> None:
    with stack.client() as client:
        for ids in ([10**9], [-1]):
            body = {"user": "mina", "query": "q", "token_ids": ids}
            status, _ = error_of(client.post("/v1/pir", json=body))
            assert status == 400


def test_an_adapter_folder_with_a_missing_file(stack: Stack) -> None:
    with stack.client() as client:
        user_with(client, "damaged", 8)
        identity = client.post("/v1/users/damaged/refreshes", json={}).json()["id"]
        refresh = _ended(client, "damaged", identity)
        assert refresh["verdict"] == "publish", refresh
        name = client.get("/v1/users/damaged/adapters").json()["data"][0]["name"]
        folder = stack.home / "adapters" / name.split("@")[0] / "v1"
        (folder / "adapter_model.safetensors").unlink()
        body = {"user": "damaged", "messages": HELLO, "max_tokens": 4}
        # Nothing older is whole, so the base model answers, and the reply says why.
        answered = client.post("/v1/chat/completions", json=body)
        assert answered.status_code == 200, answered.text
        personalization = answered.json()["personalization"]
        assert (personalization["adapter"], personalization["damaged"]) == (None, "v1")
        named = {**body, "personalization": {"adapter": "v1"}}
        status, message = error_of(client.post("/v1/chat/completions", json=named))
        assert status == 409 and "adapter_model.safetensors is missing" in message
        # A refresh does not go on from what is damaged, and does not fail on it.
        identity = client.post("/v1/users/damaged/refreshes", json={}).json()["id"]
        assert _ended(client, "damaged", identity)["status"] == "succeeded"


@pytest.mark.parametrize(
    ("stream", "victim"), [(False, "server"), (False, "core"), (True, "core"), (True, "server")]
)
def test_an_engine_killed_during_a_chat_is_a_503_and_comes_back(
    stack: Stack, stream: bool, victim: str
) -> None:
    """Many chats are under way when the engine dies: each ends as a 503 in OpenAI's shape."""
    answers: list[httpx.Response] = []
    body = {
        "user": "mina",
        "messages": HELLO,
        "max_tokens": 1200,
        "stream": stream,
        # Longer than the kill takes to come.
        "ignore_eos": True,
        "n": 8,
    }

    def ask() -> None:
        with stack.client() as client:
            answers.append(client.post("/v1/chat/completions", json=body))

    chats = [threading.Thread(target=ask) for _ in range(2)]
    for one in chats:
        one.start()
    time.sleep(1.0)
    server, core = _engine_processes(stack.home)
    os.kill(server.pid if victim == "server" else core.pid, signal.SIGKILL)
    for one in chats:
        one.join(120)
    assert len(answers) == 2
    for answer in answers:
        if stream:
            # The reply had begun: its status was sent, so the error is the last event.
            assert '"code": "engine_unavailable"' in answer.text.strip().splitlines()[-1]
            assert "[DONE]" not in answer.text
        else:
            status, message = error_of(answer)
            assert status == 503 and "try again" in message
    with stack.client() as client:
        assert client.get("/healthz").status_code == 200
    stack.wait_ready(240)
    # Nothing of the dead engine is left to hold its memory.
    assert not core.is_running() and not server.is_running()


def _ended(client: httpx.Client, user: str, identity: str) -> dict[str, Any]:
    for _ in range(600):
        refresh: dict[str, Any] = client.get(f"/v1/users/{user}/refreshes/{identity}").json()
        if refresh["status"] in ("succeeded", "failed"):
            return refresh
        time.sleep(0.5)
    raise TimeoutError(identity)


def _engine_processes(home: Path) -> tuple[psutil.Process, psutil.Process]:
    """The stack's engine: vLLM's API server, found by the stack's key, and the core under it."""
    key = (home / "engine.key").read_text().strip()
    for process in psutil.process_iter(["environ", "cmdline"]):
        command = process.info["cmdline"] or [""]
        served = "vllm.entrypoints.openai.api_server" in command[1:3]
        if served and (process.info["environ"] or {}).get("VLLM_API_KEY") == key:
            (core,) = (c for c in process.children() if "EngineCore" in " ".join(c.cmdline()))
            return process, core
    raise AssertionError(f"no engine of {home}")
