"""How much one request may bring, and that a large one holds nobody else up."""

import asyncio
import json
import threading
from collections.abc import Callable, Iterator, Sequence

import pytest
from fastapi.testclient import TestClient
from gateway_calls import HELLO, chat, error_of
from httpx2 import Response
from scripted_engine import ScriptedEngine
from starlette.types import Message as Event

from perce.prompt import ContextItem, Message, PromptPair
from perce.template_inputs import MESSAGES_ALONE, TemplateInputs
from perce.tokens import ChatTokenizer
from server.app import create_app
from server.body_limit import most_body_bytes
from server.errors import BadRequestError, TooLargeError
from server.services import Services
from server.settings import REFERENCE_MODEL
from server.text_check import MAX_DEPTH, check_text

LONG = "x" * 100_001
MOST_BYTES = most_body_bytes(100_000)


class NotingTokenizer(ChatTokenizer):
    """Notes in which threads it works."""

    threads: set[int]

    def prompts(self, messages: Sequence[Message], context: Sequence[ContextItem]) -> PromptPair:
        self.threads.add(threading.get_ident())
        return super().prompts(messages, context)

    def prompt_ids(
        self, messages: Sequence[Message], inputs: TemplateInputs = MESSAGES_ALONE
    ) -> list[int]:
        self.threads.add(threading.get_ident())
        return super().prompt_ids(messages, inputs)

    def reply_ids(self, text: str) -> list[int]:
        self.threads.add(threading.get_ident())
        return super().reply_ids(text)

    def spans(self, ids: Sequence[int]) -> list[tuple[int, int]]:
        self.threads.add(threading.get_ident())
        return super().spans(ids)


