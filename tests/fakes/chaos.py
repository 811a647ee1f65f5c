"""Users who chat and are refreshed while services are killed at points of their refreshes."""

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import httpx
from running_stack import ServiceName, Stack, wait_until
from sqlalchemy import func, select

from server import retention
from server.store.database import Database
from server.store.tables.people import User
from server.store.tables.refreshes import Refresh

DEMO = Path(__file__).parents[2] / "demo"
# Beside the stages of a refresh: while it waits or is asked for, and behind its end.
POINTS = ("asked", "dataset", "train", "gate", "publish", "warm", "activate", "ended")
FIRST_TEXTS = MORE_TEXTS = 10
OPEN = ("queued", "running")
MISS_S = 20.0
"""How long a stage is waited for before whoever it is dies anyway."""
RECOVERY_S = 400.0


@dataclass(frozen=True, slots=True)
class Death:
    """Who was killed, at which stage of a refresh that was meant, and where refreshes were."""

    victim: ServiceName
    aimed: str
    hit: tuple[str, ...]


@dataclass
class Chaos:
    """Users who chat and are refreshed while services die.

    Attributes:
        keep: Retired versions that stay.
        texts: The texts of each user that were not imported yet.
    """

    stack: Stack
    users: Sequence[str]
    rng: random.Random
    keep: int
    deaths: list[Death] = field(default_factory=list)
    texts: dict[str, list[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.database = Database(self.stack.settings().store_url())
        authors = sorted(folder.name for folder in DEMO.iterdir() if folder.is_dir())
        for number, user in enumerate(self.users):
            author = authors[number % len(authors)]
            self.texts[user] = (DEMO / author / "history.jsonl").read_text().splitlines()
            self._post("/v1/users", {"name": user})
            self._import(user, FIRST_TEXTS)

    def strike(self, victim: ServiceName) -> None:
        """Kill a service at a random point of a refresh, and wait until it is back."""
        aimed = self.rng.choice(POINTS)
        self._wait_for(aimed)
        time.sleep(self.rng.uniform(0, 0.1))
        hit = self.stages()
        self.stack.kill(victim)
        self.deaths.append(Death(victim, aimed, hit))
        wait_until(lambda: self.stack.is_up(victim), RECOVERY_S)

    def refresh_idle_users(self) -> None:
        """Give users without a refresh on the way new texts and a refresh."""
        for user in sorted(set(self.users) - self._users_under_way()):
            self._import(user, MORE_TEXTS)
            self._post(f"/v1/users/{user}/refreshes", {"method": "perce"})

    def wait_until_all_ended(self) -> None:
        """Wait for as long as users who are under way become fewer."""
        while left := self._users_under_way():
            wait_until(partial(self._fewer_than, len(left)), RECOVERY_S)
        wait_until(self._is_tidy, RECOVERY_S)

    def stages(self) -> tuple[str, ...]:
        """The stages of refreshes that are on the way, `queued` included."""
        with self.database.read() as session:
            rows = session.execute(
                select(Refresh.status, Refresh.stage)
                .join(User, User.id == Refresh.user_id)
                .where(Refresh.status.in_(OPEN), User.name.in_(self.users))
            )
            return tuple(sorted({stage or status for status, stage in rows}))

    def close(self) -> None:
        for user in self.users:
            with self.stack.client() as client:
                client.delete(f"/v1/users/{user}").raise_for_status()
        self.database.close()

    def _users_under_way(self) -> set[str]:
        with self.database.read() as session:
            return set(
                session.scalars(
                    select(User.name)
                    .join(Refresh, Refresh.user_id == User.id)
                    .where(Refresh.status.in_(OPEN))
                )
            )

    def _fewer_than(self, users: int) -> bool:
        return len(self._users_under_way()) < users

    def _is_tidy(self) -> bool:
        """Whether all drains are done that delete files; they come behind a refresh's end."""
        with self.database.read() as session:
            users = session.scalars(select(User).where(User.name.in_(self.users))).all()
            return not any(
                retention.surplus(session, user, self.keep)
                or retention.unfinished(session, user)
                or retention.abandoned(session, user)
                for user in users
            )

    def _ended(self) -> int:
        with self.database.read() as session:
            ended = select(func.count(Refresh.id)).where(Refresh.status.not_in(OPEN))
            return session.scalars(ended).one()

    def _wait_for(self, point: str) -> None:
        """Wait until a refresh is at that point, but not for ever."""
        deadline = time.monotonic() + MISS_S
        ended = self._ended()
        while time.monotonic() < deadline:
            if point == "asked":
                return
            if self._ended() > ended if point == "ended" else point in self.stages():
                return
            time.sleep(0.02)

    def _import(self, user: str, count: int) -> None:
        lines, self.texts[user] = self.texts[user][:count], self.texts[user][count:]
        if lines:
            self._post(f"/v1/users/{user}/history", "\n".join(lines))

    def _post(self, path: str, body: dict[str, str] | str) -> None:
        """POST until it is answered; what was done before the answer was lost is no error."""

        def answered() -> bool:
            with self.stack.client() as client:
                if isinstance(body, str):
                    answer = client.post(path, content=body)
                else:
                    answer = client.post(path, json=body)
            if answer.status_code == httpx.codes.SERVICE_UNAVAILABLE:
                return False
            if answer.status_code != httpx.codes.CONFLICT:
                answer.raise_for_status()
            return True

        wait_until(answered, RECOVERY_S)
