"""The schedule of refreshes: show, set, run now; and the newest plan."""

from datetime import datetime
from typing import Any

from anyio import sleep
from fastapi import APIRouter
from fastapi.concurrency import run_in_threadpool
from sqlalchemy import select
from sqlalchemy.orm import Session

from server import plans
from server.errors import NotFoundError
from server.routes.depends import Admin, Parts
from server.routes.views import refresh_view
from server.schedule import Schedule
from server.schemas import After, PageSize, ScheduleRequest
from server.services import Services
from server.store.tables.base import now
from server.store.tables.refreshes import Plan, Refresh

router = APIRouter(prefix="/v1/schedule")

# How long a run waits for its plan: for 100,000 users it takes seconds. The round itself
# does not need the request to wait.
_PLAN_WAIT_S = 10.0
_SHOWN = 100


@router.get("")
def show(parts: Parts, _admin: Admin) -> dict[str, Any]:
    """Show when due users are refreshed, who is due, and what the newest plan came to."""
    return _schedule_view(parts, parts.jobs.schedule())


@router.put("")
def change(request: ScheduleRequest, parts: Parts, _admin: Admin) -> dict[str, Any]:
    """Change the schedule; what is left out, or null, stays."""
    current = parts.jobs.schedule().to_json()
    changed = Schedule.from_json(current | request.model_dump(exclude_none=True))
    parts.jobs.set_schedule(changed)
    if changed.online and not current["online"]:
        parts.jobs.hold_online_round(now())
    return _schedule_view(parts, changed)


@router.post("/run", status_code=202)
async def run_now(parts: Parts, _admin: Admin) -> dict[str, Any]:
    """Start a round now: its plan, and the first refreshes that it opened."""
    run = await run_in_threadpool(parts.jobs.run_schedule)
    waited = 0.0
    answer = await run_in_threadpool(_round_view, parts, run)
    while not answer["complete"] and waited < _PLAN_WAIT_S:
        await sleep(0.25)
        waited += 0.25
        answer = await run_in_threadpool(_round_view, parts, run)
    return answer


@router.get("/plan")
def show_plan(
    parts: Parts,
    _admin: Admin,
    after: After = 0,
    limit: PageSize = _SHOWN,
) -> dict[str, Any]:
    """Show the newest plan with a part of its entries: those behind the rank `after`."""
    with parts.database.read() as session:
        plan = plans.latest(session)
        if plan is None:
            raise NotFoundError("No plan was made yet: run `attune schedule run-now`.")
        rows = plans.entries(session, plan.id, after, limit)
        return {
            **_plan_view(session, plan),
            "entries": [
                {
                    "rank": entry.rank,
                    "user": name,
                    "fleet": entry.fleet,
                    "expected_s": entry.expected_s,
                    "state": entry.state,
                }
                for entry, name in rows
            ],
        }


def _schedule_view(parts: Services, schedule: Schedule) -> dict[str, Any]:
    following = schedule.next_run()
    with parts.database.read() as session:
        plan = plans.latest(session)
        return {
            **schedule.to_json(),
            "next_run": _iso(following),
            "last_plan": _plan_view(session, plan) if plan else None,
        }


def _plan_view(session: Session, plan: Plan) -> dict[str, Any]:
    return {
        "object": "plan",
        "id": plan.id,
        "run": plan.run,
        "created_at": plan.created_at.isoformat(),
        "window_until": _iso(plan.window_until),
        **plan.summary,
        "states": plans.states(session, plan.id),
    }


def _round_view(parts: Services, run: str) -> dict[str, Any]:
    """Show what a round has come to: complete once the shown part of it was opened."""
    with parts.database.read() as session:
        plan = plans.of_run(session, run)
        if plan is None:
            return {"object": "list", "run": run, "complete": False, "plan": None, "data": []}
        first = plans.entries(session, plan.id, limit=_SHOWN)
        opened = session.scalars(
            select(Refresh).where(
                Refresh.plan_id == plan.id,
                Refresh.user_id.in_([entry.user_id for entry, _ in first]),
            )
        ).all()
        ranks = {entry.user_id: entry.rank for entry, _ in first}
        return {
            "object": "list",
            "run": run,
            "complete": all(entry.state != "planned" for entry, _ in first),
            "plan": _plan_view(session, plan),
            "data": [
                refresh_view(session, row)
                for row in sorted(opened, key=lambda row: ranks[row.user_id])
            ],
        }


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()
