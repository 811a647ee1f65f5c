import json
from collections.abc import Callable, Iterator

import httpx
import pytest
from scripted_gateway import ScriptedGateway
from scripted_records import KEY, REPLY

from ui.gateway import ChatRequest, Gateway
from ui.records import Delta, Reply
from ui.transport import GatewayError

TEXT = "".join(text for text, _ in REPLY)


@pytest.fixture
def gateway(fake_gateway: ScriptedGateway) -> Iterator[Gateway]:
    with Gateway(fake_gateway.url, KEY) as gateway:
        yield gateway


def scripted(answer: Callable[[httpx.Request], httpx.Response]) -> Gateway:
    return Gateway("http://gateway", KEY, transport=httpx.MockTransport(answer))


def chat(user: str = "maeve", **changes: object) -> ChatRequest:
    request = {"user": user, "messages": [{"role": "user", "content": "Hi"}], "pir": True}
    return ChatRequest.model_validate(request | changes)


def test_a_streamed_chat_is_its_deltas_and_then_the_same_text_scored(gateway: Gateway) -> None:
    *deltas, last = gateway.stream_chat(chat())
    assert all(isinstance(delta, Delta) for delta in deltas)
    assert isinstance(last, Reply)
    assert "".join(delta.text for delta in deltas if isinstance(delta, Delta)) == TEXT
    assert last.text == TEXT
    for word in last.personalization.words or ():
        assert TEXT[word.start : word.end] == word.text


def test_a_chat_in_one_piece_equals_the_streamed_one(gateway: Gateway) -> None:
    *_, streamed = gateway.stream_chat(chat())
    assert gateway.chat(chat()) == streamed


def test_a_chat_sends_what_openai_and_the_extension_name(
    gateway: Gateway, fake_gateway: ScriptedGateway
) -> None:
    gateway.chat(
        chat(adapter="v1", contrast="adapter", persona=False, conversation="c1", store=False)
    )
    _, path, body = fake_gateway.requests[-1]
    assert path == "/v1/chat/completions"
    assert body["user"] == "maeve"
    assert body["store"] is False
    assert body["messages"] == [{"role": "user", "content": "Hi"}]
    assert body["personalization"] == {
        "persona": False,
        "adapter": "v1",
        "pir": True,
        "contrast": "adapter",
        "conversation": "c1",
    }


def test_a_reply_is_scored_by_its_token_ids_where_they_are_known(
    gateway: Gateway, fake_gateway: ScriptedGateway
) -> None:
    gateway.pir("maeve", [{"role": "user", "content": "Hi"}], [5, 6], contrast="adapter")
    body = fake_gateway.requests[-1][2]
    assert body["token_ids"] == [5, 6]
    assert "reply" not in body


def test_the_gateways_own_sentence_is_the_error(gateway: Gateway) -> None:
    with pytest.raises(GatewayError, match="There is no user 'nobody'") as caught:
        gateway.user("nobody")
    assert caught.value.status == 404


def test_a_refused_stream_is_an_error_before_its_first_word(gateway: Gateway) -> None:
    with pytest.raises(GatewayError, match="no user 'nobody'"):
        list(gateway.stream_chat(chat("nobody")))


def test_an_engine_that_dies_in_a_stream_is_an_error_after_the_first_words(
    gateway: Gateway, fake_gateway: ScriptedGateway
) -> None:
    fake_gateway.break_stream = True
    stream = gateway.stream_chat(chat())
    assert isinstance(next(stream), Delta)
    with pytest.raises(GatewayError, match="engine went away"):
        list(stream)


def test_a_stream_without_its_last_chunk_is_an_error() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/readyz":
            return httpx.Response(200, json={"model": "m"})
        chunk = {"id": "1", "choices": [{"delta": {"content": "Ah"}}]}
        return httpx.Response(200, text=f"data: {json.dumps(chunk)}\n\n")

    with scripted(answer) as gateway, pytest.raises(GatewayError, match="cut off"):
        list(gateway.stream_chat(chat()))


def test_no_gateway_is_said_with_its_address() -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused", request=request)

    with scripted(refuse) as gateway, pytest.raises(GatewayError, match=r"http://gateway.*up"):
        gateway.users()


@pytest.mark.parametrize(
    ("response", "said"),
    [
        (httpx.Response(200, text="<html>"), "not Attune's gateway"),
        (httpx.Response(200, json=["a"]), "not Attune's gateway"),
        (httpx.Response(200, json={"cron": 5}), "same version"),
        (httpx.Response(502, text="<html>"), "502 Bad Gateway"),
        (httpx.Response(500, json={"detail": "x"}), "500"),
    ],
)
def test_an_answer_that_is_not_the_gateways_is_said(response: httpx.Response, said: str) -> None:
    with scripted(lambda _: response) as gateway, pytest.raises(GatewayError, match=said):
        gateway.schedule()


@pytest.mark.parametrize("error", [httpx.ReadTimeout("slow"), httpx.ReadError("gone")])
def test_an_answer_that_stops_is_said(error: httpx.HTTPError) -> None:
    def stop(request: httpx.Request) -> httpx.Response:
        raise error

    with scripted(stop) as gateway, pytest.raises(GatewayError, match="See its log"):
        gateway.schedule()


@pytest.mark.parametrize(("url", "key"), [("http://[bad", "k"), ("http://a:b:c", "k")])
def test_a_bad_address_is_said(url: str, key: str) -> None:
    with pytest.raises(GatewayError), Gateway(url, key) as gateway:
        gateway.users()


def test_a_key_that_is_no_key_is_said() -> None:
    with pytest.raises(GatewayError, match="key"):
        Gateway("http://gateway", "schlüssel")


def test_a_user_name_cannot_leave_its_place_in_the_path() -> None:
    paths: list[bytes] = []

    def answer(request: httpx.Request) -> httpx.Response:
        paths.append(request.url.raw_path)
        return httpx.Response(404, json={"error": {"message": "no"}})

    with scripted(answer) as gateway, pytest.raises(GatewayError):
        gateway.facts("a/../b?c")
    assert paths == [b"/v1/users/a%2F..%2Fb%3Fc/facts"]


def test_all_pages_of_a_history_are_read() -> None:
    asked: list[int] = []

    def answer(request: httpx.Request) -> httpx.Response:
        after = int(request.url.params["after"])
        asked.append(after)
        data = [{"id": after + n, "query": "", "text": f"text {after + n}"} for n in (1, 2)]
        return httpx.Response(200, json={"data": data, "next": after + 2 if after < 4 else None})

    with scripted(answer) as gateway:
        assert [text.text for text in gateway.history("mina")] == [f"text {n}" for n in range(1, 7)]
    assert asked == [0, 2, 4]


def test_what_a_newer_gateway_adds_is_kept() -> None:
    user = {"name": "a", "created_at": "", "consent": True, "facts": 0, "texts": 0, "new": 1}
    with scripted(lambda _: httpx.Response(200, json=user)) as gateway:
        assert gateway.user("a").model_dump(exclude_unset=True) == user
