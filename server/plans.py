"""The written plans: one row a round and one a due user, and the refreshes they lead to.

All of it is bulk SQL in short transactions, so that chats go on while a plan for 100,000
users is written, and all of it can be done again after a crash and then adds nothing.
"""

import uuid
from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import groupby
from typing import Any

from sqlalchemy import delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from server.due import DueRule, due_users
from server.pace import Pace, measure
from server.plan import Capacity, Planned, arrange, grouped
from server.refreshes import OPEN, Method, Origin
from server.store.database import Database
from server.store.tables import Plan, PlanEntry, Refresh, User, now

# Rows per transaction: a fraction of a second, so that chats need not wait for their turn.
_CHUNK = 5000
KEPT_PLANS = 30
_NAMES = uuid.UUID("6f8b6e44-6a0f-4c0c-9c1e-0d1f7b6d3a52")


def make_plan(
    database: Database,
    run: str,
    rule: DueRule,
    capacity: Capacity,
    at: datetime,
    replay_share: float = 0.5,
) -> int:
    """Plan a round and write the plan down; return its id.

    Args:
        database: The store.
        run: What identifies the round: a second call for the same one finds its plan.
        rule: Who is due.
        capacity: How much the round can do.
        at: When the round starts.
        replay_share: See `server.pace.Pace`.
    """
    with database.write() as session:
        plan = session.scalar(select(Plan).where(Plan.run == run))
        if plan is not None and plan.summary:
            return plan.id
        if plan is None:
            plan = Plan(run=run, created_at=at)
            session.add(plan)
        if capacity.window_s is not None:
            plan.window_until = at + timedelta(seconds=capacity.window_s)
        session.flush()
        # What an interrupted call wrote.
        session.execute(delete(PlanEntry).where(PlanEntry.plan_id == plan.id))
    with database.read() as session:
        pace = measure(session, replay_share)
        due = due_users(session, rule, at)
    arranged = arrange(due, pace, capacity, at)
    for rows in grouped(enumerate(arranged, start=1), _CHUNK):
        with database.write() as session:
            _write_entries(session, plan.id, rows)
            _note_waiting(session, plan.id, rows, at)
    with database.write() as session:
        session.execute(
            update(Plan)
            .where(Plan.id == plan.id)
            .values(summary=_summary(arranged, rule, capacity, pace))
        )
        _forget_old(session)
    return plan.id


def latest(session: Session) -> Plan | None:
    """Return the newest plan that is written to its end."""
    plans = session.scalars(select(Plan).order_by(Plan.id.desc()).limit(2))
    return next((plan for plan in plans if plan.summary), None)


def of_run(session: Session, run: str) -> Plan | None:
    """Return the plan of a round, once it is written to its end."""
    plan = session.scalar(select(Plan).where(Plan.run == run))
    return plan if plan is not None and plan.summary else None


def entries(
    session: Session, plan_id: int, after: int = 0, limit: int = 100
) -> Sequence[tuple[PlanEntry, str]]:
    """Return a part of a plan's entries in order, each with its user's name."""
    query = (
        select(PlanEntry, User.name)
        .join(User, User.id == PlanEntry.user_id)
        .where(PlanEntry.plan_id == plan_id, PlanEntry.rank > after)
        .order_by(PlanEntry.rank)
        .limit(limit)
    )
    return [(entry, name) for entry, name in session.execute(query)]


def states(session: Session, plan_id: int) -> dict[str, int]:
    """Return how many entries of a plan are in each state."""
    query = (
        select(PlanEntry.state, func.count())
        .where(PlanEntry.plan_id == plan_id)
        .group_by(PlanEntry.state)
    )
    return {state: count for state, count in session.execute(query)}


def fleets(session: Session, plan_id: int) -> int:
    """Return how many fleets a plan has."""
    most = session.scalar(select(func.max(PlanEntry.fleet)).where(PlanEntry.plan_id == plan_id))
    return most or 0


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
                User.consent,
                ~select(Refresh.id)
                .where(Refresh.user_id == User.id, Refresh.status.in_(OPEN))
                .exists(),
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


def carry_over(database: Database, plan_id: int, most: int = _CHUNK) -> list[str]:
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


def _write_entries(session: Session, plan_id: int, rows: Sequence[tuple[int, Planned]]) -> None:
    values = [
        {
            "plan_id": plan_id,
            "rank": rank,
            "user_id": planned.user_id,
            "fleet": planned.fleet,
            "expected_s": planned.expected_s,
            "state": "carried over" if planned.fleet is None else "planned",
        }
        for rank, planned in rows
    ]
    try:
        with session.begin_nested():
            # On the connection: the session would make an object's worth of work of each row.
            session.connection().execute(insert(PlanEntry), values)
    except IntegrityError:
        # Users who were erased since they were found due have no place any more.
        ids = [planned.user_id for _, planned in rows]
        there = set(session.scalars(select(User.id).where(User.id.in_(ids))))
        left = [row for row in values if row["user_id"] in there]
        if left:
            session.connection().execute(insert(PlanEntry), left)


def _note_waiting(
    session: Session, plan_id: int, rows: Sequence[tuple[int, Planned]], at: datetime
) -> None:
    left_out = select(PlanEntry.user_id).where(
        PlanEntry.plan_id == plan_id,
        PlanEntry.rank.between(rows[0][0], rows[-1][0]),
        PlanEntry.state == "carried over",
    )
    session.execute(
        update(User)
        .where(User.id.in_(left_out), User.waiting_since.is_(None))
        .values(waiting_since=at)
        .execution_options(synchronize_session=False)
    )


def _summary(
    arranged: Sequence[Planned], rule: DueRule, capacity: Capacity, pace: Pace
) -> dict[str, Any]:
    planned = [one for one in arranged if one.fleet is not None]
    return {
        "due": len(arranged),
        "planned": len(planned),
        "carried_over": len(arranged) - len(planned),
        "fleets": planned[-1].fleet if planned else 0,
        "expected_s": sum(one.expected_s for one in planned) / capacity.workers,
        "window_s": capacity.window_s,
        "fleet_size": capacity.fleet_size,
        "workers": capacity.workers,
        "tokens_per_s": pace.tokens_per_s,
        "measured_on": pace.measured_on,
        "rule": rule.to_json(),
    }


def _forget_old(session: Session) -> None:
    oldest = session.scalar(
        select(Plan.id).order_by(Plan.id.desc()).offset(KEPT_PLANS - 1).limit(1)
    )
    if oldest is not None:
        session.execute(delete(PlanEntry).where(PlanEntry.plan_id < oldest))
        session.execute(delete(Plan).where(Plan.id < oldest))
