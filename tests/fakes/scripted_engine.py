"""A scripted engine and a small encoder: the gateway's tests without a model."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np

from perce.retrieval import Encoder, Vectors
from perce.template_inputs import TemplateInputs
from perce.tokens import ChatTokenizer


class WordEncoder(Encoder):
    """Vectors that are near where texts share words: retrieval without a model."""

    def encode(self, texts: Sequence[str]) -> Vectors:
        vectors = np.zeros((len(texts), 256), np.float32)
        for row, text in enumerate(texts):
            for word in text.lower().split():
                vectors[row, int(hashlib.md5(word.encode()).hexdigest(), 16) % 256] += 1.0
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        scaled: Vectors = vectors / np.maximum(norms, 1e-9)
        return scaled


@dataclass
class ScriptedEngine:
    """A vLLM engine over `httpx.MockTransport`: scripted replies, computed logprobs.

    The logprob of a reply token follows from the model's name, the prompt's length and the
    token id, so that tests can compute every PIR by themselves. A parser, where there is one,
    is given what the model wrote and returns what the reply shows of it; ids keep all of it.

    Several choices of a stream say the same, one after the other. `closed` is called when a
    client has closed a stream, which takes `closing_s` seconds.
    """

    tokenizer: ChatTokenizer
    replies: list[str] = field(default_factory=list)
    loaded: dict[str, str] = field(default_factory=dict)
    requests: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    down: bool = False
    break_stream_after: int | None = None
    parser: Callable[[str], str] = str
    max_length: int = 2048
    closed: Callable[[], None] = lambda: None
    closing_s: float = 0.0

    def logprob(self, model: str, prompt_length: int, token: int) -> float:
        seed = f"{model}:{prompt_length}:{token}"
        return -(int(hashlib.md5(seed.encode()).hexdigest(), 16) % 6000) / 1000 - 0.001

    def transport(self) -> httpx.MockTransport:
        return httpx.MockTransport(self._answer)

    def bodies(self, path: str) -> list[dict[str, Any]]:
        return [body for at, body in self.requests if at == path]

    def _answer(self, request: httpx.Request) -> httpx.Response:
        if self.down:
            raise httpx.ConnectError("refused", request=request)
        path = request.url.path
        body = json.loads(request.content) if request.content else {}
        self.requests.append((path, body))
        if path == "/health":
            return httpx.Response(200)
        if path == "/v1/models":
            base = {"id": "scripted", "parent": None, "max_model_len": self.max_length}
            loaded = [{"id": name, "parent": "scripted"} for name in self.loaded]
            return httpx.Response(200, json={"data": [base, *loaded]})
        if path == "/v1/load_lora_adapter":
            self.loaded[body["lora_name"]] = body["lora_path"]
            return httpx.Response(200, text="Success")
        if path == "/v1/unload_lora_adapter":
            if self.loaded.pop(body["lora_name"], None) is None:
                return httpx.Response(404, json={"error": {"message": "not found"}})
            return httpx.Response(200, text="Success")
        if body["model"] not in ("scripted", *self.loaded):
            return httpx.Response(404, json={"error": {"message": "The model does not exist."}})
        if path == "/v1/completions":
            if body.get("stream"):
                return self._completion(body)
            if len(body["prompt"]) + body.get("max_tokens", 1) > self.max_length:
                return httpx.Response(400, json={"error": {"message": "The prompt is too long."}})
            return httpx.Response(200, json=self._score(body))
        return self._chat(body)

    def _score(self, body: dict[str, Any]) -> dict[str, Any]:
        """Score every possible split: the caller slices off the reply that it asked about."""
        ids = body["prompt"]
        starts = [i for i, token in enumerate(ids) if token == self._assistant_line(ids)]
        length = (starts[-1] + 1) if starts else 0
        scored: list[dict[str, Any] | None] = [None]
        for token in ids[1:]:
            scored.append({str(token): {"logprob": self.logprob(body["model"], length, token)}})
        return {"choices": [{"index": 0, "text": "", "prompt_logprobs": scored}]}

    def _assistant_line(self, ids: Sequence[int]) -> int:
        """The id behind which a rendered prompt's reply starts: the line end of the opening."""
        return self.tokenizer.prompt_ids([{"role": "user", "content": ""}])[-1]

    def _completion(self, body: dict[str, Any]) -> httpx.Response:
        choice = {"index": 0, "text": self.replies.pop(0), "finish_reason": "stop"}
        chunk = {"id": f"cmpl-{len(self.requests)}", "model": body["model"], "choices": [choice]}
        return self._streamed([_event(chunk), "data: [DONE]\n\n"])

    def _chat(self, body: dict[str, Any]) -> httpx.Response:
        inputs = TemplateInputs(body.get("tools"), body.get("chat_template_kwargs", {}))
        prompt = self.tokenizer.prompt_ids(body["messages"], inputs)
        most = body.get("max_completion_tokens") or body.get("max_tokens")
        ids = [*self.tokenizer.reply_ids(self.replies.pop(0)), self.tokenizer.end_id][:most]
        ends = "stop" if ids[-1] == self.tokenizer.end_id else "length"
        logprobs = [self.logprob(body["model"], len(prompt), token) for token in ids]
        name = body.get("request_id", len(self.requests))
        identity = {"id": f"chatcmpl-{name}", "model": body["model"], "created": 1}
        if not body["stream"]:
            choice = {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": self.parser(self.tokenizer.decode(ids)),
                },
                "finish_reason": ends,
                "token_ids": ids,
                "logprobs": {"content": [_scored(lp) for lp in logprobs]},
            }
            whole = {**identity, "object": "chat.completion", "choices": [choice]}
            return httpx.Response(200, json={**whole, "prompt_token_ids": prompt})
        choices = range(body.get("n", 1))
        events = []
        for index in choices:
            opening = {"index": index, "delta": {"role": "assistant", "content": ""}}
            events.append(_event({**identity, "choices": [opening], "prompt_token_ids": prompt}))
        for index in choices:
            events += self._events(identity, index, ends, ids, logprobs)
        if self.break_stream_after is None:
            events.append("data: [DONE]\n\n")
        return self._streamed(events)

    def _streamed(self, events: Sequence[str]) -> httpx.Response:
        return httpx.Response(
            200,
            stream=_Stream(events, self.closed, self.closing_s),
            headers={"content-type": "text/event-stream"},
        )

    def _events(
        self, identity: dict[str, Any], index: int, ends: str, ids: list[int], logprobs: list[float]
    ) -> Iterator[str]:
        """Yield one choice's chunks behind its opening."""
        text, shown = self.tokenizer.decode(ids), 0
        pieces = []
        for _start, end in self.tokenizer.spans(ids):
            # Tokens that share a character have the same span: its text is sent once.
            pieces.append(text[shown:end])
            shown = end
        if (said := self.parser(text)) != text:
            pieces = [*("" for _ in pieces[1:]), said]
        for i, (piece, token, logprob) in enumerate(zip(pieces, ids, logprobs, strict=True)):
            if i == self.break_stream_after:
                return
            choice = {
                "index": index,
                "delta": {"content": piece},
                "token_ids": [token],
                "logprobs": {"content": [_scored(logprob)]},
                "finish_reason": ends if i == len(ids) - 1 else None,
            }
            yield _event({**identity, "object": "chat.completion.chunk", "choices": [choice]})


class _Stream(httpx.SyncByteStream, httpx.AsyncByteStream):
    """Events, one at a time; tells when they are closed."""

    def __init__(self, events: Sequence[str], closed: Callable[[], None], closing_s: float) -> None:
        self._events = events
        self._closed = closed
        self._closing_s = closing_s

    def __iter__(self) -> Iterator[bytes]:
        for event in self._events:
            yield event.encode()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for event in self._events:
            yield event.encode()

    def close(self) -> None:
        self._closed()

    async def aclose(self) -> None:
        await asyncio.sleep(self._closing_s)
        self._closed()


def _scored(logprob: float) -> dict[str, Any]:
    return {"token": "", "logprob": logprob, "bytes": [], "top_logprobs": []}


def _event(chunk: dict[str, Any]) -> str:
    return f"data: {json.dumps(chunk)}\n\n"
