"""A chat endpoint on a real port that answers like a judge, as it was told to."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

from local_server import LocalServer, Request, Response

Verdict = str | bytes | int
"""A text in OpenAI's shape, a whole body as it is, or the status of a refusal."""

# OpenAI's own header: clients come back at once, not after a back-off.
AT_ONCE = {"retry-after-ms": "1"}


@dataclass
class ScriptedJudge(LocalServer):
    """The endpoint, while it is entered as a context.

    Attributes:
        verdicts: What it answers, in this order; used up.
        verdict_on: Answers by the last message of a question instead, from any thread.
        requests: Each request's `Authorization` and body.
    """

    base_path: ClassVar[str] = "/v1"
    verdicts: list[Verdict] = field(default_factory=list)
    verdict_on: Callable[[str], Verdict] | None = None
    requests: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    @property
    def questions(self) -> list[str]:
        """The last message of each request."""
        return [body["messages"][-1]["content"] for _, body in self.requests]

    def respond(self, request: Request) -> Response:
        assert (request.method, request.path) == ("POST", "/v1/chat/completions")
        body = request.json()
        self.requests.append((request.headers["Authorization"], body))
        question = body["messages"][-1]["content"]
        verdict = self.verdict_on(question) if self.verdict_on else self.verdicts.pop(0)
        if isinstance(verdict, int):
            refusal = {"error": {"message": "Wrong key.", "type": "invalid_request_error"}}
            return Response(json.dumps(refusal).encode(), status=verdict, headers=AT_ONCE)
        if isinstance(verdict, bytes):
            kind = "text/html" if verdict.startswith(b"<") else "application/json"
            return Response(verdict, content_type=kind, headers=AT_ONCE)
        message = {"role": "assistant", "content": verdict}
        choice = {"index": 0, "finish_reason": "stop", "message": message}
        whole = {"id": "1", "object": "chat.completion", "created": 1, "model": "judge"}
        return Response(json.dumps(whole | {"choices": [choice]}).encode(), headers=AT_ONCE)
