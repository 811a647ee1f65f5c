"""The engine's prompt, the gateway's and the one that PIR compares with are one template's."""

from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from gateway_calls import chat, error_of
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
