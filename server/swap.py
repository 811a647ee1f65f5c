"""Bringing adapter versions onto the engines and off them again.

A version is warmed on every engine before it becomes active, and unloaded only when no
request uses it; its files go only when it is unloaded everywhere: an engine whose
adapter's folder vanished dies at the next request. All of it can be repeated at any time.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from pathlib import Path

from perce.errors import AttuneError
from server import adapter_store, leases, registry, retention
from server.engine import Engine
from server.errors import ConflictError
from server.naps import Naps
from server.store.database import Database
from server.store.tables.adapters import Adapter
from server.store.tables.people import User

PATIENCE_S = 60.0
"""Longest wait for running requests to end: whoever drains has other things to do as well."""
_POLL_S = 0.2


class AdapterInUseError(ConflictError):
    """A running request still uses an adapter version: drain again when it has ended."""

    def __init__(self, adapters: Sequence[Adapter]) -> None:
        names = ", ".join(adapter.name for adapter in adapters)
        super().__init__(
            f"Running replies still use {names}: the files stay until they end. Try again then."
        )


async def warm(database: Database, engines: Sequence[Engine], adapter: Adapter) -> None:
    """Load a version, its files verified, on every engine and run one token through it.

    Raises:
        DamagedAdapterError: The files are not those that were published.
        EngineAsleepError: An engine sleeps while its GPU trains; none was asked to load it.
        EngineUnavailableError, EngineRefusedError: An engine could not load it: the version
            must not become active.
    """
    await asyncio.to_thread(adapter_store.verify, adapter)
    await asyncio.to_thread(Naps(database).check, engines)
    await _on_all(engines, lambda engine: engine.warm(adapter.name, Path(adapter.folder)))


async def drain(
    database: Database,
    engines: Sequence[Engine],
    user_id: int,
    keep: int,
    patience_s: float = PATIENCE_S,
) -> None:
    """Take a user's versions that are no longer active off the engines, once unused.

    Of the retired ones the newest `keep` keep their files; older ones are erased, as are
    candidates whose refresh is over, versions that were withdrawn, and what a crash left half
    erased. A version that became active again meanwhile, by a rollback, stays. An engine that
    is down stops nothing on the others: call again when it is back.

    Raises:
        EngineUnavailableError, EngineRefusedError: An engine could not be asked to unload.
        AdapterInUseError: After so many seconds of patience a request still uses one; with
            the others all was done.
    """
    until = time.monotonic() + patience_s
    failures: list[AttuneError] = []
    retired, surplus, erased = await asyncio.to_thread(_leaving, database, user_id, keep)
    async for adapter in _unused(database, retired, until, failures):
        if await asyncio.to_thread(_may_leave, database, adapter.id):
            await _collect(failures, unload(engines, adapter.name))
    async for adapter in _unused(database, [one for one, _ in surplus], until, failures):
        why = next(reason for one, reason in surplus if one is adapter)
        if await asyncio.to_thread(_try_claim, database, adapter.id, why):
            erased.append(adapter)
    async for adapter in _unused(database, erased, until, failures):
        await _collect(failures, erase(database, engines, adapter))
    _raise_first(failures)


async def erase_all(
    database: Database,
    engines: Sequence[Engine],
    adapters: Iterable[Adapter],
    patience_s: float = PATIENCE_S,
) -> None:
    """Erase versions that nobody may use any more, each as soon as no request does.

    Raises:
        EngineUnavailableError, EngineRefusedError: An engine could not be asked to unload:
            what it may hold keeps its files until this is called again.
        AdapterInUseError: After so many seconds of patience a request still uses one.
    """
    failures: list[AttuneError] = []
    async for adapter in _unused(database, adapters, time.monotonic() + patience_s, failures):
        await _collect(failures, erase(database, engines, adapter))
    _raise_first(failures)


async def unload(engines: Sequence[Engine], name: str) -> None:
    """Unload a version everywhere; where it is not loaded is no error.

    Engines may sleep: they take a name off a list, and leave the weights alone.

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


def _raise_first(failures: Sequence[AttuneError]) -> None:
    """Raise what went wrong first; that some are in use only if nothing else did."""
    for error in sorted(failures, key=lambda error: isinstance(error, AdapterInUseError)):
        raise error


async def _unused(
    database: Database, adapters: Iterable[Adapter], until: float, failures: list[AttuneError]
) -> AsyncIterator[Adapter]:
    """Yield each version once no request uses it; those still used in the end are a failure."""
    waiting = list(adapters)
    while waiting:
        used = []
        for adapter in waiting:
            if await asyncio.to_thread(_in_use, database, adapter.id):
                used.append(adapter)
            else:
                yield adapter
        waiting = used
        if waiting and time.monotonic() >= until:
            failures.append(AdapterInUseError(waiting))
            return
        if waiting:
            await asyncio.sleep(_POLL_S)


def _leaving(
    database: Database, user_id: int, keep: int
) -> tuple[list[Adapter], list[tuple[Adapter, str]], list[Adapter]]:
    """Return the versions to unload, those of them to erase and why, and those claimed before."""
    with database.read() as session:
        user = session.get(User, user_id)
        if user is None:
            return [], [], []
        retired = registry.versions(session, user, "retired")
        lost = retention.abandoned(session, user)
        surplus = [
            *((one, "beyond the kept versions") for one in retention.surplus(session, user, keep)),
            *((one, "its refresh ended before it became active") for one in lost),
        ]
        return [*retired, *lost], surplus, list(retention.unfinished(session, user))


def _may_leave(database: Database, adapter_id: int) -> bool:
    with database.read() as session:
        adapter = session.get(Adapter, adapter_id)
        return adapter is not None and adapter.state in ("retired", "candidate")


def _in_use(database: Database, adapter_id: int) -> bool:
    with database.read() as session:
        return leases.count(session, adapter_id) > 0


def _try_claim(database: Database, adapter_id: int, why: str) -> bool:
    with database.write() as session:
        return retention.claim(session, adapter_id, why)


def _finish(database: Database, adapter_id: int) -> None:
    with database.write() as session:
        retention.finish(session, adapter_id)
