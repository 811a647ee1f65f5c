"""The worker: workflows, queues and the schedule of one process, launched and stopped.

Workers share a queue's database; on SQLite there is one, on PostgreSQL as many as wanted.
"""

import logging

import structlog
import torch
from dbos import DBOS

from adapt.refresh import RefreshSteps
from adapt.trainer import Trainer
from adapt.workflow import register
from perce.hyperparameters import Hyperparameters, rate_for_width
from perce.model import hidden_size
from perce.retrieval import Encoder
from perce.tokens import ChatTokenizer
from server.jobs import (
    APP,
    DEFAULT_CRON,
    DEFAULT_MIN_NEW_TEXTS,
    REFRESH_QUEUE,
    SCHEDULE,
    UPKEEP_QUEUE,
    Jobs,
    Schedule,
)
from server.settings import Settings
from server.store.database import Database

log = structlog.get_logger()
# Workflows that an older Attune left unfinished go on under a newer one.
_WORKFLOW_VERSION = "1"


class Worker:
    """Runs refreshes until stopped."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._database = Database(settings.store_url())
        self._jobs = Jobs(settings.queue_url())

    def start(self) -> None:
        """Migrate the store, launch the workflows, and go on with what was interrupted."""
        settings = self._settings
        torch.set_num_threads(settings.train_threads)
        self._database.migrate(settings.home)
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
        tokenizer = ChatTokenizer.load(settings.model)
        steps = RefreshSteps(
            settings,
            self._database,
            Encoder(settings.encoder),
            Trainer(settings.model, tokenizer),
            Hyperparameters(
                max_length=settings.max_length,
                learning_rate=settings.learning_rate or rate_for_width(hidden_size(settings.model)),
            ),
        )
        register(steps, self._jobs)
        DBOS.launch()
        # One refresh at a time: its training fills the device.
        DBOS.register_queue(REFRESH_QUEUE, worker_concurrency=1, polling_interval_sec=0.5)
        DBOS.register_queue(UPKEEP_QUEUE, worker_concurrency=8, polling_interval_sec=0.5)
        if DBOS.get_schedule(SCHEDULE) is None:
            self._jobs.set_schedule(Schedule(DEFAULT_CRON, "UTC", False, DEFAULT_MIN_NEW_TEXTS))
        logging.getLogger("dbos").setLevel(logging.WARNING)
        log.info("worker ready")

    def stop(self) -> None:
        """Stop taking work; what is under way goes on at the next start."""
        DBOS.destroy()
        self._jobs.close()
        self._database.close()
