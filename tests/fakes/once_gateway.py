"""The gateway as the main job of `attune up --once` meets it: one user, one refresh."""

import json
from dataclasses import dataclass, field
from typing import Any

from local_server import LocalServer, Request, Response
from scripted_answers import refused

BEFORE = "It is fine."
AFTER = "Log, Friday. It is fine."
PROGRESS = {"step": 3, "steps": 30}


def scored(text: str, personal: set[str], contrast: str, shift: float = 0.0) -> dict[str, Any]:
    """A token and a word for each word of the text; those in `personal` have PIR 2."""
    tokens, words, start = [], [], 0
    for number, word in enumerate(text.split()):
        span = {"start": start, "end": start + len(word)}
        pir = (2.0 if word in personal else 0.1) + shift
        is_personal = {"pir": pir, "personal": word in personal}
        logprobs = {"logprob": -0.5, "logprob_without": -0.5 - pir}
        tokens.append({"token_id": number, "text": word, **span, **logprobs, **is_personal})
        words.append({"text": word, **span, **is_personal})
        start += len(word) + 1
    return {"user": "anders", "context": [], "pir": tokens, "words": words, "contrast": contrast}


@dataclass
class OnceGateway(LocalServer):
    """What the gateway answers, and what it was asked."""

    refresh: dict[str, Any] = field(
        default_factory=lambda: {
            "status": "succeeded",
            "verdict": "publish",
            "adapter": "v1",
            "held_out_loss": {"base": 3.0, "incumbent": None, "candidate": 2.5},
            "personal_loss": {"base": 4.0, "incumbent": None, "candidate": 3.0},
            "seconds": 20.0,
        }
    )
    active: str | None = None
    after: str = AFTER
    rescored_shift: float = 0.0
    polls: int = 0
    cancelled: bool = False
    users: dict[str, dict[str, Any]] = field(default_factory=dict)
    facts: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    bad_line: bool = False
    refuse: str = ""
    """Requests whose path holds this are refused; empty for none."""
    goes_away: bool = False
    """Whether, after the first that is refused, all are."""
    requests: list[tuple[str, str, Any]] = field(default_factory=list)

    def respond(self, request: Request) -> Response:
        if self.refuse and self.refuse in request.path:
            self.refuse = "/" if self.goes_away else self.refuse
            status, answer = refused(409, "Not now.")
            return Response(json.dumps(answer).encode(), status)
        is_json = request.headers.get("Content-Type") == "application/json"
        body = request.json() if is_json else request.body
        return Response(json.dumps(self.answer(request.method, request.path, body)).encode())

    def answer(self, method: str, path: str, body: Any) -> dict[str, Any]:  # noqa: ANN401
        self.requests.append((method, path, body))
        match method, path.strip("/").split("/"):
            case "GET", ["readyz"]:
                return {"status": "ready", "model": "attune-reference"}
            case "POST", ["v1", "chat", "completions"]:
                return self._chat(body["personalization"])
            case "POST", ["v1", "pir"]:
                return self._pir(body)
            case _, ["v1", "users", *rest]:
                return self._users(method, rest, body)
        raise AssertionError(f"{method} {path} was not expected")

    def _chat(self, extension: dict[str, Any]) -> dict[str, Any]:
        adapted = extension["adapter"] == "active"
        text = self.after if adapted else BEFORE
        personalization = scored(text, {"Log,", "Friday."}, "persona")
        personalization["adapter"] = self.active if adapted else None
        return {
            "id": "chatcmpl-1",
            "choices": [{"message": {"role": "assistant", "content": text}}],
            "personalization": personalization,
        }

    def _pir(self, body: dict[str, Any]) -> dict[str, Any]:
        if body["contrast"] == "adapter":
            return scored(self.after, {"Friday."}, "adapter")
        return scored(self.after, {"Log,", "Friday."}, "persona", self.rescored_shift)

    def _users(self, method: str, rest: list[str], body: Any) -> dict[str, Any]:  # noqa: ANN401
        match method, rest:
            case "GET", []:
                return {"data": list(self.users.values())}
            case "POST", []:
                user = {"name": body["name"], "created_at": "now", "consent": True}
                self.users[body["name"]] = user | {"facts": 0, "texts": 0}
                return self.users[body["name"]] | {"key": "attune-1"}
            case _, [name, "facts"]:
                facts = self.facts.setdefault(name, [])
                if method == "GET":
                    return {"data": facts}
                fact = {"id": len(facts), "text": body["text"], "created_at": "now"}
                facts.append(fact)
                return fact
            case "POST", [name, "history"]:
                errors = [{"line": 3, "reason": "no query"}] if self.bad_line else []
                return {"imported": len(body.splitlines()), "duplicates": 0, "errors": errors}
            case "GET", [_, "adapters"]:
                return {"active": self.active, "data": []}
            case "POST", [_, "adapters", "rollback"]:
                self.active = None if body["to"] == "none" else body["to"]
                return {"active": self.active, "data": []}
            case "POST", [_, "refreshes"]:
                return self._refresh("queued")
            case "POST", [_, "refreshes", "r1", "cancel"]:
                self.cancelled = True
                return self._refresh("running") | {"cancel_requested": True}
            case "GET", [_, "refreshes", "r1"]:
                self.polls += 1
                if self.polls < 2:
                    return self._refresh("running") | {"stage": "train", "progress": PROGRESS}
                if self.refresh["verdict"] == "publish":
                    self.active = "v1"
                return self._refresh("queued") | self.refresh
        raise AssertionError(f"{method} /v1/users/{rest} was not expected")

    def _refresh(self, status: str) -> dict[str, Any]:
        kind = {"id": "r1", "user": "anders", "method": "perce", "created_at": "now"}
        return kind | {"status": status}
