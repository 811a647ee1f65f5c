"""Which adapter versions must not be served: said once, loudly, and shown in /readyz.

Those are versions whose files are not those published, and versions that were trained on
another base model than the one served, whose weights would mean nothing there.
"""

from threading import Lock

import structlog
from prometheus_client import Gauge

from perce.adapter_files import model_fingerprint
from server import adapter_store
from server.adapter_store import DamagedAdapterError
from server.store.tables.adapters import Adapter

log = structlog.get_logger()

DAMAGED = Gauge(
    "attune_adapters_damaged", "Adapter versions that cannot be served: other files, or base."
)


class OtherBaseError(DamagedAdapterError):
    """A version was trained on another base model: serve that one again, or refresh."""

    def __init__(self, adapter: Adapter, served: str) -> None:
        super().__init__(
            f"Adapter {adapter.name} was trained on {short(adapter.base_model)}, and the base "
            f"model served is {short(served)}: serve that model again, or refresh."
        )


class ServedBase:
    """The base model that is served, known by its hash.

    Requests only read the hash: the first that comes before it is known waits for it.

    Args:
        model: Name or folder of the model.
    """

    def __init__(self, model: str) -> None:
        self._model = model
        self._known: str | None = None
        self._lock = Lock()

    @property
    def fingerprint(self) -> str:
        """The hash as it was last looked at (`perce.adapter_files.model_fingerprint`)."""
        if self._known is None:
            with self._lock:
                if self._known is None:
                    self._known = model_fingerprint(self._model)
        return self._known

    def look(self) -> None:
        """Look at the model's files; unchanged ones are not hashed again."""
        with self._lock:
            self._known = model_fingerprint(self._model)


class Damage:
    """The damaged versions that one process met.

    Args:
        base: The base model, which versions must have been trained on.
    """

    def __init__(self, base: ServedBase) -> None:
        self.base = base
        self._known: dict[int, Adapter] = {}
        self._lock = Lock()

    @property
    def known(self) -> tuple[Adapter, ...]:
        """The versions that were damaged when they were last looked at."""
        with self._lock:
            return tuple(self._known.values())

    def check(self, adapter: Adapter) -> None:
        """Make sure that a version can be served: cheap enough for every request.

        Raises:
            OtherBaseError: It was trained on another base model.
            DamagedAdapterError: Its files are not those published.
        """
        if adapter.base_model != self.base.fingerprint:
            raise OtherBaseError(adapter, self.base.fingerprint)
        adapter_store.check(adapter)

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


def short(fingerprint: str) -> str:
    """A fingerprint as messages show it: the start of a hash, or a whole name."""
    return fingerprint if len(fingerprint) <= 24 else f"{fingerprint[:19]}…"
