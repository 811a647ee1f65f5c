"""The worker: workflows, queues and the schedule of one process, launched and stopped.

Workers share a queue's database; on SQLite there is one, on PostgreSQL as many as wanted, each
with a name of its own. All of them need the same `home`: what one began another finishes.
"""

import logging
import os
from collections.abc import Sequence
from functools import partial

import structlog
import torch
from dbos import DBOS

from adapt import nightly, workflow
from adapt.claims import Claims
from adapt.device import choose_placement
from adapt.gate import judge
from adapt.heartbeat import BEATS_PER_LEASE, Heartbeat, Watch
from adapt.recovery import Recovery
from adapt.refresh import CandidateSteps, Workplace
from adapt.rollout import RolloutSteps
from adapt.thresholds import GateThresholds
from adapt.trainer import Trainer
from adapt.training import TrainingSteps
from adapt.window import EngineWindow
from perce.hyperparameters import Hyperparameters, rate_for_width
from perce.model import hidden_size
from perce.retrieval import Encoder, encoder_fingerprint
from perce.tokens import ChatTokenizer
from server.engine import Engine, connect_engines
from server.jobs import APP, REFRESH_QUEUE, SCHEDULE, UPKEEP_QUEUE, Jobs
from server.schedule import Schedule
from server.settings import Settings
from server.store import encoders
from server.store.database import Database

log = structlog.get_logger()
# Workflows that an older Attune left unfinished go on under a newer one.
_WORKFLOW_VERSION = "1"
_TAKEN_OVER = 75
"""Exit status of a worker that ends because its work is somebody else's: start it again."""


class Worker:
    """Runs refreshes until stopped."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._database = Database(settings.store_url())
        self._jobs = Jobs(settings.queue_url())
        self._heartbeat = Heartbeat(
            self._database, settings.worker_id, settings.worker_lease_s, _end_process
        )
        self._recovery: Recovery | None = None

    def start(self) -> None:
        """Migrate the store, launch the workflows, and go on with what was interrupted.

        Raises:
            PlacementError: Training cannot run where the settings put it.
            WorkerNameTakenError: Another worker runs under this one's name.
        """
        settings = self._settings
        placement = choose_placement(settings, torch.cuda.device_count())
        placement.apply()
        self._database.migrate(settings.home)
        encoders.take_over(self._database, encoder_fingerprint(settings.encoder))
        self._heartbeat.start()
        DBOS(
            config={
                "name": APP,
                "system_database_url": settings.queue_url(),
                "application_version": _WORKFLOW_VERSION,
                "executor_id": settings.worker_id,
                "scheduler_polling_interval_sec": 5.0,
                "console_log_level": "WARNING",
            }
        )
        trainer = Trainer(
            settings.model,
            ChatTokenizer.load(settings.model),
            device=placement.device,
            max_rank=settings.engine_max_rank,
        )
        window = EngineWindow(
            self._database,
            self._sleeping_engines,
            self._heartbeat.token,
            wanted=placement.mode == "window",
            make_room=trainer.release,
        )
        rollout = self._register(trainer, window)
        nightly.register(nightly.Rounds(settings, self._database, self._jobs))
        DBOS.launch()
        # One fleet at a time: its training fills the device.
        DBOS.register_queue(REFRESH_QUEUE, worker_concurrency=1, polling_interval_sec=0.5)
        DBOS.register_queue(UPKEEP_QUEUE, worker_concurrency=8, polling_interval_sec=0.5)
        if DBOS.get_schedule(SCHEDULE) is None:
            self._jobs.set_schedule(Schedule())
        self._recovery = Recovery(
            Watch(self._database, self._heartbeat),
            self._database,
            Workplace(settings.home, self._heartbeat.token).root,
            self._jobs.refresh,
            rollout.give_up,
            chores=[window.close_forgotten],
            every_s=settings.worker_lease_s / BEATS_PER_LEASE,
        )
        self._recovery.start()
        logging.getLogger("dbos").setLevel(logging.WARNING)
        log.info("worker ready", worker=self._heartbeat.token, device=placement.device)

    def stop(self) -> None:
        """Stop taking work; what is under way goes on at the next start, or elsewhere."""
        if self._recovery is not None:
            self._recovery.stop()
        DBOS.destroy()
        self._heartbeat.stop()
        self._jobs.close()
        self._database.close()

    def _register(self, trainer: Trainer, window: EngineWindow) -> RolloutSteps:
        """Register the workflows of refreshes; return the steps that close them."""
        settings = self._settings
        claims = Claims(self._database, self._heartbeat.token)
        hyper = Hyperparameters(
            max_length=settings.max_length,
            learning_rate=settings.learning_rate or rate_for_width(hidden_size(settings.model)),
        )
        workplace = Workplace(settings.home, claims.worker)
        candidate = CandidateSteps(
            settings,
            self._database,
            Encoder(settings.encoder),
            trainer,
            hyper,
            partial(judge, thresholds=_thresholds(settings)),
            claims,
            window,
        )
        training = TrainingSteps(self._database, trainer, hyper, claims, window, workplace)
        rollout = RolloutSteps(
            settings,
            self._database,
            hyper,
            trainer.base_fingerprint,
            claims,
            window,
            partial(connect_engines, settings),
        )
        workflow.register(workflow.Steps(claims, candidate, training, rollout, self._jobs))
        return rollout

    def _sleeping_engines(self) -> Sequence[Engine]:
        """Make clients of the engines that share training's GPU."""
        urls = self._settings.sleeping_engine_urls or self._settings.engine_urls
        return connect_engines(self._settings.model_copy(update={"engine_urls": urls}))


def _thresholds(settings: Settings) -> GateThresholds:
    return GateThresholds(
        tolerance=settings.gate_tolerance,
        general_tolerance=settings.gate_general_tolerance,
        word_order=settings.gate_word_order,
        confidence=settings.gate_confidence,
    )


def _end_process(why: str) -> None:
    """End at once, in the middle of everything: what this process would do next is not its own."""
    log.critical("worker ends", reason=why)
    os._exit(_TAKEN_OVER)
