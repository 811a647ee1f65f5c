"""The written plans: one row a round and one a due user.

All of it is bulk SQL in short transactions, so that chats go on while a plan for 100,000
users is written, and all of it can be done again after a crash and then adds nothing. The
refreshes that a plan leads to are `server.fleets`.
"""

import json
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Double,
    FromClause,
    Integer,
    Text,
    case,
    cast,
    delete,
    func,
    insert,
    literal,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Session

from server.arrangement import Capacity, Planned, arrange, grouped
from server.due import DueRule, due_users, population_due
from server.pace import Pace, measure
from server.store.database import ROWS_AT_ONCE, Database
from server.store.tables.people import User
from server.store.tables.refreshes import Plan, PlanEntry

KEPT_PLANS = 30


def make_plan(
    database: Database,
    run: str,
    rule: DueRule,
    capacity: Capacity,
    at: datetime,
    replay_share: float = 0.5,
    population_texts: int = 2000,
) -> int:
    """Plan a round and write the plan down; return its id.

    Args:
        database: The store.
        run: What identifies the round: a second call for the same one finds its plan.
        rule: Who is due.
        capacity: How much the round can do.
        at: When the round starts.
        replay_share: See `server.pace.Pace`.
        population_texts: Most texts that the population's adapter is trained on.
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
    with database.write() as session:
        shared = population_due(session, rule, at, population_texts)
    arranged = arrange(due if shared is None else [*due, shared], pace, capacity, at)
    for rows in grouped(enumerate(arranged, start=1), ROWS_AT_ONCE):
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


def _write_entries(session: Session, plan_id: int, rows: Sequence[tuple[int, Planned]]) -> None:
    """Write entries by one statement; users who were erased since they were due get none."""
    row = _as_rows(session, rows)
    source = (
        select(
            literal(plan_id),
            row.c.rank,
            row.c.user_id,
            row.c.fleet,
            row.c.expected_s,
            case((row.c.fleet.is_(None), "carried over"), else_="planned"),
        )
        .select_from(row)
        .join(User, User.id == row.c.user_id)
    )
    names = ["plan_id", "rank", "user_id", "fleet", "expected_s", "state"]
    session.execute(insert(PlanEntry).from_select(names, source))


def _as_rows(session: Session, rows: Sequence[tuple[int, Planned]]) -> FromClause:
    """Planned users as a table in SQL, sent as one value: a parameter a row takes seconds."""
    table = [(rank, one.user_id, one.fleet, one.expected_s) for rank, one in rows]
    sent = literal(json.dumps(table), Text)
    cells: list[ColumnElement[Any]]
    if session.get_bind().dialect.name == "postgresql":
        value = func.jsonb_array_elements(cast(sent, JSONB)).table_valued("value").c.value
        cells = [value.op("->>")(at) for at in range(4)]
    else:
        value = func.json_each(sent).table_valued("value").c.value
        cells = [func.json_extract(value, f"$[{at}]") for at in range(4)]
    rank, user_id, fleet, expected_s = cells
    return select(
        cast(rank, Integer).label("rank"),
        cast(user_id, Integer).label("user_id"),
        cast(fleet, Integer).label("fleet"),
        cast(expected_s, Double).label("expected_s"),
    ).subquery()


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
