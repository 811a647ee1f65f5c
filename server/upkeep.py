"""What the gateway does on its own: it looks after adapters, leases, strays and the disk budget.

At start all active versions are verified; then, again and again, leases are renewed and
expired, and what the engines hold is compared with the registry: a version that should
have left, because whoever had to see to it died, is handed to the worker. Nothing here
decides which version is active.
"""

import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import structlog
from anyio import create_task_group, sleep
from fastapi.concurrency import run_in_threadpool
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from perce.errors import AttuneError
from server import adapter_store, leases, registry, retention, strays, swap
from server.adapter_store import DamagedAdapterError
from server.damage import Damage
from server.engine import Engine
from server.integrity import remove
from server.jobs import Jobs
from server.leases import Leases
from server.settings import Settings
from server.store.database import Database
from server.store.tables.adapters import Adapter

log = structlog.get_logger()

_NAME = re.compile(r"u([1-9][0-9]{0,9})@v([1-9][0-9]{0,8})")
_PAGE = 500
# A drain that was asked for may wait for a worker, or for an engine that restarts.
_ASK_AGAIN_S = 600.0
_GIB = 2**30


class Upkeep:
    """The background work of one gateway.

    Attributes:
        verified: How many active versions the check at the start has hashed.
        finished: Whether that check is through.
    """

    def __init__(
        self,
        settings: Settings,
        database: Database,
        engines: Sequence[Engine],
        jobs: Jobs,
        held: Leases,
        damage: Damage,
    ) -> None:
        self._settings = settings
        self._database = database
        self._engines = engines
        self._jobs = jobs
        self._held = held
        self._damage = damage
        self._asked: dict[int, float] = {}
        self.verified = 0
        self.finished = False

    async def run(self) -> None:
        """Work until cancelled."""
        async with create_task_group() as group:
            group.start_soon(self._guarded, self.verify_active)
            group.start_soon(self._repeated, self.tidy, self._settings.upkeep_every_s)
            group.start_soon(self._repeated, self.look_at_base, self._settings.upkeep_every_s)
            group.start_soon(self._repeated, self.remove_strays, self._settings.upkeep_every_s)
            group.start_soon(self._repeated, self.keep_leases, leases.RENEW_EVERY_S)

    async def verify_active(self) -> None:
        """Check all active versions: quickly that the files are there, then by their hashes.

        Hashing leaves the disk alone half of the time. Requests do not wait for it: each one
        has its own version checked.
        """
        async for adapter in self._active():
            await run_in_threadpool(self._look, adapter, adapter_store.probe)
        async for adapter in self._active():
            started = time.monotonic()
            await run_in_threadpool(self._look, adapter, self._damage.check)
            self.verified += 1
            await sleep(time.monotonic() - started)
        self.finished = True
        damaged = [adapter.name for adapter in self._damage.known]
        log.info("active adapters verified", versions=self.verified, damaged=damaged)

    async def tidy(self) -> None:
        """Hand to the worker whose versions must leave the engines or the disk.

        Raises:
            JobsUnavailableError: The queue cannot be reached; the next round tries again.
        """
        await run_in_threadpool(self._recheck_damaged)
        budget_gb = self._settings.adapters_disk_gb
        if budget_gb is not None:
            await run_in_threadpool(self._claim_over_budget, int(budget_gb * _GIB))
        for user_id in await run_in_threadpool(self._leaving, await self._held_by_engines()):
            await run_in_threadpool(self._ask_for_drain, user_id)

    async def remove_strays(self) -> None:
        """Delete what an interrupted erasure, or a dead worker, left on disk of nobody's.

        Raises:
            EngineUnavailableError, EngineRefusedError: An engine may hold a version of an
                erased user: the next round tries again.
        """
        work = strays.work_dir(self._settings.home)
        await run_in_threadpool(strays.sweep_work, self._database, work)
        adapters = self._settings.adapters_dir()
        for stray in await run_in_threadpool(strays.of_erased, self._database, adapters):
            for name in stray.engine_names:
                await swap.unload(self._engines, name)
            if await run_in_threadpool(remove, stray):
                log.info("what an erased user left was removed", path=stray.path)

    async def look_at_base(self) -> None:
        """Hash the base model, at the start and when its files have changed."""
        await run_in_threadpool(self._damage.base.look)

    async def keep_leases(self) -> None:
        """Renew the leases of this gateway's requests, and drop those of dead gateways."""
        await self._held.keep()

    async def _repeated(self, action: Callable[[], Awaitable[None]], every_s: float) -> None:
        while True:
            await self._guarded(action)
            await sleep(every_s)

    async def _guarded(self, action: Callable[[], Awaitable[None]]) -> None:
        """Nothing that goes wrong here, such as a queue that is away, may end the gateway."""
        try:
            await action()
        except (AttuneError, SQLAlchemyError, OSError) as error:
            log.warning("upkeep was interrupted", work=action.__name__, reason=str(error))
        except Exception as error:
            log.error("upkeep failed", work=action.__name__, exc_info=error)

    async def _held_by_engines(self) -> set[str]:
        """Ask all engines which versions they hold; one that is down holds none afterwards."""
        held: set[str] = set()
        for engine in self._engines:
            try:
                held |= await engine.loaded_adapters()
            except AttuneError as error:
                log.info("an engine cannot be asked what it holds", reason=str(error))
        strays = {name for name in held if _NAME.fullmatch(name)} - await run_in_threadpool(
            self._in_registry, held
        )
        for name in strays:
            await swap.unload(self._engines, name)
        return held - strays

    def _in_registry(self, names: set[str]) -> set[str]:
        ids = {int(match[1]) for name in names if (match := _NAME.fullmatch(name))}
        with self._database.read() as session:
            rows = session.scalars(select(Adapter).where(Adapter.user_id.in_(ids)))
            return {adapter.name for adapter in rows} & names

    def _leaving(self, held: set[str]) -> set[int]:
        """Return the users with versions that should have left the engines or the disk."""
        ids = {int(match[1]) for name in held if (match := _NAME.fullmatch(name))}
        with self._database.read() as session:
            gone = select(Adapter).where(Adapter.state.in_(("retired", *registry.LEAVING)))
            loaded = session.scalars(gone.where(Adapter.user_id.in_(ids)))
            leaving = [
                *(adapter for adapter in loaded if adapter.name in held),
                *retention.unfinished(session),
                *retention.abandoned(session),
            ]
            # Of what is in use a drain could only wait, and keep others from theirs.
            return {a.user_id for a in leaving if not leases.count(session, a.id)}

    def _ask_for_drain(self, user_id: int) -> None:
        asked = self._asked.get(user_id)
        if asked is not None and time.monotonic() - asked < _ASK_AGAIN_S:
            return
        self._jobs.drain(user_id, alone=True)
        self._asked[user_id] = time.monotonic()
        log.info("asked for a drain", user_id=user_id)

    def _claim_over_budget(self, budget_bytes: int) -> None:
        with self._database.write() as session:
            retention.claim_over_budget(session, budget_bytes)

    def _recheck_damaged(self) -> None:
        for known in self._damage.known:
            self._look(known, self._damage.check)

    def _look(self, adapter: Adapter, look: Callable[[Adapter], None]) -> None:
        """Check a version; one that is not active any more needs no files."""
        try:
            look(adapter)
        except DamagedAdapterError as error:
            with self._database.read() as session:
                now = session.get(Adapter, adapter.id)
            if now is not None and now.state == "active":
                self._damage.found(adapter, error)
                return
        self._damage.settled(adapter)

    async def _active(self) -> AsyncIterator[Adapter]:
        """All active versions, read a page at a time."""
        after = 0
        while page := await run_in_threadpool(self._active_after, after):
            for adapter in page:
                yield adapter
            after = page[-1].id

    def _active_after(self, adapter_id: int) -> Sequence[Adapter]:
        with self._database.read() as session:
            return session.scalars(
                select(Adapter)
                .where(Adapter.state == "active", Adapter.id > adapter_id)
                .order_by(Adapter.id)
                .limit(_PAGE)
            ).all()
