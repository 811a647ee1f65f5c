"""Rounds over due users, durably: the nightly one, its window's end, and the online one.

A round writes its plan down first and then hands fleet after fleet to the queue. Each step
can be done twice and then adds nothing: plan, refreshes and jobs are found by ids that
follow from the round's. A worker that was killed in the middle goes on behind the last
finished step.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import structlog
from dbos import DBOS, StepOptions
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from adapt.patience import patiently
from server import fleets, plans
from server.arrangement import Capacity, arrange
from server.due import due_users, next_due_at
from server.jobs import NIGHTLY_WORKFLOW, ONLINE_WORKFLOW, WINDOW_WORKFLOW, Jobs
from server.pace import measure
from server.refreshes import OPEN
from server.schedule import Schedule
from server.settings import Settings
from server.store.database import Database, take_turn
from server.store.tables.base import now
from server.store.tables.refreshes import Plan, Refresh

log = structlog.get_logger()
# Fleets per step: few enough that a crash repeats little, many enough that steps are cheap.
_FLEETS_AT_ONCE = 50
_ONLINE_LOCK = 0x6F6E6C69  # any number that only online rounds use
_HOUR = timedelta(hours=1)
_MINUTE = timedelta(minutes=1)


class Rounds:
    """The steps of rounds, for one worker process."""

    def __init__(self, settings: Settings, database: Database, jobs: Jobs) -> None:
        self._settings = settings
        self._database = database
        self._jobs = jobs

    def plan(self, run: str, schedule: Schedule) -> tuple[int, int]:
        """Write the round's plan; return its id and how many fleets it has."""
        capacity = Capacity(
            schedule.window_s, self._settings.fleet_size, self._settings.worker_count
        )
        plan_id = plans.make_plan(
            self._database,
            run,
            schedule.rule,
            capacity,
            now(),
            self._settings.replay_share,
            self._settings.population_texts,
        )
        with self._database.read() as session:
            plan, count = session.get_one(Plan, plan_id), plans.fleets(session, plan_id)
        log.info("round planned", run=run, plan=plan_id, **plan.summary)
        if plan.window_until is not None:
            self._jobs.close_window(plan_id, run, plan.window_until)
        return plan_id, count

    def enqueue(self, plan_id: int, first: int, last: int) -> int:
        """Open the refreshes of some fleets and hand them over; return how many users."""
        opened = fleets.open_fleets(self._database, plan_id, first, last)
        for workflow_id, refresh_ids in opened:
            self._jobs.refresh(refresh_ids, workflow_id, "nightly")
        return sum(len(refresh_ids) for _, refresh_ids in opened)

    def carry_over(self, plan_id: int) -> int:
        """Take back some of what has not begun; return how many fleets, 0 once none is left."""
        workflow_ids = fleets.carry_over(self._database, plan_id)
        if workflow_ids:
            self._jobs.withdraw(workflow_ids)
            log.info("carried over", plan=plan_id, fleets=len(workflow_ids))
        return len(workflow_ids)

    def online(self, run: str) -> int:
        """Hold an online round: open as many refreshes as the budget has left.

        The rule is that of the schedule as it stands. Where users have only to wait, or the
        budget is spent, the next round is asked for.

        Returns:
            How many users' refreshes were handed over.
        """
        schedule = self._jobs.schedule()
        if not schedule.online:
            return 0
        at = now()
        with self._database.read() as session:
            due, pace = due_users(session, schedule.rule, at), measure(session)
            waiting = next_due_at(session, schedule.rule, at)
        ranked = [user.user_id for user in arrange(due, pace, Capacity(), at)]
        with self._database.write() as session:
            # Another worker's round would spend the same budget.
            take_turn(session, _ONLINE_LOCK)
            left, spent_until = _budget(session, schedule.online_per_hour, at)
            chosen = _free(session, ranked)[:left]
            fleets.open_refreshes(
                session, [(one, f"{run}-user-{one}") for one in chosen], run, "online"
            )
            # Also those of an attempt that was interrupted.
            opened = session.execute(
                select(Refresh.id, Refresh.workflow_id).where(
                    Refresh.origin == "online",
                    Refresh.status.in_(OPEN),
                    Refresh.workflow_id.startswith(f"{run}-user-"),
                )
            ).all()
        if len(due) > left:
            waiting = spent_until if waiting is None else min(waiting, spent_until)
        if waiting is not None:
            # Never this very round again.
            self._jobs.hold_online_round(max(waiting, at + _MINUTE))
        for refresh_id, workflow_id in opened:
            self._jobs.refresh([refresh_id], workflow_id, "online")
        if opened:
            log.info("online round", run=run, users=len(opened), due=len(due))
        return len(opened)


def _budget(session: Session, per_hour: int, at: datetime) -> tuple[int, datetime]:
    """Return how many refreshes an online round may open, and when it may open more."""
    spent, oldest = session.execute(
        select(func.count(), func.min(Refresh.created_at)).where(
            Refresh.origin == "online", Refresh.created_at > at - _HOUR
        )
    ).one()
    return max(per_hour - spent, 0), (oldest or at) + _HOUR


def _free(session: Session, users: Sequence[int]) -> list[int]:
    """Leave out users who got a refresh since they were found due."""
    busy = set(session.scalars(select(Refresh.user_id).where(Refresh.status.in_(OPEN))))
    return [user for user in users if user not in busy]


def register(rounds: Rounds) -> None:
    """Register the workflows of rounds; must happen before DBOS is launched."""

    @DBOS.workflow(name=NIGHTLY_WORKFLOW)
    def nightly(_scheduled: datetime, context: Any) -> None:  # noqa: ANN401 - DBOS's own shape
        run = DBOS.workflow_id or ""
        schedule = Schedule.from_json(context or {})
        plan_id, count = DBOS.run_step(_patiently("plan"), rounds.plan, run, schedule)
        for first in range(1, count + 1, _FLEETS_AT_ONCE):
            last = min(first + _FLEETS_AT_ONCE - 1, count)
            DBOS.run_step(_patiently("enqueue"), rounds.enqueue, plan_id, first, last)

    @DBOS.workflow(name=WINDOW_WORKFLOW)
    def close_window(plan_id: int) -> None:
        while DBOS.run_step(_patiently("carry over"), rounds.carry_over, plan_id):
            pass

    @DBOS.workflow(name=ONLINE_WORKFLOW)
    def online() -> None:
        DBOS.run_step(_patiently("online"), rounds.online, DBOS.workflow_id or "")


def _patiently(name: str) -> StepOptions:
    """Options of a step that meets a store that is away, or a user who got a refresh meanwhile."""
    return patiently(name, lambda error: True)
