"""A chat endpoint on a real port that answers like a judge, as it was told to."""

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

Verdict = str | bytes | int
"""A text in OpenAI's shape, a whole body as it is, or the status of a refusal."""


@dataclass
class ScriptedJudge:
    """The endpoint, while it is entered as a context.

    Attributes:
        verdicts: What it answers, in this order; used up.
        verdict_on: Answers by the last message of a question instead, from any thread.
        requests: Each request's `Authorization` and body.
        url: Where it listens.
    """

    verdicts: list[Verdict] = field(default_factory=list)
    verdict_on: Callable[[str], Verdict] | None = None
    requests: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    url: str = ""

    @property
    def questions(self) -> list[str]:
        """The last message of each request."""
        return [body["messages"][-1]["content"] for _, body in self.requests]

    def answer(self, key: str, body: dict[str, Any]) -> tuple[int, str, bytes]:
        """The status, the content type and the body for one request."""
        self.requests.append((key, body))
        question = body["messages"][-1]["content"]
        verdict = self.verdict_on(question) if self.verdict_on else self.verdicts.pop(0)
        if isinstance(verdict, int):
            refusal = {"error": {"message": "Wrong key.", "type": "invalid_request_error"}}
            return verdict, "application/json", json.dumps(refusal).encode()
        if isinstance(verdict, bytes):
            return 200, "text/html" if verdict.startswith(b"<") else "application/json", verdict
        message = {"role": "assistant", "content": verdict}
        choice = {"index": 0, "finish_reason": "stop", "message": message}
        whole = {"id": "1", "object": "chat.completion", "created": 1, "model": "judge"}
        return 200, "application/json", json.dumps(whole | {"choices": [choice]}).encode()

    def __enter__(self) -> Self:
        scripted = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                assert self.path == "/v1/chat/completions"
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                status, kind, answer = scripted.answer(self.headers["Authorization"], body)
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(answer)))
                # OpenAI's own header: clients come back at once, not after a back-off.
                self.send_header("retry-after-ms", "1")
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, format: str, *arguments: object) -> None:
                """Keep the tests' output clean."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
