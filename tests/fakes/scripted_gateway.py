"""A gateway with scripted replies: real HTTP on a real port, no model behind it.

As a script it serves until it is killed: `python tests/fakes/scripted_gateway.py PORT`.
In a test it runs in a thread: `with ScriptedGateway() as gateway: gateway.url`.
It speaks the gateway's HTTP for the two users in `PEOPLE`; `fail` scripts the next refusal.
"""

import gzip
import json
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from scripted_records import (
    KEY,
    LOSSES,
    MADE,
    MODEL,
    PEOPLE,
    PERSONAL,
    REPLY,
    STAGES,
    new_plan,
    new_refresh,
    new_version,
    scores,
)

Answer = tuple[int, Any]


@dataclass
class ScriptedGateway:
    """The scripted gateway; everything a test may look at or steer is a field."""

    port: int = 0
    ready: bool = True
    pause_s: float = 0.0
    """Time between the chunks of a streamed reply."""
    moving: bool = False
    """Whether every look at a list of refreshes brings the newest one further."""
    requests: list[tuple[str, str, Any]] = field(default_factory=list)
    failures: list[tuple[str, int, str]] = field(default_factory=list)
    break_stream: bool = False
    due: list[str] = field(default_factory=lambda: ["otto"])
    findings: list[dict[str, Any]] = field(default_factory=list)
    """What a check of all adapters finds; a repair removes those that are removable."""

    def __post_init__(self) -> None:
        self.users: dict[str, dict[str, Any]] = {}
        for name, person in PEOPLE.items():
            self._add_user(name)
            self.users[name]["facts"] = [
                {"id": n, "text": text, "created_at": MADE}
                for n, text in enumerate(person["facts"], 1)
            ]
            self.users[name]["texts"] = [
                {"id": n, "query": "How was it?", "text": text, "time": MADE, "source": "import"}
                for n, text in enumerate(person["texts"], 1)
            ]
        self.users["maeve"]["adapters"] = [new_version("maeve", 1, "active", None)]
        self.schedule: dict[str, Any] = {
            "cron": "0 3 * * *",
            "timezone": "UTC",
            "paused": False,
            "next_run": "2026-11-22T03:00:00+00:00",
            "min_new_texts": 10,
            "quiet_minutes": 60.0,
            "min_gap_hours": 8.0,
            "window_hours": 0.0,
            "online": False,
            "online_per_hour": 20,
            "last_plan": None,
        }
        self.server = ThreadingHTTPServer(("127.0.0.1", self.port), handler(self))
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self.server.serve_forever, args=(0.02,))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self._thread.join()
        self.server.server_close()

    def fail(self, path: str, status: int, message: str) -> None:
        """Refuse the next request whose path holds `path`."""
        self.failures.append((path, status, message))

    def answer(self, method: str, path: str, body: Any) -> Answer:  # noqa: ANN401 - JSON
        """Answer one request other than a streamed chat."""
        if path == "/readyz":
            if not self.ready:
                return _error(503, "The engine is starting: try again in a minute.")
            return 200, {"status": "ready", "model": MODEL}
        for pattern, answer in self._routes().items():
            verb, _, shape = pattern.partition(" ")
            found = re.fullmatch(shape, path)
            if verb == method and found:
                name = found.groupdict().get("user")
                if name is not None and name not in self.users:
                    return _error(404, f"There is no user {name!r}.")
                return answer(*found.groups(), body)
        return _error(404, f"{method} {path} is not here.")

    def refuse(self, user: str, asked: dict[str, Any]) -> Answer | None:
        """Refuse an unknown user, and a contrast between two equal sides."""
        if user not in self.users:
            return _error(404, f"There is no user {user!r}.")
        if not asked.get("pir", True):
            return None
        if asked["contrast"] != "adapter" and not asked["persona"]:
            return _error(400, f"The contrast {asked['contrast']!r} needs the persona.")
        if asked["contrast"] != "persona" and self._chosen(user, asked["adapter"]) is None:
            return _error(409, f"The contrast {asked['contrast']!r} needs an adapter.")
        return None

    def chat(self, body: dict[str, Any]) -> dict[str, Any]:
        """The personalization of a chat's reply."""
        asked = body["personalization"]
        adapter = self._chosen(body["user"], asked["adapter"])
        context = self._context(body["user"]) if asked["persona"] else []
        scored = scores(asked["contrast"]) if asked["pir"] else {"pir": None, "words": None}
        return {
            "user": body["user"],
            "adapter": adapter,
            "context": context,
            "contrast": asked["contrast"],
            **scored,
        }

    def _routes(self) -> dict[str, Callable[..., Answer]]:
        user = r"/v1/users/(?P<user>[^/]+)"
        return {
            "GET /v1/users": lambda _: _list([self._user(name) for name in self.users]),
            "POST /v1/users": self._post_user,
            f"GET {user}": lambda name, _: (200, self._user(name)),
            f"DELETE {user}": self._erase,
            f"GET {user}/export": lambda name, _: (200, {"user": name, **self.users[name]}),
            f"GET {user}/facts": lambda name, _: _list(self.users[name]["facts"]),
            f"POST {user}/facts": self._post_fact,
            f"DELETE {user}/facts/([^/]+)": self._delete_fact,
            f"GET {user}/history": lambda name, _: _list(self.users[name]["texts"]),
            f"POST {user}/history": self._import,
            f"GET {user}/memory": lambda name, _: _list(self._context(name)),
            f"GET {user}/adapters": lambda name, _: (200, self._adapters(name)),
            f"POST {user}/adapters/rollback": self._rollback,
            f"GET {user}/refreshes": self._list_refreshes,
            f"POST {user}/refreshes": self._post_refresh,
            f"GET {user}/refreshes/([^/]+)": self._get_refresh,
            f"POST {user}/refreshes/([^/]+)/cancel": self._cancel_refresh,
            "GET /v1/schedule": lambda _: (200, self.schedule),
            "PUT /v1/schedule": self._put_schedule,
            "POST /v1/adapters/verify": self._verify,
            "POST /v1/schedule/run": self._run_schedule,
            "GET /v1/schedule/plan": self._plan,
            "POST /v1/pir": self._pir,
            "POST /v1/feedback": lambda body: (200, body),
            "POST /v1/chat/completions": self._whole_chat,
        }

    def _add_user(self, name: str) -> None:
        self.users[name] = {"facts": [], "texts": [], "adapters": [], "refreshes": []}

    def _user(self, name: str) -> dict[str, Any]:
        person = self.users[name]
        return {
            "object": "user",
            "name": name,
            "created_at": MADE,
            "consent": True,
            "facts": len(person["facts"]),
            "texts": len(person["texts"]),
            "adapter": self._adapters(name)["active"],
        }

    def _post_user(self, body: dict[str, Any]) -> Answer:
        if body["name"] in self.users:
            return _error(409, f"There is a user {body['name']!r} already.")
        self._add_user(body["name"])
        return 201, self._user(body["name"]) | {"key": "attune-" + "b" * 40}

    def _erase(self, name: str, _: object) -> Answer:
        person = self.users.pop(name)
        counts = {part: len(person[part]) for part in ("facts", "texts", "adapters")}
        return 200, {"object": "user.erased", "name": name, "interactions": 0, **counts}

    def _post_fact(self, name: str, body: dict[str, Any]) -> Answer:
        facts = self.users[name]["facts"]
        number = max((fact["id"] for fact in facts), default=0) + 1
        facts.append({"id": number, "text": body["text"], "created_at": MADE})
        return 201, facts[-1]

    def _delete_fact(self, name: str, number: str, _: object) -> Answer:
        facts = self.users[name]["facts"]
        kept = [fact for fact in facts if str(fact["id"]) != number]
        if len(kept) == len(facts):
            return _error(404, f"{name} has no fact {number}.")
        self.users[name]["facts"] = kept
        return 204, None

    def _import(self, name: str, body: bytes) -> Answer:
        raw = gzip.decompress(body) if body[:2] == b"\x1f\x8b" else body
        texts = self.users[name]["texts"]
        known = {text["text"] for text in texts}
        counts: dict[str, Any] = {"imported": 0, "duplicates": 0, "errors": []}
        for number, line in enumerate(raw.decode().splitlines(), 1):
            try:
                item = json.loads(line)
            except ValueError:
                counts["errors"].append({"line": number, "reason": "this is no JSON"})
                continue
            if item["text"] in known:
                counts["duplicates"] += 1
                continue
            counts["imported"] += 1
            number = len(texts) + 1
            texts.append({"id": number, "time": MADE, "source": "import", **item})
        return 200, counts

    def _adapters(self, name: str) -> dict[str, Any]:
        versions = self.users[name]["adapters"]
        active = next((v["version"] for v in versions if v["state"] == "active"), None)
        return {"object": "list", "active": active, "data": versions}

    def _rollback(self, name: str, body: dict[str, Any]) -> Answer:
        versions = self.users[name]["adapters"]
        to = body["to"] or "none"
        if to != "none" and to not in {version["version"] for version in versions}:
            return _error(404, f"{name} has no published adapter {to}.")
        for version in versions:
            version["state"] = "active" if version["version"] == to else "retired"
        return 200, self._adapters(name)

    def _post_refresh(self, name: str, body: dict[str, Any]) -> Answer:
        running = self.users[name]["refreshes"]
        if any(refresh["status"] in {"queued", "running"} for refresh in running):
            return _error(409, f"A refresh of {name} is on the way already: wait for it to end.")
        if len(self.users[name]["texts"]) < 2:
            return _error(422, f"{name} has too few texts for a refresh: import more.")
        running.append(new_refresh(name, f"r{len(running) + 1}", body["method"]))
        return 202, running[-1]

    def _list_refreshes(self, name: str, _: object) -> Answer:
        if self.moving:
            self.advance(name)
        return _list(self.users[name]["refreshes"][::-1])

    def _get_refresh(self, name: str, number: str, _: object) -> Answer:
        self.advance(name)
        return 200, next(r for r in self.users[name]["refreshes"] if r["id"] == number)

    def _cancel_refresh(self, name: str, number: str, _: object) -> Answer:
        refresh = next(r for r in self.users[name]["refreshes"] if r["id"] == number)
        if refresh["status"] == "queued":
            refresh |= {"status": "cancelled", "finished_at": MADE}
        return 202, refresh | {"cancel_requested": True}

    def advance(self, name: str) -> None:
        """Bring the user's newest refresh one stage further; at the end it is published."""
        refresh = next(iter(self.users[name]["refreshes"][::-1]), None)
        if refresh is None or refresh["status"] in {"succeeded", "cancelled"}:
            return
        place = STAGES.index(refresh["stage"]) + 1 if refresh["stage"] else 0
        if place == len(STAGES):
            self._publish(name, refresh)
        else:
            progress = {"step": 7, "steps": 20} if STAGES[place] == "train" else None
            refresh |= {"status": "running", "stage": STAGES[place], "progress": progress}

    def finish(self, name: str) -> None:
        """Bring the user's newest refresh to its end."""
        while self.users[name]["refreshes"][-1]["status"] != "succeeded":
            self.advance(name)

    def _publish(self, name: str, refresh: dict[str, Any]) -> None:
        versions = self.users[name]["adapters"]
        parent = self._adapters(name)["active"]
        for version in versions:
            version["state"] = "retired"
        versions.append(new_version(name, len(versions) + 1, "active", parent))
        refresh.update(
            status="succeeded",
            stage=None,
            progress=None,
            verdict="publish",
            reason="Better than the base on held-out texts.",
            adapter=versions[-1]["version"],
            held_out_loss=LOSSES,
            personal_loss=PERSONAL,
            seconds=41.5,
            finished_at=MADE,
        )

    def _put_schedule(self, body: dict[str, Any]) -> Answer:
        if len(body.get("cron", "0 3 * * *").split()) != 5:
            return _error(400, f"{body['cron']!r} is no cron expression: give five fields.")
        self.schedule |= body
        paused = self.schedule["paused"]
        self.schedule["next_run"] = None if paused else "2026-11-22T03:00:00+00:00"
        return 200, self.schedule

    def _verify(self, body: dict[str, Any]) -> Answer:
        found = [f | {"repaired": body["repair"] and f["removable"]} for f in self.findings]
        everybody = body["user"] is None
        counts = {"users": len(self.users) if everybody else 1, "versions": 2, "next": None}
        return 200, {"object": "adapters.verification", "findings": found, **counts}

    def _run_schedule(self, _: object) -> Answer:
        started = [new_refresh(name, "r1", "perce") for name in self.due]
        for refresh in started:
            self.users[refresh["user"]]["refreshes"].append(refresh)
        plan = self.schedule["last_plan"] = new_plan(len(started))
        return 202, {"object": "list", "run": "run-1", "plan": plan, "data": started}

    def _plan(self, _: object) -> Answer:
        entries = [
            {"rank": rank, "user": name, "fleet": rank, "expected_s": 60.0, "state": "queued"}
            for rank, name in enumerate(self.due, start=1)
        ]
        return 200, {**new_plan(len(entries)), "entries": entries}

    def _chosen(self, user: str, adapter: str) -> str | None:
        """The version behind `active`, `none` or a version's name."""
        version: str | None = {
            "active": self._adapters(user)["active"],
            "none": None,
        }.get(adapter, adapter)
        return version

    def _pir(self, body: dict[str, Any]) -> Answer:
        if refused := self.refuse(body["user"], body):
            return refused
        reply = body.get("reply") or "".join(text for text, _ in REPLY)
        return 200, {
            "object": "pir",
            "user": body["user"],
            "adapter": self._chosen(body["user"], body["adapter"]),
            "contrast": body["contrast"],
            "context": self._context(body["user"]),
            "reply": reply,
            **scores(body["contrast"]),
        }

    def _whole_chat(self, body: dict[str, Any]) -> Answer:
        if refused := self.refuse(body["user"], body["personalization"]):
            return refused
        message = {"role": "assistant", "content": "".join(text for text, _ in REPLY)}
        return 200, {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "personalization": self.chat(body),
        }

    def _context(self, name: str) -> list[dict[str, Any]]:
        person = self.users[name]
        facts = [{"id": f["id"], "kind": "fact", "text": f["text"]} for f in person["facts"]]
        texts = [
            {"id": t["id"], "kind": "text", "text": t["text"], "score": 0.81 - 0.2 * n}
            for n, t in enumerate(person["texts"][:3])
        ]
        return [fact | {"score": None} for fact in facts] + texts


