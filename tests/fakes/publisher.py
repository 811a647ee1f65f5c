"""Publishes adapters that nobody trained, by the same registry and swap that a refresh uses."""

import asyncio
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from running_stack import Stack

from perce.adapter_files import model_fingerprint
from server import adapter_store, pointer, refreshes, registry, swap
from server.engine import connect_engines
from server.settings import Settings
from server.store.database import Database
from server.store.tables.adapters import Adapter
from server.store.tables.base import now
from server.store.tables.people import User
from server.store.tables.refreshes import Refresh
from server.store.users import find_user


@dataclass(frozen=True, slots=True)
class Activation:
    """A version became a user's active one, somewhere between two moments.

    Attributes:
        label: The version, such as `v3`; None is the base model.
    """

    user: str
    label: str | None
    after: float
    before: float


@dataclass
class Publisher:
    """Publishes versions of users, one after the other, and keeps a log of what was active.

    Attributes:
        settings: Those of the installation; its store and its engines are used directly.
        folders: Adapter folders, published in turn.
        weights: Which folder each version of a user was made of.
    """

    settings: Settings
    folders: Sequence[Path]
    activations: list[Activation] = field(default_factory=list)
    weights: dict[tuple[str, str], Path] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._database = Database(self.settings.store_url())
        self._fingerprint = model_fingerprint(self.settings.model)

    @classmethod
    def of(cls, stack: Stack, folders: Sequence[Path]) -> "Publisher":
        """One that works beside the worker of a running stack."""
        return cls(stack.settings(), folders)

    def close(self) -> None:
        """Give the connections back."""
        self._database.close()

    def publish(self, user_name: str) -> None:
        """Publish a user's next version: place, warm, activate, drain, and erase old ones."""
        with self._database.read() as session:
            user = find_user(session, user_name)
        source = self.folders[len(self.weights) % len(self.folders)]
        refresh_id, adapter = self._placed(user, source)
        self.weights[user_name, adapter.label] = source
        asyncio.run(self._swapped_in(adapter, user_name, refresh_id))

    def rollback(self, stack: Stack, user_name: str) -> None:
        """Roll a user back to the version before, through the API."""
        after = time.monotonic()
        with stack.client() as client:
            answer = client.post(f"/v1/users/{user_name}/adapters/rollback", json={})
        label = answer.raise_for_status().json()["active"]
        self.activations.append(Activation(user_name, label, after, time.monotonic()))

    def may_have_answered(self, user: str, label: str | None, sent: float, answered: float) -> bool:
        """Whether a version was active at any time between two moments.

        A request may be answered by what was active when it was sent, or by what became
        active until the gateway chose; nothing else.
        """
        base = Activation(user, None, float("-inf"), float("-inf"))
        log = [base, *(one for one in self.activations if one.user == user)]
        ends = [later.before for _, later in pairwise(log)] + [float("inf")]
        return any(
            one.label == label and one.after <= answered and end >= sent
            for one, end in zip(log, ends, strict=True)
        )

    def _placed(self, user: User, source: Path) -> tuple[str, Adapter]:
        """The next version with its files, and the refresh that it needs so as not to be swept."""
        provenance = registry.Provenance(self._fingerprint, "perce", None)
        refresh_id = str(uuid.uuid4())
        with self._database.write() as session:
            adapter = registry.add_candidate(
                session, user, provenance, {}, self.settings.adapters_dir()
            )
            session.add(
                Refresh(
                    id=refresh_id,
                    user_id=user.id,
                    method="perce",
                    status="running",
                    adapter_id=adapter.id,
                    started_at=now(),
                )
            )
        placed = adapter_store.place(source, Path(adapter.folder))
        with self._database.write() as session:
            registry.attach_files(session, adapter.id, placed.checksums, placed.size_bytes)
            return refresh_id, session.get_one(Adapter, adapter.id)

    async def _swapped_in(self, adapter: Adapter, user_name: str, refresh_id: str) -> None:
        engines = connect_engines(self.settings)
        try:
            await swap.warm(self._database, engines, adapter)
            after = time.monotonic()
            with self._database.write() as session:
                pointer.promote(session, adapter.id)
            self.activations.append(Activation(user_name, adapter.label, after, time.monotonic()))
            with self._database.write() as session:
                refreshes.close(session, refresh_id, "succeeded")
            await swap.drain(self._database, engines, adapter.user_id, self.settings.keep_versions)
        finally:
            for engine in engines:
                await engine.close()
