"""The fleets of a plan: their refreshes are opened, or taken back when the window ends.

Like the plan, it is bulk SQL, and all of it can be done again after a crash and then adds
nothing. Which users are a fleet is written in the plan (`server.plans`).
"""

import uuid
from collections.abc import Sequence
from itertools import groupby

from sqlalchemy import insert, select, update
from sqlalchemy.orm import Session

from server import population
from server.refreshes import OPEN, Method, Origin, without_refresh
from server.store.database import ROWS_AT_ONCE, Database
from server.store.tables.base import now
from server.store.tables.people import User
from server.store.tables.refreshes import Plan, PlanEntry, Refresh

_NAMES = uuid.UUID("6f8b6e44-6a0f-4c0c-9c1e-0d1f7b6d3a52")


def open_fleets(
    database: Database, plan_id: int, first: int, last: int, method: Method = "perce"
) -> list[tuple[str, list[str]]]:
    """Record the refreshes of some fleets, and return them by the id of their workflow.

    Users who took back their consent or got another refresh since the plan was made are
    skipped. Doing it again finds the refreshes instead of recording them twice.
    """
    with database.write() as session:
        run = session.get_one(Plan, plan_id).run
        in_range = (PlanEntry.plan_id == plan_id) & PlanEntry.fleet.between(first, last)
        wanted = session.execute(
            select(PlanEntry.user_id, PlanEntry.fleet)
            .join(User, User.id == PlanEntry.user_id)
            .where(
                in_range,
                PlanEntry.state == "planned",
                User.consent | (User.kind == population.KIND),
                without_refresh(),
            )
        ).all()
        open_refreshes(
            session,
            [(user_id, f"{run}-fleet-{fleet}") for user_id, fleet in wanted],
            run,
            "nightly",
            plan_id,
            method,
        )
        ours = (
            select(Refresh.id)
            .where(Refresh.plan_id == plan_id, Refresh.user_id == PlanEntry.user_id)
            .exists()
        )
        planned = in_range & (PlanEntry.state == "planned")
        session.execute(update(PlanEntry).where(planned, ours).values(state="queued"))
        session.execute(update(PlanEntry).where(planned, ~ours).values(state="skipped"))
        opened = session.execute(
            select(Refresh.workflow_id, Refresh.id)
            .join(
                PlanEntry,
                (PlanEntry.user_id == Refresh.user_id) & (PlanEntry.plan_id == Refresh.plan_id),
            )
            .where(in_range, Refresh.status.in_(OPEN))
            .order_by(PlanEntry.rank)
        ).all()
    return [
        (workflow_id, [refresh_id for _, refresh_id in rows])
        for workflow_id, rows in groupby(opened, key=lambda row: row[0])
    ]


def open_refreshes(
    session: Session,
    users: Sequence[tuple[int, str]],
    run: str,
    origin: Origin,
    plan_id: int | None = None,
    method: Method = "perce",
) -> list[str]:
    """Record refreshes of users, given with the ids of their workflows; return their ids.

    The ids follow from the round and the user, so that no round refreshes a user twice.
    """
    rows = [
        {
            "id": str(uuid.uuid5(_NAMES, f"{run}/{user_id}")),
            "user_id": user_id,
            "method": method,
            "workflow_id": workflow_id,
            "origin": origin,
            "plan_id": plan_id,
        }
        for user_id, workflow_id in users
    ]
    if rows:
        session.execute(insert(Refresh), rows)
    return [str(row["id"]) for row in rows]


def carry_over(database: Database, plan_id: int, most: int = ROWS_AT_ONCE) -> list[str]:
    """Take back fleets that have not begun when the window ends; return their workflows.

    Their users come first in the next plan. A fleet that has begun goes on to its end.

    Args:
        database: The store.
        plan_id: Whose window has ended.
        most: Take back so many at once; an empty answer means that none is left.
    """
    with database.write() as session:
        plan = session.get(Plan, plan_id)
        if plan is None:
            return []
        begun = select(Refresh.workflow_id).where(
            Refresh.plan_id == plan_id, Refresh.started_at.is_not(None)
        )
        queued = session.execute(
            select(Refresh.id, Refresh.user_id, Refresh.workflow_id)
            .where(
                Refresh.plan_id == plan_id,
                Refresh.status == "queued",
                Refresh.workflow_id.not_in(begun),
            )
            .limit(most)
            .with_for_update()
        ).all()
        ids, users = [row.id for row in queued], [row.user_id for row in queued]
        session.execute(
            update(Refresh)
            .where(Refresh.id.in_(ids), Refresh.status == "queued")
            .values(
                status="cancelled",
                finished_at=now(),
                reason="The window ended before its turn: it is carried over to the next round.",
            )
        )
        session.execute(
            update(PlanEntry)
            .where(PlanEntry.plan_id == plan_id, PlanEntry.user_id.in_(users))
            .values(state="carried over")
        )
        session.execute(
            update(User)
            .where(User.id.in_(users), User.waiting_since.is_(None))
            .values(waiting_since=plan.created_at)
        )
    return sorted({row.workflow_id for row in queued})
