"""The engine's prompt, the gateway's and the one that PIR compares with are one template's."""

from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from gateway_calls import HELLO, chat, error_of
from scripted_engine import ScriptedEngine
from transformers import AutoTokenizer

from perce.tokens import ChatTokenizer
from server.settings import REFERENCE_MODEL

NO_THINKING = (
    "{%- if enable_thinking is defined and enable_thinking is false %}(silent){%- endif %}"
    "{%- if note %}{{ note }}{% endif %}"
    "{%- if reasoning_effort %}({{ reasoning_effort }}){% endif %}"
)
MARK = "(silent)"


@pytest.fixture(scope="module")
def reference_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> ChatTokenizer:
    """The reference model's, whose template has options as a thinking model's has."""
    tokenizer = AutoTokenizer.from_pretrained(str(REFERENCE_MODEL))
    tokenizer.chat_template += NO_THINKING
    folder: Path = tmp_path_factory.mktemp("thinking")
    tokenizer.save_pretrained(str(folder))
    return ChatTokenizer.load(str(folder))


def test_options_are_in_all_prompts_and_unknown_ones_in_none(
    gateway: TestClient, mina: str, scripted_engine: ScriptedEngine
) -> None:
    scripted_engine.replies = ["warm"]
    options = {"enable_thinking": False, "note": "<|im_end|>", "bos_token": "x", "colour": "red"}
    answer = chat(gateway, chat_template_kwargs=options, personalization={"pir": True})
    assert answer.status_code == 200
    (body,) = scripted_engine.bodies("/v1/chat/completions")
    assert body["chat_template_kwargs"] == {"enable_thinking": False, "note": "< |im_end|>"}
    (scored,) = scripted_engine.bodies("/v1/completions")
    decoded = scripted_engine.tokenizer.decode(scored["prompt"])
    assert decoded.endswith(f"{MARK}< |im_end|>warm")


def test_an_effort_reaches_the_template_as_the_engine_gives_it(
    gateway: TestClient, mina: str, scripted_engine: ScriptedEngine
) -> None:
    scripted_engine.replies = ["warm"]
    chat(gateway, reasoning_effort="none", personalization={"pir": True})
    (body,) = scripted_engine.bodies("/v1/chat/completions")
    assert body["chat_template_kwargs"] == {"reasoning_effort": "none", "enable_thinking": False}
    (scored,) = scripted_engine.bodies("/v1/completions")
    assert f"{MARK}(none)" in scripted_engine.tokenizer.decode(scored["prompt"])


@pytest.mark.parametrize(
    ("field", "value"),
    [("continue_final_message", True), ("documents", [{"text": "x"}]), ("chat_template", "x")],
)
def test_what_pir_could_not_follow_is_refused(
    gateway: TestClient, mina: str, scripted_engine: ScriptedEngine, field: str, value: object
) -> None:
    status, message = error_of(chat(gateway, **{field: value}))
    assert status == 400
    assert field in message
    assert not scripted_engine.bodies("/v1/chat/completions")


def test_fields_at_their_usual_values_pass(
    gateway: TestClient, mina: str, scripted_engine: ScriptedEngine
) -> None:
    scripted_engine.replies = ["warm"]
    assert chat(gateway, add_generation_prompt=True, echo=False, documents=None).status_code == 200


def test_no_pir_is_told_of_a_prompt_that_the_engine_made_otherwise(
    gateway: TestClient, mina: str, scripted_engine: ScriptedEngine
) -> None:
    plain = ChatTokenizer.load(str(REFERENCE_MODEL))
    scripted_engine.tokenizer = plain
    scripted_engine.replies = ["warm", "warm"]
    wish = {"enable_thinking": False}
    told = chat(gateway, chat_template_kwargs=wish, personalization={"pir": True})
    assert error_of(told)[0] == 502
    assert told.json()["error"]["code"] == "prompt_mismatch"
    assert chat(gateway, chat_template_kwargs=wish).status_code == 200


def test_no_client_chooses_whose_cached_prefixes_it_meets(
    gateway: TestClient, mina: str, scripted_engine: ScriptedEngine
) -> None:
    scripted_engine.replies = ["warm"]
    chat(gateway, cache_salt="user-7")
    asked = {"user": "mina", "prompt": [1, 2, 3], "cache_salt": "user-7"}
    assert gateway.post("/v1/completions", json=asked).status_code == 200
    (chatted,), (completed,) = (
        scripted_engine.bodies(f"/v1/{path}") for path in ("chat/completions", "completions")
    )
    assert chatted["cache_salt"] == completed["cache_salt"] != "user-7"


def test_pir_reads_a_developer_message_as_the_chat_did(
    gateway: TestClient, mina: str, scripted_engine: ScriptedEngine
) -> None:
    messages = [{"role": "developer", "content": "Be brief."}, *HELLO]
    scripted_engine.replies = ["warm"]
    chatted = chat(gateway, messages=messages, personalization={"pir": True}).json()
    told = chatted["personalization"]["pir"]
    body = {"user": "mina", "messages": messages, "token_ids": [t["token_id"] for t in told]}
    assert gateway.post("/v1/pir", json=body).json()["pir"] == told


@pytest.mark.parametrize("role", ["user", "system", "developer"])
@pytest.mark.parametrize("content", [{}, {"content": None}, {"content": []}])
def test_a_message_without_content_is_an_empty_one(
    gateway: TestClient,
    mina: str,
    scripted_engine: ScriptedEngine,
    role: str,
    content: dict[str, object],
) -> None:
    messages = [{"role": role, **content}, *HELLO]
    scripted_engine.replies = ["warm"]
    told = chat(gateway, messages=messages, personalization={"pir": True})
    assert told.status_code == 200, told.text
    body = {"user": "mina", "messages": messages, "reply": "warm"}
    afresh = gateway.post("/v1/pir", json=body)
    assert afresh.json()["pir"] == told.json()["personalization"]["pir"]


@pytest.mark.parametrize("stream", [False, True])
def test_no_pir_is_told_of_a_reply_that_the_engine_left_the_thinking_out_of(
    gateway: TestClient, mina: str, scripted_engine: ScriptedEngine, stream: bool
) -> None:
    scripted_engine.parser = lambda text: text.partition(" so: ")[2]
    scripted_engine.replies = ["they ask about bread so: it is warm", "why not so: warm"]
    told = chat(gateway, stream=stream, personalization={"pir": True}).text
    assert "reply_mismatch" in told and "--reasoning-parser" in told
    plain = chat(gateway, stream=stream)
    assert "reply_mismatch" not in plain.text and "warm" in plain.text


def test_pir_is_told_of_a_reply_that_a_stop_string_cut(
    gateway: TestClient, mina: str, scripted_engine: ScriptedEngine
) -> None:
    scripted_engine.parser = lambda text: text.partition(".")[0]
    scripted_engine.replies = ["it is warm. And so on"]
    answer = chat(gateway, stop=["."], personalization={"pir": True}).json()
    tokens = answer["personalization"]["pir"]
    assert "".join(token["text"] for token in tokens).removesuffix(".") == "it is warm"
