"""Small pieces of HTML that show one record each: context, import, refresh, schedule.

Everything that comes from the gateway is escaped here; `ui/style.css` says how it looks.
"""

from collections.abc import Sequence
from html import escape
from typing import get_args

from ui.moment import when
from ui.records import (
    ContextItem,
    Examples,
    Import,
    Losses,
    Plan,
    Progress,
    Refresh,
    Round,
    Schedule,
    Stage,
    Version,
)

STAGE_NAMES = {
    "dataset": "Dataset",
    "train": "Train",
    "gate": "Gate",
    "publish": "Publish",
    "warm": "Warm up",
    "activate": "Activate",
    "drain": "Drain",
}

STATE_NOTES = {
    "queued": "Waiting for the worker",
    "running": "Running",
    "succeeded": "Finished",
    "failed": "Failed",
    "cancelled": "Cancelled",
}

SHOWN_ERRORS = 20
MINUS = "\N{MINUS SIGN}"


def context_card(items: Sequence[ContextItem], nothing: str) -> str:
    """Show what of the user is in a prompt: facts, then earlier texts by similarity.

    Args:
        items: The facts and texts.
        nothing: What to say where there are none.
    """
    if not items:
        return _empty(nothing)
    facts = [item for item in items if item.kind == "fact"]
    texts = [item for item in items if item.kind == "text"]
    parts = []
    if facts:
        rows = "".join(f"<li>{escape(item.text)}</li>" for item in facts)
        parts.append(f'<h4>Facts</h4><ul class="facts">{rows}</ul>')
    if texts:
        nearest = sorted(texts, key=lambda item: -(item.score or 0.0))
        rows = "".join(_text_row(item) for item in nearest)
        parts.append(f"<h4>Earlier texts</h4>{rows}")
    return f'<div class="card">{"".join(parts)}</div>'


def fact_row(text: str) -> str:
    """One fact of the memory's list."""
    return f'<div class="fact-row">{escape(text)}</div>'


def import_card(result: Import) -> str:
    """Show what became of an imported file, with the number and reason of each bad line."""
    added = f"<strong>{result.imported}</strong> added"
    known = f"<strong>{result.duplicates}</strong> known already"
    bad = f"<strong>{len(result.errors)}</strong> not understood"
    parts = [f'<p class="counts">{added} · {known} · {bad}</p>']
    if result.errors:
        rows = "".join(
            f"<tr><td>{error.line}</td><td>{escape(error.reason)}</td></tr>"
            for error in result.errors[:SHOWN_ERRORS]
        )
        parts.append(f"<table><tr><th>Line</th><th>Why it was left out</th></tr>{rows}</table>")
    if (more := len(result.errors) - SHOWN_ERRORS) > 0:
        parts.append(f"<p>and {more} more lines.</p>")
    return f'<div class="card">{"".join(parts)}</div>'


def refresh_card(refresh: Refresh | None) -> str:
    """Show a refresh as it stands: its stages while it runs, its verdict when it ended."""
    if refresh is None:
        return _empty("No refresh has run yet.")
    parts = [_refresh_head(refresh)]
    if not refresh.finished:
        parts.append(_stages(refresh))
    if refresh.reason:
        parts.append(f"<p>{escape(refresh.reason)}</p>")
    if refresh.error:
        parts.append(f'<p class="bad">{escape(refresh.error)}</p>')
    if refresh.held_out_loss or refresh.personal_loss:
        parts.append(_loss_table(refresh))
    if refresh.examples is not None:
        parts.append(_examples_line(refresh.examples))
    return f'<div class="card refresh">{"".join(parts)}</div>'


def started_card(started: Round) -> str:
    """Show what a run of the schedule has planned, and the first refreshes that it queued."""
    if started.plan is None:
        return _empty("The worker has not planned the round yet: look again in a moment.")
    if not started.plan.due:
        return _empty("Nobody is due: nothing was started.")
    rows = "".join(
        f"<tr><td>{escape(refresh.user)}</td><td>{escape(refresh.method)}</td>"
        f"<td>{STATE_NOTES[refresh.status]}</td></tr>"
        for refresh in started.data
    )
    return (
        f'<div class="card"><p>{escape(plan_line(started.plan))}</p>'
        "<table><tr><th>User</th><th>Method</th><th>State</th></tr>"
        f"{rows}</table></div>"
    )


def schedule_card(schedule: Schedule) -> str:
    """Show when due users are refreshed next, who is due, and what the last plan came to."""
    badge = _badge("Paused", "warn") if schedule.paused else _badge("Active", "good")
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
        f"for {schedule.quiet_minutes:g} min, last refreshed {schedule.min_gap_hours:g} h ago</dd>"
        f"<dt>Window</dt><dd>{window}</dd>"
        f"<dt>Online</dt><dd>{online}</dd>"
        f"<dt>Last plan</dt><dd>{escape(plan)}</dd>"
        "</dl></div>"
    )


def plan_line(plan: Plan) -> str:
    """Sum a plan up in one line."""
    line = f"{plan.due:,} due, {plan.planned:,} planned"
    if plan.carried_over:
        line += f", {plan.carried_over:,} carried over"
    return f"{line}; expected to take {plan.expected_s / 60:,.0f} min"


def versions_table(versions: Sequence[Version]) -> str:
    """Show all versions of a user, newest first, with what the gate measured and said."""
    if not versions:
        return _empty("No version yet: the base model answers. Refresh to train the first one.")
    rows = "".join(_version_row(version) for version in reversed(versions))
    return (
        '<div class="card wide"><table class="versions"><tr><th>Version</th><th>State</th>'
        "<th>Method</th><th>From</th><th>Made</th><th>Held-out loss</th><th>Personal words</th>"
        f"<th>Verdict</th></tr>{rows}</table></div>"
    )


