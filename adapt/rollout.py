"""The second half of a refresh: publish, warm, activate, and every way in which it ends.

Each step can run again after a crash: a version that was made before is found instead of
made twice, one that was activated before is not activated again, and a refresh that was
closed stays as it was closed. Draining what was replaced is a workflow of its own: it waits
for other people's requests, and its failing takes nothing back.
"""

import asyncio
import logging
import shutil
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import structlog
from sqlalchemy.orm import Session

from adapt.claims import Claims
from adapt.dataset import Dataset
from adapt.errors import SharingEndedError, TakenOverError, UserErasedError
from adapt.refresh import Judged, Prepared, Workplace
from adapt.training import Training
from adapt.window import EngineWindow
from perce.hyperparameters import Hyperparameters
from server import (
    adapter_store,
    backoff,
    leases,
    pointer,
    population,
    refreshes,
    registry,
    swap,
)
from server.engine import Engine
from server.naps import Naps
from server.refreshes import OPEN
from server.settings import Settings
from server.store.database import Database
from server.store.tables.adapters import Adapter
from server.store.tables.refreshes import Refresh

log = structlog.get_logger()


class RolloutSteps:
    """Brings good candidates to the users, and closes refreshes, for one worker process."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        hyper: Hyperparameters,
        base_fingerprint: str,
        claims: Claims,
        window: EngineWindow,
        connect: Callable[[], Sequence[Engine]],
    ) -> None:
        self._settings = settings
        self._database = database
        self._hyper = hyper
        self._base_fingerprint = base_fingerprint
        self._claims = claims
        self._window = window
        self._connect = connect
        self._workplace = Workplace(settings.home, claims.worker)

    def publish(
        self, refresh_id: str, prepared: Prepared, training: Training, judged: Judged
    ) -> int | None:
        """Store the verdict, and for a good one the version; return the version's id.

        The row comes first and names the folder, so a second run finds it and places the
        same files again; a version whose files are not complete never becomes active.

        Raises:
            UserErasedError: The user is gone; so are the files.
            SharingEndedError: A member left the population, or the version that it goes on
                from was withdrawn because of that.
        """
        verdict = judged.verdict
        report = {
            **asdict(verdict),
            "examples": prepared.counts,
            "training": asdict(training.summary),
        }
        dataset = self._workplace.load(refresh_id)
        with self._database.write() as session:
            # Who leaves from here on withdraws the version as well; who left before is seen.
            population.turn(session)
            refresh, user = self._claims.enter(session, refresh_id, "publish")
            prepared.parent(session)
            if population.left(session, prepared.members):
                raise SharingEndedError()
            adapter = session.get(Adapter, refresh.adapter_id) if refresh.adapter_id else None
            if adapter is None:
                adapter = registry.add_candidate(
                    session,
                    user,
                    self._provenance(refresh.method, prepared, dataset),
                    report,
                    self._settings.adapters_dir(),
                )
                population.record_members(session, adapter.id, prepared.members)
            if verdict.decision == "reject":
                registry.reject(session, adapter, verdict.reason)
            refresh.adapter_id = adapter.id
            refresh.verdict, refresh.reason = verdict.decision, verdict.reason
            refresh.report = report
        if verdict.decision == "reject":
            return None
        if not adapter.checksums:
            self._place(adapter, training.folder)
        return adapter.id

    def warm(self, refresh_id: str, adapter_id: int) -> None:
        """Load the new version on every engine, before anybody is sent to it.

        Engines that sleep for another worker's training are waited for.

        Raises:
            EngineAsleepError: One did not wake when it was expected to.
            EngineUnavailableError, EngineRefusedError: An engine could not load it.
            SharingEndedError: It was withdrawn.
        """
        self._window.close()
        self._on_engines(Naps(self._database).wait)
        with self._database.write() as session:
            self._claims.enter(session, refresh_id, "warm")
            adapter = _standing(session, adapter_id)
        self._on_engines(lambda engines: swap.warm(self._database, engines, adapter))

    def activate(self, refresh_id: str, adapter_id: int, judged: Judged) -> bool:
        """Flip the user to the new version, in one transaction.

        Returns:
            False if another version answers since the verdict, by a rollback or because the
            population got one: the candidate was never compared with that one, and does not
            replace it.

        Raises:
            SharingEndedError: It was withdrawn.
        """
        with self._database.write() as session:
            population.turn(session)
            refresh, user = self._claims.enter(session, refresh_id, "activate")
            adapter = _standing(session, adapter_id)
            active = leases.choose(session, user, "active")
            changed = (active.id if active else None) != judged.active_id
            if changed and adapter.state == "candidate":
                now_active = population.label_for(user, active) if active else "the base model"
                refresh.verdict = "reject"
                refresh.reason = adapter.reason = (
                    f"{now_active} became active while the candidate was judged against "
                    "another version: not activated."
                )
                return False
            if pointer.promote(session, adapter_id):
                adapter.reason = judged.verdict.reason
        return True

    def drain(self, user_id: int) -> None:
        """Take the versions that are no longer active off the engines, once unused.

        What long replies still use is left to a later drain.

        Raises:
            EngineUnavailableError, EngineRefusedError: An engine was not reached: run again.
        """
        keep = self._settings.keep_versions
        try:
            self._on_engines(lambda engines: swap.drain(self._database, engines, user_id, keep))
        except swap.AdapterInUseError as error:
            # The gateway's upkeep asks again when the requests have ended.
            log.info("drain left something", user=user_id, reason=str(error))

    def wake(self) -> None:
        """End the window in which engines sleep."""
        self._window.close()

    def succeed(self, refresh_id: str) -> int | None:
        """Close the refresh with its verdict; return the user's id, or None if erased."""
        return self._close(refresh_id, "succeeded")

    def refuse(self, refresh_id: str, reason: str) -> int | None:
        """Close the refresh with the verdict that there is no candidate, and why."""
        return self._close(refresh_id, "succeeded", verdict="reject", reason=reason)

    def cancel(self, refresh_id: str) -> int | None:
        """Close the refresh as cancelled."""
        return self._close(refresh_id, "cancelled")

    def take_back(self, refresh_id: str, reason: str) -> int | None:
        """Close the refresh as cancelled by somebody who left the population."""
        return self._close(refresh_id, "cancelled", reason=reason)

    def fail(self, refresh_id: str, message: str) -> int | None:
        """Close the refresh with what went wrong."""
        return self._close(refresh_id, "failed", error=message)

    def give_up(self, refresh_id: str, message: str) -> None:
        """Close a refresh that nobody works on any more with what is known of it."""
        self._claims.claim([refresh_id])
        self._close(refresh_id, "failed", error=message)

    def clean(self, refresh_id: str) -> None:
        """Delete the refresh's unfinished files."""
        shutil.rmtree(self._workplace.folder(refresh_id), ignore_errors=True)

    def _close(self, refresh_id: str, status: str, **values: str) -> int | None:
        """End a refresh that has not ended yet, its files first: no crash leaves them behind.

        One whose version answers has succeeded, whatever went wrong behind that.
        """
        with self._database.write() as session:
            refresh = session.get(Refresh, refresh_id, with_for_update=True)
            if refresh is not None and refresh.worker != self._claims.worker:
                raise TakenOverError()
            self.clean(refresh_id)
            if refresh is None:
                return None
            if refresh.status in OPEN:
                if status == "failed" and _is_published(session, refresh):
                    log.warning("failed behind its activation", refresh=refresh_id, **values)
                    status, values = "succeeded", {}
                refreshes.close(session, refresh_id, status, **values)
                session.refresh(refresh)
                _note_outcome(session, refresh)
            return refresh.user_id

    def _provenance(self, method: str, prepared: Prepared, dataset: Dataset) -> registry.Provenance:
        return registry.Provenance(
            base_model=self._base_fingerprint,
            method=method,
            parent_id=prepared.parent_id,
            data_fingerprint=dataset.fingerprint,
            settings=asdict(self._hyper.of_method(method)),
            code_version=version("attune"),
        )

    def _place(self, adapter: Adapter, source: Path) -> None:
        placed = adapter_store.place(source, Path(adapter.folder))
        with self._database.write() as session:
            kept = registry.attach_files(session, adapter.id, placed.checksums, placed.size_bytes)
            erased = session.get(Adapter, adapter.id) is None
        if not kept:
            adapter_store.delete(Path(adapter.folder))
            raise UserErasedError() if erased else SharingEndedError()

    def _on_engines(self, action: Callable[[Sequence[Engine]], Awaitable[None]]) -> None:
        async def run() -> None:
            engines = self._connect()
            try:
                await action(engines)
            finally:
                for engine in engines:
                    await engine.close()

        asyncio.run(run())


def _standing(session: Session, adapter_id: int) -> Adapter:
    """Return a version that may still be served.

    Raises:
        SharingEndedError: It was withdrawn.
    """
    adapter = session.get_one(Adapter, adapter_id)
    if adapter.state == "withdrawn":
        raise SharingEndedError()
    return adapter


def _is_published(session: Session, refresh: Refresh) -> bool:
    """Whether the refresh's version became active; it may have been rolled back since."""
    adapter = session.get(Adapter, refresh.adapter_id) if refresh.adapter_id else None
    return adapter is not None and adapter.state in ("active", "retired")


def _note_outcome(session: Session, refresh: Refresh) -> None:
    """Tell the log, and the rule of who is due, how a refresh ended."""
    without_verdict = refresh.status == "failed" or refresh.adapter_id is None
    if refresh.status != "cancelled":
        note = backoff.note_failure if without_verdict else backoff.note_verdict
        note(session, refresh.user_id)
    log.log(
        logging.ERROR if refresh.status == "failed" else logging.INFO,
        "refresh ended",
        refresh=refresh.id,
        user=refresh.user_id,
        status=refresh.status,
        verdict=refresh.verdict,
        reason=refresh.error or refresh.reason,
    )
