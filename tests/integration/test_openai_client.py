"""The unmodified `openai` client against the real stack, streamed and not."""

from collections.abc import Iterator

import openai
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from running_stack import Stack

QUESTION = "Write a review of the cast-iron pan."


@pytest.fixture
def client(stack: Stack) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(
        base_url=f"{stack.gateway_url}/v1", api_key=stack.admin_key, max_retries=0, timeout=300
    ) as made:
        yield made


def ask(client: openai.OpenAI, user: str = "mina", **wish: object) -> ChatCompletion:
    return client.chat.completions.create(
        model="attune-reference",
        messages=[{"role": "user", "content": QUESTION}],
        user=user,
        temperature=0,
        max_tokens=32,
        extra_body={"personalization": {"adapter": "none", **wish}},
    )


def test_the_model_is_listed(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["attune-reference"]


def test_a_whole_reply_validates_and_carries_the_extension(client: openai.OpenAI) -> None:
    reply = ask(client, pir=True)
    ChatCompletion.model_validate(reply.model_dump())
    text = reply.choices[0].message.content
    assert text
    assert reply.usage is not None and reply.usage.completion_tokens <= 32
    assert reply.model_extra is not None
    extension = reply.model_extra["personalization"]
    assert extension["user"] == "mina"
    assert extension["context"]
    tokens = extension["pir"]
    assert text.startswith(tokens[0]["text"])
    for token in tokens:
        assert text[token["start"] : token["end"]] == token["text"]
        assert token["pir"] == pytest.approx(token["logprob"] - token["logprob_without"])


def test_a_streamed_reply_is_the_same_text(client: openai.OpenAI) -> None:
    whole = ask(client).choices[0].message.content
    chunks = list(
        client.chat.completions.create(
            model="attune-reference",
            messages=[{"role": "user", "content": QUESTION}],
            user="mina",
            temperature=0,
            max_tokens=32,
            stream=True,
            stream_options={"include_usage": True},
            extra_body={"personalization": {"adapter": "none", "pir": True}},
        )
    )
    for chunk in chunks:
        ChatCompletionChunk.model_validate(chunk.model_dump())
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole
    assert chunks[-1].usage is not None
    assert chunks[-1].model_extra is not None
    assert chunks[-1].model_extra["personalization"]["pir"]


def test_logprobs_and_n_pass_through(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(
        model="attune-reference",
        messages=[{"role": "user", "content": QUESTION}],
        user="wilf",
        n=2,
        logprobs=True,
        max_tokens=4,
        seed=1,
    )
    assert len(reply.choices) == 2
    assert all(c.logprobs is not None and c.logprobs.content for c in reply.choices)


def test_completions_and_embeddings(client: openai.OpenAI) -> None:
    completed = client.completions.create(
        model="attune-reference", prompt="Once upon a time", user="mina", max_tokens=4
    )
    assert completed.choices[0].text
    vectors = client.embeddings.create(model="all-MiniLM-L6-v2", input=["a pan", "a bus"])
    assert [len(row.embedding) for row in vectors.data] == [384, 384]


def test_errors_arrive_as_the_client_s_own(client: openai.OpenAI, stack: Stack) -> None:
    with pytest.raises(openai.NotFoundError, match="no user 'nobody'"):
        ask(client, user="nobody")
    wrong = openai.OpenAI(base_url=f"{stack.gateway_url}/v1", api_key="wrong", max_retries=0)
    with wrong, pytest.raises(openai.AuthenticationError, match="unknown"):
        ask(wrong)
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model="attune-reference", messages=[], user="mina")
