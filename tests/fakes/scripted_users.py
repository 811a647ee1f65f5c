"""The scripted gateway's users: who they are, and what it keeps of them."""

import gzip
import json
from dataclasses import dataclass, field
from typing import Any

from scripted_answers import USER, Answer, Routes, listed, refused
from scripted_records import MADE, PEOPLE, new_version

People = dict[str, dict[str, Any]]


def two_people() -> People:
    """The two users in `PEOPLE`; the first has an adapter."""
    people = {}
    for name, person in PEOPLE.items():
        people[name] = _nobody() | {
            "facts": [
                {"id": n, "text": text, "created_at": MADE}
                for n, text in enumerate(person["facts"], 1)
            ],
            "texts": [
                {"id": n, "query": "How was it?", "text": text, "time": MADE, "source": "import"}
                for n, text in enumerate(person["texts"], 1)
            ],
        }
    people["maeve"]["adapters"] = [new_version("maeve", 1, "active", None)]
    return people


def active_version(person: dict[str, Any]) -> str | None:
    versions = person["adapters"]
    return next((v["version"] for v in versions if v["state"] == "active"), None)


@dataclass
class ScriptedUsers:
    """Users, their facts and their texts."""

    people: People = field(default_factory=two_people)

    def routes(self) -> Routes:
        return {
            "GET /v1/users": lambda _: listed([self._user(name) for name in self.people]),
            "POST /v1/users": self._add,
            f"GET {USER}": lambda name, _: (200, self._user(name)),
            f"DELETE {USER}": self._erase,
            f"GET {USER}/export": lambda name, _: (200, {"user": name, **self.people[name]}),
            f"GET {USER}/facts": lambda name, _: listed(self.people[name]["facts"]),
            f"POST {USER}/facts": self._add_fact,
            f"DELETE {USER}/facts/([^/]+)": self._delete_fact,
            f"GET {USER}/history": lambda name, _: listed(self.people[name]["texts"]),
            f"POST {USER}/history": self._import,
            f"GET {USER}/memory": lambda name, _: listed(self.context(name)),
        }

    def context(self, name: str) -> list[dict[str, Any]]:
        """What of the user a prompt holds: all facts and the first texts."""
        person = self.people[name]
        facts = [{"id": f["id"], "kind": "fact", "text": f["text"]} for f in person["facts"]]
        texts = [
            {"id": t["id"], "kind": "text", "text": t["text"], "score": 0.81 - 0.2 * n}
            for n, t in enumerate(person["texts"][:3])
        ]
        return [fact | {"score": None} for fact in facts] + texts

    def _user(self, name: str) -> dict[str, Any]:
        person = self.people[name]
        return {
            "object": "user",
            "name": name,
            "created_at": MADE,
            "consent": True,
            "facts": len(person["facts"]),
            "texts": len(person["texts"]),
            "adapter": active_version(person),
        }

    def _add(self, body: dict[str, Any]) -> Answer:
        if body["name"] in self.people:
            return refused(409, f"There is a user {body['name']!r} already.")
        self.people[body["name"]] = _nobody()
        return 201, self._user(body["name"]) | {"key": "attune-" + "b" * 40}

    def _erase(self, name: str, _: object) -> Answer:
        person = self.people.pop(name)
        counts = {part: len(person[part]) for part in ("facts", "texts", "adapters")}
        return 200, {"object": "user.erased", "name": name, "interactions": 0, **counts}

    def _add_fact(self, name: str, body: dict[str, Any]) -> Answer:
        facts = self.people[name]["facts"]
        number = max((fact["id"] for fact in facts), default=0) + 1
        facts.append({"id": number, "text": body["text"], "created_at": MADE})
        return 201, facts[-1]

    def _delete_fact(self, name: str, number: str, _: object) -> Answer:
        facts = self.people[name]["facts"]
        kept = [fact for fact in facts if str(fact["id"]) != number]
        if len(kept) == len(facts):
            return refused(404, f"{name} has no fact {number}.")
        self.people[name]["facts"] = kept
        return 204, None

    def _import(self, name: str, body: bytes) -> Answer:
        raw = gzip.decompress(body) if body[:2] == b"\x1f\x8b" else body
        texts = self.people[name]["texts"]
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


def _nobody() -> dict[str, Any]:
    return {"facts": [], "texts": [], "adapters": [], "refreshes": []}
