"""A scripted engine and a small encoder: the gateway's tests without a model."""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
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
    """

    tokenizer: ChatTokenizer
    replies: list[str] = field(default_factory=list)
    loaded: dict[str, str] = field(default_factory=dict)
    requests: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    down: bool = False
    break_stream_after: int | None = None
    parser: Callable[[str], str] = str

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
            base = {"id": "scripted", "parent": None, "max_model_len": 2048}
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

    def _chat(self, body: dict[str, Any]) -> httpx.Response:
        inputs = TemplateInputs(body.get("tools"), body.get("chat_template_kwargs", {}))
        prompt = self.tokenizer.prompt_ids(body["messages"], inputs)
        ids = [*self.tokenizer.reply_ids(self.replies.pop(0)), self.tokenizer.end_id]
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
                "finish_reason": "stop",
                "token_ids": ids,
                "logprobs": {"content": [_scored(lp) for lp in logprobs]},
            }
            whole = {**identity, "object": "chat.completion", "choices": [choice]}
            return httpx.Response(200, json={**whole, "prompt_token_ids": prompt})
        events = self._events(identity, prompt, ids, logprobs)
        return httpx.Response(
            200, content="".join(events), headers={"content-type": "text/event-stream"}
        )

    def _events(
        self, identity: dict[str, Any], prompt: list[int], ids: list[int], logprobs: list[float]
    ) -> Iterator[str]:
        opening = {"index": 0, "delta": {"role": "assistant", "content": ""}}
        yield _event({**identity, "choices": [opening], "prompt_token_ids": prompt})
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
                "index": 0,
                "delta": {"content": piece},
                "token_ids": [token],
                "logprobs": {"content": [_scored(logprob)]},
                "finish_reason": "stop" if i == len(ids) - 1 else None,
            }
            yield _event({**identity, "object": "chat.completion.chunk", "choices": [choice]})
        yield "data: [DONE]\n\n"


def _scored(logprob: float) -> dict[str, Any]:
    return {"token": "", "logprob": logprob, "bytes": [], "top_logprobs": []}


def _event(chunk: dict[str, Any]) -> str:
    return f"data: {json.dumps(chunk)}\n\n"
