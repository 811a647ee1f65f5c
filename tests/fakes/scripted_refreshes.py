"""The scripted gateway's adapters: versions, and refreshes that go one stage at a look."""

from dataclasses import dataclass
from typing import Any

from scripted_answers import USER, Answer, Routes, listed, refused
from scripted_records import LOSSES, MADE, PERSONAL, STAGES, new_refresh, new_version
from scripted_users import People, active_version


@dataclass
class ScriptedRefreshes:
    """Adapter versions and refreshes of these people.

    Attributes:
        moving: Whether every look at a list of refreshes brings the newest one further.
        population: The version of all, such as `population@v1`, that answers whoever has none.
    """

    people: People
    moving: bool = False
    population: str | None = None

    def routes(self) -> Routes:
        return {
            f"GET {USER}/adapters": lambda name, _: (200, self._adapters(name)),
            f"POST {USER}/adapters/rollback": self._rollback,
            f"GET {USER}/refreshes": self._list,
            f"POST {USER}/refreshes": self._open,
            f"GET {USER}/refreshes/([^/]+)": self._get,
            f"POST {USER}/refreshes/([^/]+)/cancel": self._cancel,
        }

    def answers(self, name: str) -> str | None:
        """The version that answers the user: the active one, or the population's."""
        return active_version(self.people[name]) or self.population

    def advance(self, name: str) -> None:
        """Bring the user's newest refresh one stage further; at the end it is published."""
        refresh = next(iter(self.people[name]["refreshes"][::-1]), None)
        if refresh is None or refresh["status"] in {"succeeded", "cancelled"}:
            return
        place = STAGES.index(refresh["stage"]) + 1 if refresh["stage"] else 0
        if place == len(STAGES):
            self._publish(name, refresh)
        else:
            stage = STAGES[place]
            progress = {"step": 7, "steps": 20} if stage == "train" else None
            refresh |= {"status": "running", "stage": stage, "progress": progress}
            if stage == "publish":
                number = len(self.people[name]["adapters"]) + 1
                refresh |= {"verdict": "publish", "adapter": f"v{number}"}

    def finish(self, name: str) -> None:
        """Bring the user's newest refresh to its end."""
        while self.people[name]["refreshes"][-1]["status"] != "succeeded":
            self.advance(name)

    def _adapters(self, name: str) -> dict[str, Any]:
        person = self.people[name]
        return {
            "object": "list",
            "active": active_version(person),
            "answers": self.answers(name),
            "data": person["adapters"][::-1],
        }

    def _rollback(self, name: str, body: dict[str, Any]) -> Answer:
        versions = self.people[name]["adapters"]
        to = body["to"] or "none"
        if to != "none" and to not in {version["version"] for version in versions}:
            return refused(404, f"{name} has no published adapter {to}.")
        for version in versions:
            version["state"] = "active" if version["version"] == to else "retired"
        return 200, self._adapters(name)

    def _open(self, name: str, body: dict[str, Any]) -> Answer:
        running = self.people[name]["refreshes"]
        if any(refresh["status"] in {"queued", "running"} for refresh in running):
            return refused(409, f"A refresh of {name} is on the way already: wait for it to end.")
        if len(self.people[name]["texts"]) < 2:
            return refused(422, f"{name} has too few texts for a refresh: import more.")
        running.append(new_refresh(name, f"r{len(running) + 1}", body["method"]))
        return 202, running[-1]

    def _list(self, name: str, _: object) -> Answer:
        if self.moving:
            self.advance(name)
        return listed(self.people[name]["refreshes"][::-1])

    def _get(self, name: str, number: str, _: object) -> Answer:
        self.advance(name)
        return 200, self._refresh(name, number)

    def _cancel(self, name: str, number: str, _: object) -> Answer:
        refresh = self._refresh(name, number)
        if refresh["status"] == "queued":
            refresh |= {"status": "cancelled", "finished_at": MADE}
        return 202, refresh | {"cancel_requested": True}

    def _refresh(self, name: str, number: str) -> dict[str, Any]:
        found: dict[str, Any] = next(r for r in self.people[name]["refreshes"] if r["id"] == number)
        return found

    def _publish(self, name: str, refresh: dict[str, Any]) -> None:
        versions = self.people[name]["adapters"]
        parent = active_version(self.people[name])
        for version in versions:
            version["state"] = "retired"
        versions.append(new_version(name, len(versions) + 1, "active", parent))
        refresh.update(
            status="succeeded",
            stage=None,
            progress=None,
            reason="Better than the base on held-out texts.",
            held_out_loss=LOSSES,
            personal_loss=PERSONAL,
            seconds=41.5,
            finished_at=MADE,
        )