def _text_row(item: ContextItem) -> str:
    score = max(0.0, min(item.score or 0.0, 1.0))
    label = "" if item.score is None else f"{item.score:.2f}"
    return (
        f'<div class="text-row"><div class="score" title="similarity to the message">'
        f'<span>{label}</span><i style="width:{score:.0%}"></i></div>'
        f"<p>{escape(item.text)}</p></div>"
    )


def _refresh_head(refresh: Refresh) -> str:
    if refresh.status == "failed":
        badge = _badge("Failed", "bad")
    elif refresh.status == "cancelled":
        badge = _badge("Cancelled: nothing was changed", "warn")
    elif refresh.cancel_requested and not refresh.finished:
        badge = _badge("Being cancelled", "busy")
    elif refresh.verdict == "publish":
        badge = _badge(f"Published {refresh.adapter or ''}".strip(), "good")
    elif refresh.verdict == "reject":
        badge = _badge("Rejected: the incumbent stays", "warn")
    else:
        badge = _badge(STATE_NOTES[refresh.status], "busy")
    took = f" · {refresh.seconds:.0f} s" if refresh.seconds is not None else ""
    return (
        f'<p class="head">{badge}<span class="faint">{escape(refresh.method)} · '
        f"{escape(when(refresh.created_at))}{took}</span></p>"
    )


def _stages(refresh: Refresh) -> str:
    """The stages as a row of steps, with the progress of the one that runs."""
    order = get_args(Stage)
    at = order.index(refresh.stage) if refresh.stage in order else -1
    steps = []
    for place, stage in enumerate(order):
        state = "done" if place < at else "now" if place == at else "later"
        steps.append(f'<li class="{state}">{STAGE_NAMES[stage]}</li>')
    return f'<ol class="stages">{"".join(steps)}</ol>{_bar(refresh.progress)}'


def _bar(progress: Progress | None) -> str:
    """How much of the running stage is done, where it counts its steps."""
    if progress is None or progress.steps <= 0:
        return ""
    share = min(100.0, 100.0 * progress.step / progress.steps)
    return (
        f'<div class="bar" role="progressbar" aria-valuenow="{share:.0f}" aria-valuemin="0" '
        f'aria-valuemax="100"><i style="width:{share:.1f}%"></i></div>'
        f'<span class="faint">{_pace(progress)}</span>'
    )


def _pace(progress: Progress) -> str:
    """Steps done, tokens per second and the time left, as far as they are known."""
    parts = [f"step {progress.step} of {progress.steps}"]
    if progress.tokens_per_s is not None:
        parts.append(f"{progress.tokens_per_s:,.0f} tokens/s")
    if progress.seconds_left is not None:
        parts.append(f"{progress.seconds_left:.0f} s left")
    return " · ".join(parts)


def _examples_line(examples: Examples) -> str:
    """What was learnt from, and why other texts were not."""
    said = f"Learnt from {examples.train} texts"
    if examples.replayed:
        said += f", {examples.replayed} of them again"
    said += f", judged on {examples.held_out}."
    if examples.left_out_in_words:
        said += f" Left out: {examples.left_out_in_words}."
    return f'<p class="faint">{escape(said)}</p>'


def _loss_table(refresh: Refresh) -> str:
    rows = [
        _loss_row("Held-out texts", refresh.held_out_loss),
        _loss_row("Their personal words", refresh.personal_loss),
    ]
    return (
        "<table><tr><th>Loss per token</th><th>Base</th><th>Incumbent</th><th>Candidate</th>"
        f"<th>Against base</th></tr>{''.join(rows)}</table>"
    )


def _loss_row(name: str, losses: Losses | None) -> str:
    if losses is None:
        return ""
    cells = [_number(losses.base), _number(losses.incumbent), _number(losses.candidate)]
    return f"<tr><td>{name}</td>{_cells([*cells, _change(losses)])}</tr>"


def _version_row(version: Version) -> str:
    tone = {"active": "good", "rejected": "warn", "candidate": "busy"}.get(version.state, "plain")
    metrics = version.metrics or {}
    cells = [
        f"<strong>{escape(version.version)}</strong>",
        _badge(version.state, tone),
        escape(version.method or "—"),
        escape(version.parent or "base"),
        escape(when(version.created_at)),
        _metric(metrics, "held_out_loss"),
        _metric(metrics, "personal_loss"),
        escape(version.reason or "—"),
    ]
    return f"<tr>{_cells(cells)}</tr>"


def _metric(metrics: dict[str, object], name: str) -> str:
    if not isinstance(metrics.get(name), dict):
        return "—"
    losses = Losses.model_validate(metrics[name])
    change = f'<span class="faint">{_change(losses)}</span>'
    return f"{_number(losses.base)} → {_number(losses.candidate)} {change}"


def _cells(values: Sequence[str]) -> str:
    return "".join(f"<td>{value}</td>" for value in values)


def _number(value: float | None) -> str:
    return "—" if value is None else f"{value:.3f}"


def _change(losses: Losses) -> str:
    """The candidate's loss against the base's, in percent; a minus sign is an improvement."""
    if not losses.base or losses.candidate is None:
        return "—"
    return f"{100 * (losses.candidate / losses.base - 1):+.1f} %".replace("-", MINUS)


def _badge(text: str, tone: str) -> str:
    return f'<span class="badge {tone}">{escape(text)}</span>'


def _empty(text: str) -> str:
    return f'<div class="card nothing">{escape(text)}</div>'