def handler(gateway: ScriptedGateway) -> type[BaseHTTPRequestHandler]:
    """The HTTP around the scripted gateway."""

    class Handler(BaseHTTPRequestHandler):
        def _serve(self) -> None:
            raw = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            path = self.path.partition("?")[0]
            body: Any = raw
            if not path.endswith("/history"):
                body = json.loads(raw) if raw else None
            gateway.requests.append((self.command, path, body))
            for failure in list(gateway.failures):
                if failure[0] in path:
                    gateway.failures.remove(failure)
                    return self._send(*_error(failure[1], failure[2]))
            if path != "/readyz" and self.headers.get("Authorization") != f"Bearer {KEY}":
                return self._send(*_error(401, "The key is missing or unknown."))
            if isinstance(body, dict) and body.get("stream"):
                refused = gateway.refuse(body["user"], body["personalization"])
                return self._send(*refused) if refused else self._stream(body)
            return self._send(*gateway.answer(self.command, path, body))

        do_GET = do_POST = do_PUT = do_DELETE = _serve

        def _send(self, status: int, answer: Any) -> None:  # noqa: ANN401 - JSON
            data = b"" if answer is None else json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def _stream(self, body: dict[str, Any]) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.end_headers()
            for event in _events(gateway, body):
                self.wfile.write(f"data: {event}\n\n".encode())
                self.wfile.flush()
                time.sleep(gateway.pause_s)

        def log_message(self, format: str, *args: object) -> None:
            """Keep the test's output free of access logs."""

    return Handler


def _events(gateway: ScriptedGateway, body: dict[str, Any]) -> Iterator[str]:
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk"}
    for text, _ in REPLY:
        choice = {"index": 0, "delta": {"content": text}, "finish_reason": None}
        yield json.dumps(head | {"choices": [choice]})
    if gateway.break_stream:
        message = "The engine went away during the reply: try again in a minute."
        yield json.dumps(_error(503, message)[1])
        return
    end = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
    yield json.dumps(head | end | {"personalization": gateway.chat(body)})
    yield "[DONE]"


def _list(data: list[Any]) -> Answer:
    return 200, {"object": "list", "data": data}


def _error(status: int, message: str) -> Answer:
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": None}
    return status, {"error": error}


if __name__ == "__main__":
    ScriptedGateway(port=int(sys.argv[1]), pause_s=0.03, moving=True).server.serve_forever()
