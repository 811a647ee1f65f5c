"""Many simulated users, written in bulk: only what the due rule and the plan look at."""

import random
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import insert

from server.store.database import Database
from server.store.tables.people import User
from server.store.tables.refreshes import Refresh

_CHUNK = 5000


def add_crowd(database: Database, count: int, at: datetime, seed: int = 0) -> None:
    """Add users of all kinds: due, too few texts, just here, just refreshed, no consent."""
    chance = random.Random(seed)
    people = _people(count, at, chance)
    while rows := [row for row, _ in zip(people, range(_CHUNK), strict=False)]:
        with database.write() as session:
            session.connection().execute(insert(User), rows)
            busy = [row["id"] for row in rows if row["id"] % 20 == 0]
            session.connection().execute(
                insert(Refresh),
                [
                    {"id": f"r{i}", "user_id": i, "method": "perce", "status": status}
                    for i in busy
                    for status in ("queued" if i % 40 else "succeeded",)
                ],
            )


def _people(count: int, at: datetime, chance: random.Random) -> Iterator[dict[str, Any]]:
    for i in range(1, count + 1):
        texts = chance.randrange(200)
        yield {
            "id": i,
            "name": f"user{i}",
            "consent": chance.random() < 0.95,
            "text_count": texts,
            "new_texts": min(texts, chance.randrange(60)),
            "last_message_at": _some_time(at, chance, hours=20),
            "last_refresh_at": _some_time(at, chance, hours=100),
            "created_at": at - timedelta(days=200),
        }


def _some_time(at: datetime, chance: random.Random, hours: float) -> datetime | None:
    return None if chance.random() < 0.3 else at - timedelta(hours=chance.random() * hours)
