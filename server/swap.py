"""Bringing adapter versions onto the engines and off them again.

A version is warmed on every engine before it becomes active, and unloaded only when no
request uses it; its files go only when it is unloaded everywhere: an engine whose
adapter's folder vanished dies at the next request. All of it can be repeated at any time.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path

from perce.errors import AttuneError
from server import adapter_store, leases, registry, retention
from server.engine import Engine
from server.store.database import Database
from server.store.tables.adapters import Adapter
from server.store.tables.people import User

_POLL_S = 0.2


async def warm(engines: Sequence[Engine], adapter: Adapter) -> None:
    """Load a version, its files verified, on every engine and run one token through it.

    Raises:
        DamagedAdapterError: The files are not those that were published.
        EngineUnavailableError, EngineRefusedError: An engine could not load it: the version
            must not become active.
    """
    await asyncio.to_thread(adapter_store.verify, adapter)
    await _on_all(engines, lambda engine: engine.warm(adapter.name, Path(adapter.folder)))


async def drain(database: Database, engines: Sequence[Engine], user_id: int, keep: int) -> None:
    """Take a user's versions that are no longer active off the engines, once unused.

    Of the retired ones the newest `keep` keep their files; older ones are erased, as are
    candidates whose refresh is over, versions that were withdrawn, and what a crash left half
    erased. A version that became active again meanwhile, by a rollback, stays. An engine that
    is down stops nothing on the others: call again when it is back.

    Raises:
        EngineUnavailableError, EngineRefusedError: An engine could not be asked to unload.
    """
    failures: list[AttuneError] = []
    retired, surplus, erased = await asyncio.to_thread(_leaving, database, user_id, keep)
    for adapter in retired:
        await _until_unused(database, adapter.id)
        if await asyncio.to_thread(_may_leave, database, adapter.id):
            await _collect(failures, unload(engines, adapter.name))
    for adapter in surplus:
        if await _claim(database, adapter.id):
            erased.append(adapter)
    for adapter in erased:
        await _until_unused(database, adapter.id)
        await _collect(failures, erase(database, engines, adapter))
    if failures:
        raise failures[0]


async def erase_withdrawn(database: Database, engines: Sequence[Engine]) -> None:
    """Erase everybody's withdrawn versions, each as soon as no request uses it.

    Raises:
        EngineUnavailableError, EngineRefusedError: An engine could not be asked to unload:
            what it may hold keeps its files until this is called again.
    """
    failures: list[AttuneError] = []
    for adapter in await asyncio.to_thread(_withdrawn, database):
        await _until_unused(database, adapter.id)
        await _collect(failures, erase(database, engines, adapter))
    if failures:
        raise failures[0]


async def unload(engines: Sequence[Engine], name: str) -> None:
    """Unload a version everywhere; where it is not loaded is no error.

    Raises:
        EngineUnavailableError, EngineRefusedError: An engine could not be asked; the others
            were.
    """
    await _on_all(engines, lambda engine: engine.unload_adapter(name))


async def erase(database: Database, engines: Sequence[Engine], adapter: Adapter) -> None:
    """Unload a version that nobody may use any more, delete its files, and note it.

    Raises:
        EngineUnavailableError, EngineRefusedError: An engine may still hold it: its files
            stay until the next drain.
    """
    await unload(engines, adapter.name)
    await asyncio.to_thread(adapter_store.delete, Path(adapter.folder))
    await asyncio.to_thread(_finish, database, adapter.id)


async def _on_all(engines: Iterable[Engine], action: Callable[[Engine], Awaitable[None]]) -> None:
    """Do the same on all engines, to the end on each, and then raise the first failure."""
    outcomes = await asyncio.gather(*map(action, engines), return_exceptions=True)
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome


async def _collect(failures: list[AttuneError], action: Awaitable[None]) -> None:
    try:
        await action
    except AttuneError as error:
        failures.append(error)


async def _until_unused(database: Database, adapter_id: int) -> None:
    while await asyncio.to_thread(_in_use, database, adapter_id):
        await asyncio.sleep(_POLL_S)


async def _claim(database: Database, adapter_id: int) -> bool:
    """Claim a version for erasure as soon as no request uses it, unless it is active again."""
    while not await asyncio.to_thread(_try_claim, database, adapter_id):
        if not await asyncio.to_thread(_may_leave, database, adapter_id):
            return False
        await asyncio.sleep(_POLL_S)
    return True


def _leaving(
    database: Database, user_id: int, keep: int
) -> tuple[list[Adapter], list[Adapter], list[Adapter]]:
    """Return the versions to unload, those of them to erase, and those claimed before."""
    with database.read() as session:
        user = session.get(User, user_id)
        if user is None:
            return [], [], []
        retired = registry.versions(session, user, "retired")
        lost = retention.abandoned(session, user)
        surplus = retention.surplus(session, user, keep)
        return [*retired, *lost], [*surplus, *lost], list(retention.unfinished(session, user))


def _withdrawn(database: Database) -> list[Adapter]:
    with database.read() as session:
        return [one for one in retention.unfinished(session) if one.state == "withdrawn"]


def _may_leave(database: Database, adapter_id: int) -> bool:
    with database.read() as session:
        adapter = session.get(Adapter, adapter_id)
        return adapter is not None and adapter.state in ("retired", "candidate")


def _in_use(database: Database, adapter_id: int) -> bool:
    with database.read() as session:
        return leases.count(session, adapter_id) > 0


def _try_claim(database: Database, adapter_id: int) -> bool:
    with database.write() as session:
        return retention.claim(session, adapter_id, "beyond the kept versions")


def _finish(database: Database, adapter_id: int) -> None:
    with database.write() as session:
        retention.finish(session, adapter_id)
