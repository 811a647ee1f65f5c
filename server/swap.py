"""Bringing adapter versions onto the engines and off them again.

A version is warmed on every engine before it becomes active, and unloaded only when no
request uses it: an engine whose adapter's folder vanished dies at the next request.
"""

import asyncio
import shutil
from collections.abc import Sequence
from pathlib import Path

from sqlalchemy import select

from server import registry
from server.engine import Engine
from server.store.database import Database
from server.store.tables import Adapter

_POLL_S = 0.2


async def warm(engines: Sequence[Engine], adapter: Adapter) -> None:
    """Load a version, its files verified, on every engine and run one token through it.

    Raises:
        DamagedAdapterError: The files are not those that were published.
        EngineUnavailableError, EngineRefusedError: An engine could not load it.
    """
    await asyncio.to_thread(registry.verify, adapter)
    await asyncio.gather(*(e.warm(adapter.name, Path(adapter.folder)) for e in engines))


async def drain(database: Database, engines: Sequence[Engine], user_id: int) -> None:
    """Wait until no request uses a user's retired versions, then unload them everywhere.

    A version that became active again meanwhile, by a rollback, stays loaded.
    """
    for adapter_id in await asyncio.to_thread(_retired, database, user_id):
        while await asyncio.to_thread(_in_use, database, adapter_id):
            await asyncio.sleep(_POLL_S)
        adapter = await asyncio.to_thread(_current, database, adapter_id)
        if adapter is not None and adapter.state != "active":
            await asyncio.gather(*(engine.unload_adapter(adapter.name) for engine in engines))


def delete_files(adapters: Sequence[Adapter]) -> None:
    """Delete the files of versions that are unloaded and drained on every engine."""
    for adapter in adapters:
        folder = Path(adapter.folder)
        if folder.exists():
            shutil.rmtree(folder)


def _retired(database: Database, user_id: int) -> Sequence[int]:
    with database.read() as session:
        return session.scalars(
            select(Adapter.id).where(Adapter.user_id == user_id, Adapter.state == "retired")
        ).all()


def _in_use(database: Database, adapter_id: int) -> bool:
    with database.read() as session:
        return registry.leased(session, adapter_id) > 0


def _current(database: Database, adapter_id: int) -> Adapter | None:
    with database.read() as session:
        return session.get(Adapter, adapter_id)