TOO_LONG: list[Callable[[TestClient], Response]] = [
    lambda g: g.post("/v1/pir", json={"user": "mina", "query": LONG, "reply": "r"}),
    lambda g: g.post(
        "/v1/pir",
        json={"user": "mina", "messages": [{"role": "user", "content": LONG}], "reply": "r"},
    ),
    lambda g: g.post("/v1/pir", json={"user": "mina", "query": "q", "reply": LONG}),
    lambda g: g.post("/v1/pir", json={"user": "mina", "query": "q", "token_ids": [1] * 100_001}),
    lambda g: chat(g, messages=[{**HELLO[0], "name": LONG}]),
    lambda g: chat(g, messages=[{**HELLO[0], "content": [{"type": "text", "text": LONG}]}]),
    lambda g: chat(
        g,
        messages=[
            *HELLO,
            {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": LONG}}]},
        ],
    ),
    lambda g: chat(g, tools=[{"type": "function", "function": {"name": "f", LONG: ""}}]),
    lambda g: chat(g, chat_template_kwargs={"note": LONG}),
    lambda g: chat(g, response_format={"type": LONG}),
    lambda g: g.post("/v1/completions", json={"user": "mina", "prompt": LONG}),
    lambda g: g.post("/v1/completions", json={"user": "mina", "prompt": "p", "suffix": LONG}),
    lambda g: g.post("/v1/embeddings", json={"input": [LONG]}),
    lambda g: g.post("/v1/feedback", json={"user": "mina", "id": "chatcmpl-0", "edited": LONG}),
]


@pytest.mark.parametrize("send", TOO_LONG)
def test_text_of_any_field_counts(
    gateway: TestClient, mina: str, scripted_engine: ScriptedEngine, send: Callable[..., Response]
) -> None:
    answer = send(gateway)
    status, message = error_of(answer)
    assert (status, answer.json()["error"]["code"]) == (413, "too_large"), message
    assert "at most 100,000 are taken" in message
    sent = [path for path, _ in scripted_engine.requests]
    assert not {"/v1/chat/completions", "/v1/completions"} & set(sent)


@pytest.mark.parametrize("count", [2049, 300_000])
def test_no_more_texts_are_embedded_at_once_than_by_openai(
    gateway: TestClient, mina: str, count: int
) -> None:
    def embed(texts: int) -> Response:
        body = {"input": [""] * texts, "encoding_format": "base64"}
        return gateway.post("/v1/embeddings", json=body)

    assert error_of(embed(count))[0] == 400
    assert embed(2048).status_code == 200


def test_deep_nesting_is_refused_wherever_it_stands(gateway: TestClient, mina: str) -> None:
    deep: object = "x"
    for _ in range(400):
        deep = [deep]
    for wish in (
        {"tools": [{"function": deep}]},
        {"chat_template_kwargs": {"note": deep}},
        {"logit_bias": deep},
        {"messages": [{**HELLO[0], "name": deep}]},
    ):
        status, message = error_of(chat(gateway, **wish))
        assert (status, f"{MAX_DEPTH} levels" in message) == (400, True)


def test_texts_of_just_the_length_and_depth_are_taken() -> None:
    nested: object = "12345"
    for _ in range(MAX_DEPTH - 1):
        nested = [nested]
    check_text("The test has", [nested, None, {"key": 1}], 9)
    with pytest.raises(TooLargeError, match="9 characters and at most 8"):
        check_text("The test has", [nested, None, {"key": 1}], 8)
    with pytest.raises(BadRequestError, match="nesting"):
        check_text("The test has", [[nested]], 9)


SENT: dict[str, Callable[[str], tuple[str, dict[str, object]]]] = {
    "message": lambda t: ("/v1/chat/completions", {"messages": [{"role": "user", "content": t}]}),
    "part": lambda t: (
        "/v1/chat/completions",
        {"messages": [{"role": "user", "content": [{"type": "text", "text": t}]}]},
    ),
    "role": lambda t: ("/v1/chat/completions", {"messages": [{"role": t, "content": "x"}]}),
    "model": lambda t: ("/v1/chat/completions", {"messages": HELLO, "model": t}),
    "conversation": lambda t: (
        "/v1/chat/completions",
        {"messages": HELLO, "personalization": {"conversation": t}},
    ),
    "other field": lambda t: ("/v1/chat/completions", {"messages": HELLO, "stop": [t]}),
    "name of a tool": lambda t: (
        "/v1/chat/completions",
        {"messages": HELLO, "tools": [{"type": "function", "function": {"name": t}}]},
    ),
    "prompt": lambda t: ("/v1/completions", {"prompt": t}),
    "input": lambda t: ("/v1/embeddings", {"input": [t]}),
    "query": lambda t: ("/v1/pir", {"query": t, "reply": "r"}),
    "reply": lambda t: ("/v1/pir", {"query": "q", "reply": t}),
    "reply's id": lambda t: ("/v1/feedback", {"id": t, "feedback": "up"}),
    "edit": lambda t: ("/v1/feedback", {"id": "chatcmpl-0", "edited": t}),
    "fact": lambda t: ("/v1/users/mina/facts", {"text": t}),
    "new name": lambda t: ("/v1/users", {"name": t}),
    "version": lambda t: ("/v1/users/mina/adapters/rollback", {"to": t}),
}


@pytest.mark.parametrize("text", ["a\0b", "half a \ud83d face"], ids=["NUL", "half"])
@pytest.mark.parametrize("sent", SENT.values(), ids=SENT.keys())
def test_text_that_no_store_holds_is_refused_in_any_field(
    gateway: TestClient, mina: str, sent: Callable[[str], tuple[str, dict[str, object]]], text: str
) -> None:
    path, body = sent(text)
    body = body if path.startswith("/v1/users") else {"user": "mina", **body}
    # The client's own JSON would not spell half a character.
    headers = {"content-type": "application/json"}
    status, message = error_of(gateway.post(path, content=json.dumps(body), headers=headers))
    # Where a text has a length, pydantic says it in words of its own.
    said = ("a NUL character or half of one" in message) or ("as a unicode string" in message)
    assert (status, said) == (400, True), message


@pytest.mark.parametrize("name", ["a\0b", "half a \ud83d face"], ids=["NUL", "half"])
def test_a_user_of_a_name_that_no_store_holds_is_nobody(gateway: TestClient, name: str) -> None:
    body = json.dumps({"user": name, "messages": HELLO})
    headers = {"content-type": "application/json"}
    answer = gateway.post("/v1/chat/completions", content=body, headers=headers)
    assert error_of(answer)[0] == 400
    assert error_of(gateway.get("/v1/users/a%00b"))[0] == 404


NUMBERS: list[tuple[str, str]] = [
    ("chat/completions", '"messages": [{"role": "user", "content": "x"}], "temperature": @'),
    ("chat/completions", '"messages": [{"role": "user", "content": "x"}], "logit_bias": {"5": @}'),
    ("chat/completions", '"messages": [{"role": "user", "content": "x"}], "max_tokens": @'),
    ("chat/completions", '"messages": [{"role": "user", "content": "x", "name": @}]'),
    ("chat/completions", '"messages": [{"role": "user", "content": "x"}], "tools": [{"a": [@]}]'),
    ("completions", '"prompt": [@]'),
    ("completions", '"prompt": "p", "temperature": @'),
    ("pir", '"messages": [{"role": "user", "content": "x", "name": @}], "reply": "r"'),
    ("pir", '"query": "q", "token_ids": [@]'),
]


@pytest.mark.parametrize("number", ["NaN", "1e999", "-Infinity"])
@pytest.mark.parametrize(("path", "fields"), NUMBERS)
def test_a_number_that_is_not_finite_is_refused_in_any_field(
    gateway: TestClient, mina: str, path: str, fields: str, number: str
) -> None:
    body = f'{{"user": "mina", {fields.replace("@", number)}}}'
    headers = {"content-type": "application/json"}
    status, message = error_of(gateway.post(f"/v1/{path}", content=body, headers=headers))
    # Where a field takes numbers alone, pydantic says it in words of its own.
    said = "NaN or an infinite number" in message or "finite number" in message
    assert (status, said) == (400, True), message


def in_pieces(length: int) -> Iterator[bytes]:
    for _ in range(length // 2**16):
        yield b" " * 2**16


@pytest.mark.parametrize("path", ["/v1/pir", "/v1/chat/completions", "/v1/embeddings", "/v1/users"])
@pytest.mark.parametrize("chunked", [False, True])
def test_no_body_is_longer_than_all_texts_it_may_hold(
    gateway: TestClient, path: str, chunked: bool
) -> None:
    length = MOST_BYTES + 2**17
    json_headers = {"content-type": "application/json"}
    answer = gateway.post(
        path, content=in_pieces(length) if chunked else b" " * length, headers=json_headers
    )
    status, message = error_of(answer)
    assert (status, answer.json()["error"]["code"]) == (413, "too_large")
    assert f"{MOST_BYTES:,} bytes" in message


def test_a_long_body_is_not_read_to_its_end(services: Services) -> None:
    taken, sent = 0, list[Event]()

    async def receive() -> Event:
        nonlocal taken
        taken += 2**16
        return {"type": "http.request", "body": b" " * 2**16, "more_body": True}

    async def send(message: Event) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/pir",
        "query_string": b"",
        "headers": [(b"content-type", b"application/json")],
    }
    asyncio.run(create_app(services)(scope, receive, send))
    assert sent[0]["status"] == 413
    assert json.loads(sent[1]["body"])["error"]["code"] == "too_large"
    assert taken < MOST_BYTES + 2**17


def test_a_history_may_be_longer_than_any_other_body(gateway: TestClient, mina: str) -> None:
    row = json.dumps({"query": "q", "text": "a long text " * 3000}) + "\n"
    body = row * (2 * MOST_BYTES // len(row))
    for content in (body, (body[at : at + 2**20].encode() for at in range(0, len(body), 2**20))):
        answer = gateway.post("/v1/users/mina/history", content=content)
        assert answer.status_code == 200, answer.text
        assert answer.json()["errors"] == []


@pytest.mark.parametrize("stream", [False, True])
def test_prompts_are_rendered_beside_the_event_loop(
    gateway: TestClient,
    mina: str,
    scripted_engine: ScriptedEngine,
    reference_tokenizer: NotingTokenizer,
    stream: bool,
) -> None:
    scripted_engine.tokenizer = ChatTokenizer.load(str(REFERENCE_MODEL))
    reference_tokenizer.threads = set()
    loop = gateway.portal.call(_this_thread) if gateway.portal else 0
    scripted_engine.replies = ["warm"]
    assert "warm" in chat(gateway, stream=stream, personalization={"pir": True}).text
    body = {"user": "mina", "query": "bread?", "reply": "warm"}
    assert gateway.post("/v1/pir", json=body).status_code == 200
    assert loop and reference_tokenizer.threads
    assert loop not in reference_tokenizer.threads


async def _this_thread() -> int:
    return threading.get_ident()


@pytest.fixture(scope="module")
def reference_tokenizer() -> NotingTokenizer:
    tokenizer = NotingTokenizer.load(str(REFERENCE_MODEL))
    tokenizer.threads = set()
    return tokenizer
