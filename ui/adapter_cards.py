"""HTML that shows a refresh with its stages and losses, and all versions of a user."""

from collections.abc import Sequence
from html import escape
from typing import get_args

from ui.cards import STATE_NOTES, badge_of, empty_card
from ui.moment import when
from ui.records import Losses, Refresh, Stage, Version
from ui.training import Examples, Progress

STAGE_NAMES = {
    "dataset": "Dataset",
    "train": "Train",
    "gate": "Gate",
    "publish": "Publish",
    "warm": "Warm up",
    "activate": "Activate",
}
MINUS = "\N{MINUS SIGN}"


def refresh_card(refresh: Refresh | None) -> str:
    """Show a refresh as it stands: its stages while it runs, its verdict when it ended."""
    if refresh is None:
        return empty_card("No refresh has run yet.")
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


def versions_table(versions: Sequence[Version]) -> str:
    """Show versions in the order given, with what the gate measured and said of each."""
    if not versions:
        return empty_card("No version yet. Refresh to train the first one.")
    rows = "".join(_version_row(version) for version in versions)
    return (
        '<div class="card"><table class="versions"><tr><th>Version</th><th>State</th>'
        "<th>Method</th><th>From</th><th>Made</th><th>Held-out loss</th><th>Personal words</th>"
        f"<th>Verdict</th></tr>{rows}</table></div>"
    )


def _refresh_head(refresh: Refresh) -> str:
    if refresh.status == "failed":
        badge = badge_of("Failed", "bad")
    elif refresh.status == "cancelled":
        badge = badge_of("Cancelled: nothing was changed", "warn")
    elif not refresh.finished:
        note = "Being cancelled" if refresh.cancel_requested else STATE_NOTES[refresh.status]
        badge = badge_of(note, "busy")
    elif refresh.verdict == "publish":
        badge = badge_of(f"Published {refresh.adapter or ''}".strip(), "good")
    elif refresh.verdict == "reject":
        badge = badge_of("Rejected: the incumbent stays", "warn")
    else:
        badge = badge_of(STATE_NOTES[refresh.status], "plain")
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
        badge_of(version.state, tone),
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
