"""A gateway with scripted replies: real HTTP on a real port, no model behind it.

As a script it serves until it is killed: `python tests/fakes/scripted_gateway.py PORT`.
In a test it serves from `with` to its end: `with ScriptedGateway() as gateway: gateway.url`.
It speaks the gateway's HTTP for the two users in `PEOPLE`; `fail` scripts the next refusal,
`delay` the next slow answer.
"""

import json
import re
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from local_server import LocalServer, Request, Response
from scripted_answers import Answer, Routes, refused
from scripted_records import KEY, MODEL, REPLY, scores
from scripted_refreshes import ScriptedRefreshes
from scripted_schedule import ScriptedSchedule
from scripted_users import People, ScriptedUsers, two_people


@dataclass
class ScriptedGateway(LocalServer):
    """The scripted gateway; everything a test may look at or steer is a field."""

    port: int = 0
    ready: bool = True
    pause_s: float = 0.0
    """Time between the chunks of a streamed reply."""
    moving: bool = False
    """Whether every look at a list of refreshes brings the newest one further."""
    requests: list[tuple[str, str, Any]] = field(default_factory=list)
    failures: list[tuple[str, int, str]] = field(default_factory=list)
    delays: list[tuple[str, float]] = field(default_factory=list)
    break_stream: bool = False
    findings: list[dict[str, Any]] = field(default_factory=list)
    """What a check of all adapters finds; a repair removes those that are removable."""
    users: People = field(default_factory=two_people)

    def __post_init__(self) -> None:
        self.memory = ScriptedUsers(self.users)
        self.refreshes = ScriptedRefreshes(self.users, self.moving)
        self.schedule = ScriptedSchedule(self.users)

    def fail(self, path: str, status: int, message: str) -> None:
        """Refuse the next request whose path holds `path`."""
        self.failures.append((path, status, message))

    def delay(self, path: str, seconds: float) -> None:
        """Take that long over the next request whose path holds `path`."""
        self.delays.append((path, seconds))

    def respond(self, request: Request) -> Response:
        path = request.path.partition("?")[0]
        body: Any = request.body
        if not path.endswith("/history"):
            body = request.json() if request.body else None
        self.requests.append((request.method, path, body))
        for delay in list(self.delays):
            if delay[0] in path:
                self.delays.remove(delay)
                time.sleep(delay[1])
        for failure in list(self.failures):
            if failure[0] in path:
                self.failures.remove(failure)
                return _response(*refused(failure[1], failure[2]))
        if path != "/readyz" and request.headers.get("Authorization") != f"Bearer {KEY}":
            return _response(*refused(401, "The key is missing or unknown."))
        if isinstance(body, dict) and body.get("stream"):
            if refusal := self._refuse(body["user"], body["personalization"]):
                return _response(*refusal)
            return Response(self._stream(body), content_type="text/event-stream")
        return _response(*self._answer(request.method, path, body))

    def _answer(self, method: str, path: str, body: Any) -> Answer:  # noqa: ANN401 - JSON
        """Answer one request other than a streamed chat."""
        if path == "/readyz":
            if not self.ready:
                return refused(503, "The engine is starting: try again in a minute.")
            return 200, {"status": "ready", "model": MODEL}
        for pattern, answer in self._routes().items():
            verb, _, shape = pattern.partition(" ")
            found = re.fullmatch(shape, path)
            if verb == method and found:
                name = found.groupdict().get("user")
                if name is not None and name not in self.users:
                    return refused(404, f"There is no user {name!r}.")
                return answer(*found.groups(), body)
        return refused(404, f"{method} {path} is not here.")

    def _routes(self) -> Routes:
        return {
            **self.memory.routes(),
            **self.refreshes.routes(),
            **self.schedule.routes(),
            "POST /v1/adapters/verify": self._verify,
            "POST /v1/pir": self._pir,
            "POST /v1/feedback": lambda body: (200, body),
            "POST /v1/chat/completions": self._whole_chat,
        }

    def _refuse(self, user: str, asked: dict[str, Any]) -> Answer | None:
        """Refuse an unknown user, what is no version, and a contrast between two equal sides."""
        if user not in self.users:
            return refused(404, f"There is no user {user!r}.")
        if not re.fullmatch(r"active|none|v\d+", asked["adapter"]):
            said = "is no adapter version: use 'active', 'none' or 'v7'."
            return refused(400, f"{asked['adapter']!r} {said}")
        if not asked.get("pir", True):
            return None
        if asked["contrast"] != "adapter" and not asked["persona"]:
            return refused(400, f"The contrast {asked['contrast']!r} needs the persona.")
        if asked["contrast"] != "persona" and self._chosen(user, asked["adapter"]) is None:
            return refused(409, f"The contrast {asked['contrast']!r} needs an adapter.")
        return None

    def _verify(self, body: dict[str, Any]) -> Answer:
        found = [f | {"repaired": body["repair"] and f["removable"]} for f in self.findings]
        everybody = body["user"] is None
        counts = {"users": len(self.users) if everybody else 1, "versions": 2, "next": None}
        return 200, {"object": "adapters.verification", "findings": found, **counts}

    def _chosen(self, user: str, adapter: str) -> str | None:
        """The version behind `active`, `none` or a version's name."""
        version: str | None = {
            "active": self.refreshes.answers(user),
            "none": None,
        }.get(adapter, adapter)
        return version

    def _pir(self, body: dict[str, Any]) -> Answer:
        if refusal := self._refuse(body["user"], body):
            return refusal
        reply = body.get("reply") or "".join(text for text, _ in REPLY)
        return 200, {
            "object": "pir",
            "user": body["user"],
            "adapter": self._chosen(body["user"], body["adapter"]),
            "contrast": body["contrast"],
            "context": self.memory.context(body["user"]),
            "reply": reply,
            **scores(body["contrast"]),
        }

    def _whole_chat(self, body: dict[str, Any]) -> Answer:
        if refusal := self._refuse(body["user"], body["personalization"]):
            return refusal
        message = {"role": "assistant", "content": "".join(text for text, _ in REPLY)}
        return 200, {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "personalization": self._personalization(body),
        }

    def _personalization(self, body: dict[str, Any]) -> dict[str, Any]:
        """The personalization of a chat's reply."""
        asked = body["personalization"]
        context = self.memory.context(body["user"]) if asked["persona"] else []
        scored = scores(asked["contrast"]) if asked["pir"] else {"pir": None, "words": None}
        return {
            "user": body["user"],
            "adapter": self._chosen(body["user"], asked["adapter"]),
            "context": context,
            "contrast": asked["contrast"],
            **scored,
        }

    def _stream(self, body: dict[str, Any]) -> Iterator[bytes]:
        for event in self._events(body):
            yield f"data: {event}\n\n".encode()
            time.sleep(self.pause_s)

    def _events(self, body: dict[str, Any]) -> Iterator[str]:
        head = {"id": "chatcmpl-1", "object": "chat.completion.chunk"}
        for text, _ in REPLY:
            choice = {"index": 0, "delta": {"content": text}, "finish_reason": None}
            yield json.dumps(head | {"choices": [choice]})
        if self.break_stream:
            message = "The engine went away during the reply: try again in a minute."
            yield json.dumps(refused(503, message)[1])
            return
        end = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
        yield json.dumps(head | end | {"personalization": self._personalization(body)})
        yield "[DONE]"


def _response(status: int, answer: Any) -> Response:  # noqa: ANN401 - JSON
    return Response(b"" if answer is None else json.dumps(answer).encode(), status)


if __name__ == "__main__":
    with ScriptedGateway(port=int(sys.argv[1]), pause_s=0.03, moving=True):
        threading.Event().wait()
