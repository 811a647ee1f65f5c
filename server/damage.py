"""Which adapter versions are known to be damaged: said once, loudly, and shown in /readyz."""

from threading import Lock

import structlog
from prometheus_client import Gauge

from server.adapter_store import DamagedAdapterError
from server.store.tables import Adapter

log = structlog.get_logger()

DAMAGED = Gauge("attune_adapters_damaged", "Adapter versions whose files are not those published.")


class Damage:
    """The damaged versions that one process met."""

    def __init__(self) -> None:
        self._known: dict[int, Adapter] = {}
        self._lock = Lock()

    @property
    def known(self) -> tuple[Adapter, ...]:
        """The versions that were damaged when they were last looked at."""
        with self._lock:
            return tuple(self._known.values())

    def found(self, adapter: Adapter, error: DamagedAdapterError) -> None:
        """Note that a version is damaged; it is logged when it is new, not at every request."""
        with self._lock:
            new = adapter.id not in self._known
            self._known[adapter.id] = adapter
            DAMAGED.set(len(self._known))
        if new:
            log.error("adapter is damaged", adapter=adapter.name, reason=str(error))

    def settled(self, adapter: Adapter) -> None:
        """Note that a version is whole, or that nobody needs it any more."""
        with self._lock:
            if self._known.pop(adapter.id, None) is None:
                return
            DAMAGED.set(len(self._known))
        log.info("adapter is damaged no more", adapter=adapter.name)
