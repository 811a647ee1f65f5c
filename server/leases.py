"""Leases: which adapter versions running requests use, so that none is taken from under them.

A request takes its lease in the transaction that looks its version up, and gives it back
when it ends. Gateways renew the leases of their running requests; those of a gateway that
died expire. What waits for leases is `server.swap`, what respects them `server.retention`.
"""

import secrets
from collections.abc import Collection
from dataclasses import dataclass
from datetime import timedelta
from itertools import chain

import structlog
from anyio import CapacityLimiter, to_thread
from prometheus_client import Counter
from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from server import population, registry
from server.adapter_store import DamagedAdapterError
from server.damage import Damage
from server.errors import ConflictError
from server.store.database import Database
from server.store.tables.adapters import Adapter, Lease
from server.store.tables.base import now
from server.store.tables.people import User

log = structlog.get_logger()
RENEW_EVERY_S = 15.0
# Several renewals long: a gateway that missed that many is dead, and so are its requests.
LEASE_TIME = timedelta(minutes=1)
FALLBACKS = Counter(
    "attune_adapter_fallbacks", "Requests answered by other weights: the active ones are damaged."
)


@dataclass(frozen=True, slots=True)
class Leased:
    """What answers a request: an adapter version with the lease on it, or the base model.

    Attributes:
        adapter: The version; None for the base model.
        token: Its lease, to be given back; None for the base model.
        passed_over: The version that was to answer, where it is damaged and another one does.
    """

    adapter: Adapter | None = None
    token: str | None = None
    passed_over: Adapter | None = None


class Leases:
    """The leases of one gateway process."""

    def __init__(self, database: Database, damage: Damage) -> None:
        self._database = database
        self._held: set[str] = set()
        self._damage = damage
        self._thread = CapacityLimiter(1)

    def take(self, user: User, choice: str) -> Leased:
        """Choose the version that a request uses, its files checked, and keep it in place.

        Where the files of the active version are damaged, or it was trained on another base
        model, the newest older version that can be served answers, without one the
        population's in the same way, and without that the base model: the user keeps being
        answered, no wrong weights are served, and the version is back as soon as its files, or
        its base model, are.

        Args:
            user: Whose adapter.
            choice: `active`, `none`, or a version such as `v7`.

        Raises:
            DamagedAdapterError: The version named is damaged, or is for another base model.
            BadRequestError, NotFoundError: See `registry.find`.
        """
        damaged: list[Adapter] = []
        while True:
            with self._database.write() as session:
                adapter = choose(session, user, choice, damaged)
                token = take(session, adapter) if adapter else None
            first = damaged[0] if damaged else None
            if adapter is None:
                return Leased(passed_over=first)
            if token is None:
                continue
            self._held.add(token)
            try:
                self._damage.check(adapter)
            except DamagedAdapterError as error:
                self.give_back(token)
                if choice != "active":
                    raise
                self._damage.found(adapter, error)
                FALLBACKS.inc()
                damaged.append(adapter)
            else:
                self._damage.settled(adapter)
                return Leased(adapter, token, first)

    def hold(self, session: Session, adapter: Adapter) -> str:
        """Keep a version in place, in the writing transaction that looked it up.

        Raises:
            ConflictError: It was erased or withdrawn since.
        """
        token = take(session, adapter)
        if token is None:
            raise ConflictError(
                f"Adapter {adapter.name} was taken away just now: choose another version."
            )
        self._held.add(token)
        return token

    def give_back(self, token: str) -> None:
        """Give a lease back at the end of its request."""
        self._held.discard(token)
        with self._database.write() as session:
            release(session, token)

    async def keep(self) -> None:
        """Renew the leases of this gateway's requests, and drop those of dead gateways.

        In a thread of its own: those that requests share may all be taken for longer than a
        lease lasts.
        """
        await to_thread.run_sync(self._keep, limiter=self._thread)

    def _keep(self) -> None:
        with self._database.write() as session:
            if self._held:
                renew(session, set(self._held))
            if gone := expire(session):
                log.warning("leases of a gateway that died have expired", leases=gone)


def choose(
    session: Session, user: User, choice: str, damaged: Collection[Adapter] = ()
) -> Adapter | None:
    """Return the version that a request uses, or None for the base model.

    `active` is the user's own active version, and the population's for those without one.

    Args:
        session: A transaction.
        user: Whose adapter.
        choice: `active`, `none`, or a version such as `v7`.
        damaged: Versions to pass over, in favour of older ones.

    Raises:
        BadRequestError, NotFoundError: See `registry.find`.
    """
    if choice == "none":
        return None
    if choice != "active":
        return registry.find(session, user, choice)
    if not damaged:
        return registry.active(session, user) or population.active(session)
    bad = {adapter.id for adapter in damaged}
    standing_in = chain(registry.lineage(session, user), population.lineage(session))
    return next((adapter for adapter in standing_in if adapter.id not in bad), None)


def take(session: Session, adapter: Adapter) -> str | None:
    """Take a lease on a version, in the writing transaction that looked it up.

    Returns:
        The lease's id, or None if the version was erased or withdrawn since.
    """
    # The lock makes an erasure and a lease wait for each other on PostgreSQL.
    there = session.scalar(
        select(Adapter.id)
        .where(Adapter.id == adapter.id, Adapter.state.not_in(registry.LEAVING))
        .with_for_update(read=True, key_share=True)
    )
    if there is None:
        return None
    token = secrets.token_hex(16)
    session.add(Lease(id=token, adapter_id=adapter.id, expires_at=now() + LEASE_TIME))
    return token


def release(session: Session, token: str) -> None:
    """Give a lease back; one that expired is no error."""
    session.execute(delete(Lease).where(Lease.id == token))


def renew(session: Session, tokens: Collection[str]) -> None:
    """Let leases start anew."""
    session.execute(update(Lease).where(Lease.id.in_(tokens)).values(expires_at=now() + LEASE_TIME))


def count(session: Session, adapter_id: int) -> int:
    """Return how many running requests use a version."""
    return session.scalars(
        select(func.count())
        .select_from(Lease)
        .where(Lease.adapter_id == adapter_id, Lease.expires_at > now())
    ).one()


def expire(session: Session) -> int:
    """Remove the leases of gateways that died; return how many."""
    gone = session.scalars(delete(Lease).where(Lease.expires_at <= now()).returning(Lease.id))
    return len(gone.all())
