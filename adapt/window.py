"""The window in which engines sleep, so that training has their GPU for itself.

Opened when a fleet's training starts and closed before its versions are published. Gateways
send nothing to an engine that sleeps (`server.naps`). A worker that dies within a window
leaves a note, by which it, or another worker, wakes the engines.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from datetime import timedelta
from threading import Lock

import structlog
from sqlalchemy import select

from adapt.errors import EngineWindowError
from perce.errors import AttuneError
from server.engine import Engine
from server.errors import EngineRefusedError
from server.naps import LOOK_EVERY_S, end_nap, note_nap
from server.store.database import Database
from server.store.tables.base import now
from server.store.tables.workers import EngineNap, WorkerBeat

log = structlog.get_logger()
_FIRST_GUESS_S = 300.0
_MARGIN_S = 30.0
"""What gate and waking take, on top of the training that is left."""

_UNKNOWN_PATH = 404

Connect = Callable[[], Sequence[Engine]]


class EngineWindow:
    """Lets the engines on training's GPU sleep while it trains.

    Args:
        database: The store, which gateways look at too.
        connect: Makes clients of the engines that share training's GPU.
        worker: This worker's token.
        wanted: Whether engines sleep at all; without, those left asleep are woken all the same.
        make_room: Empties the GPU before the engines take it again.
        notice_s: Seconds that gateways get to notice before the engines sleep.
    """

    def __init__(
        self,
        database: Database,
        connect: Connect,
        worker: str,
        wanted: bool,
        make_room: Callable[[], None],
        notice_s: float = 2 * LOOK_EVERY_S,
    ) -> None:
        self._database = database
        self._connect = connect
        self._worker = worker
        self._wanted = wanted
        self._make_room = make_room
        self._notice_s = notice_s
        # Opening and closing take turns: recovery closes from a thread of its own.
        self._turn = Lock()
        self._open = False
        self._asleep = False

    def open(self) -> None:
        """Put the engines to sleep once their requests are done; they stay asleep until `close`.

        Raises:
            EngineWindowError: An engine was not started so that it can sleep.
            EngineUnavailableError: An engine does not answer.
        """
        with self._turn:
            if self._wanted and not self._open:
                self._put_to_sleep()
                self._open = True

    def _put_to_sleep(self) -> None:
        self.expect(_FIRST_GUESS_S)
        time.sleep(self._notice_s)
        self._asleep = True
        try:
            self._on_engines(lambda engine: engine.sleep())
        except EngineRefusedError as error:
            self._wake_all()
            raise EngineWindowError(
                f"The engine cannot sleep ({error}): start it with --enable-sleep-mode and "
                "VLLM_SERVER_DEV_MODE=1, or set ATTUNE_TRAIN_GPU=shared."
            ) from error
        except AttuneError:
            self._wake_all()
            raise

    def expect(self, seconds: float) -> None:
        """Tell clients that have to wait how long training still takes."""
        if self._wanted:
            until = now() + timedelta(seconds=seconds + _MARGIN_S)
            with self._database.write() as session:
                note_nap(session, self._urls(), self._worker, until)

    def close(self) -> None:
        """Wake the engines that sleep for this worker, or for one that is gone.

        Raises:
            EngineUnavailableError, EngineRefusedError: An engine could not be woken: the next
                call, or `close_forgotten`, tries again.
        """
        with self._turn:
            if self._open:
                self._make_room()
                self._open = False
            self._wake_all()

    def close_forgotten(self) -> None:
        """Wake engines that were left asleep, unless the window is open, opening or closing."""
        if self._turn.acquire(blocking=False):
            try:
                if not self._open:
                    self._wake_all()
            finally:
                self._turn.release()

    def _wake_all(self) -> None:
        """Wake what this worker put to sleep, noted or not, and what one that is gone did."""
        with self._database.read() as session:
            notes = session.execute(select(EngineNap.url, EngineNap.worker)).all()
            others = session.scalars(
                select(WorkerBeat.token).where(WorkerBeat.token != self._worker)
            ).all()
        kept = {url for url, worker in notes if worker in others}
        left = {url for url, worker in notes if worker not in others}
        if self._asleep:
            left.update(url for url in self._urls() if url not in kept)
        if left:
            self._on_engines(lambda engine: self._wake(engine, left))
        self._asleep = False

    async def _wake(self, engine: Engine, left: Collection[str]) -> None:
        if engine.url in left:
            try:
                await engine.wake_up()
            except EngineRefusedError as error:
                # It was not started so that it can sleep, hence it does not.
                if error.status != _UNKNOWN_PATH:
                    raise
            await asyncio.to_thread(self._awake, engine.url)

    def _awake(self, url: str) -> None:
        with self._database.write() as session:
            end_nap(session, url)

    def _urls(self) -> list[str]:
        return [engine.url for engine in self._connect()]

    def _on_engines(self, action: Callable[[Engine], Awaitable[None]]) -> None:
        async def run() -> None:
            engines = self._connect()
            try:
                await asyncio.gather(*map(action, engines))
            finally:
                for engine in engines:
                    await engine.close()

        asyncio.run(run())
