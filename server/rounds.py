"""How a round of refreshes stands: users done, tokens per second, time left.

A round is a plan whose refreshes were opened; which users it holds is `server.arrangement`'s
decision.
"""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, case, func, select
from sqlalchemy.orm import Session

from server.refreshes import OPEN
from server.store.tables.base import now
from server.store.tables.refreshes import PlanEntry, Refresh


@dataclass(frozen=True, slots=True)
class RoundProgress:
    """How far a round is.

    Attributes:
        plan_id: The plan.
        started_at: When its first refresh started; None before that.
        users: Users whose refreshes were opened.
        done: Those whose refresh has ended, in whichever way.
        published: Those of them who got a new version.
        rejected: Those whose candidate was no better.
        failed: Those whose refresh failed.
        cancelled: Those whose refresh was cancelled.
        running: Users who are trained now.
        tokens_per_s: Of all workers together; None while none trains.
        seconds_left: For those not done, at the pace so far; None once all are.
    """

    plan_id: int
    started_at: datetime | None
    users: int
    done: int
    published: int
    rejected: int
    failed: int
    cancelled: int
    running: int
    tokens_per_s: float | None
    seconds_left: float | None


def round_progress(session: Session, plan_id: int, at: datetime | None = None) -> RoundProgress:
    """Add up how a plan's refreshes stand: one indexed query."""
    is_open = Refresh.status.in_(OPEN)
    # A verdict is known before what it decides is done.
    succeeded = Refresh.status == "succeeded"
    running = Refresh.status == "running"
    row = session.execute(
        select(
            func.count(Refresh.id).label("users"),
            func.sum(_one_if(~is_open)).label("done"),
            func.sum(_one_if(succeeded & (Refresh.verdict == "publish"))).label("published"),
            func.sum(_one_if(succeeded & (Refresh.verdict == "reject"))).label("rejected"),
            func.sum(_one_if(Refresh.status == "failed")).label("failed"),
            func.sum(_one_if(Refresh.status == "cancelled")).label("cancelled"),
            func.sum(_one_if(running)).label("running"),
            func.sum(case((running, Refresh.tokens_per_s))).label("tokens_per_s"),
            func.sum(case((is_open, PlanEntry.expected_s), else_=0.0)).label("expected_left"),
            func.sum(case((~is_open, PlanEntry.expected_s), else_=0.0)).label("expected_done"),
            func.min(Refresh.started_at).label("started_at"),
        )
        .select_from(Refresh)
        .outerjoin(
            PlanEntry,
            (PlanEntry.plan_id == Refresh.plan_id) & (PlanEntry.user_id == Refresh.user_id),
        )
        .where(Refresh.plan_id == plan_id)
    ).one()
    elapsed = None
    if row.started_at is not None:
        elapsed = ((at or now()) - row.started_at).total_seconds()
    return RoundProgress(
        plan_id=plan_id,
        started_at=row.started_at,
        users=row.users,
        done=row.done or 0,
        published=row.published or 0,
        rejected=row.rejected or 0,
        failed=row.failed or 0,
        cancelled=row.cancelled or 0,
        running=row.running or 0,
        tokens_per_s=row.tokens_per_s,
        seconds_left=_left(row.expected_left or 0.0, row.expected_done or 0.0, elapsed),
    )


def _one_if(condition: ColumnElement[bool]) -> ColumnElement[int]:
    return case((condition, 1), else_=0)


def _left(expected_left: float, expected_done: float, elapsed: float | None) -> float | None:
    """What is left of what was expected, at the pace that the round has kept so far."""
    if expected_left == 0:
        return None
    if expected_done == 0 or not elapsed:
        return expected_left
    return expected_left * elapsed / expected_done
