"""HTML that shows the schedule, the plan of a round and what it started."""

from collections.abc import Sequence
from html import escape

from ui.cards import STATE_NOTES, badge_of, empty_card
from ui.moment import when
from ui.records import Plan, Refresh, Round, Schedule


def schedule_card(schedule: Schedule) -> str:
    """Show when due users are refreshed next, who is due, and what the last plan came to."""
    badge = badge_of("Paused", "warn") if schedule.paused else badge_of("Active", "good")
    next_run = "not while paused" if schedule.paused else when(schedule.next_run)
    texts = "text" if schedule.min_new_texts == 1 else "texts"
    window = f"{schedule.window_hours:g} h" if schedule.window_hours else "no end"
    online = f"at most {schedule.online_per_hour} an hour" if schedule.online else "off"
    plan = "none yet"
    if schedule.last_plan is not None:
        plan = f"{when(schedule.last_plan.created_at)}: {plan_line(schedule.last_plan)}"
    return (
        f'<div class="card schedule">{badge}<dl>'
        f"<dt>Next run</dt><dd>{escape(next_run)}</dd>"
        f"<dt>Cron</dt><dd><code>{escape(schedule.cron)}</code> {escape(schedule.timezone)}</dd>"
        f"<dt>Who is due</dt><dd>anyone with at least {schedule.min_new_texts} new {texts}, quiet "
        f"for {schedule.quiet_minutes:g} min, not refreshed for {schedule.min_gap_hours:g} h</dd>"
        f"<dt>Window</dt><dd>{window}</dd>"
        f"<dt>Online</dt><dd>{online}</dd>"
        f"<dt>Last plan</dt><dd>{escape(plan)}</dd>"
        "</dl></div>"
    )


def started_card(started: Round) -> str:
    """Show what a run of the schedule has planned, and the first refreshes that it queued."""
    if started.plan is None:
        return empty_card("The worker has not planned the round yet: look again in a moment.")
    if not started.plan.due:
        return empty_card("Nobody is due: nothing was started.")
    if started.data:
        opened = _refreshes(started.data)
    elif started.plan.planned:
        opened = '<p class="faint">No refresh is open yet: the worker opens them one by one.</p>'
    else:
        opened = '<p class="faint">No refresh was opened: everybody waits for the next round.</p>'
    return f'<div class="card"><p>{escape(plan_line(started.plan))}</p>{opened}</div>'


def _refreshes(opened: Sequence[Refresh]) -> str:
    rows = "".join(
        f"<tr><td>{escape(refresh.user)}</td><td>{escape(refresh.method)}</td>"
        f"<td>{STATE_NOTES[refresh.status]}</td></tr>"
        for refresh in opened
    )
    return f"<table><tr><th>User</th><th>Method</th><th>State</th></tr>{rows}</table>"


def plan_line(plan: Plan) -> str:
    """Sum a plan up in one line."""
    line = f"{plan.due:,} due, {plan.planned:,} planned"
    if plan.carried_over:
        line += f", {plan.carried_over:,} carried over"
    return f"{line}; expected to take {plan.expected_s / 60:,.0f} min"
