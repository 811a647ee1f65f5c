"""Results as tables for a terminal."""

import json
from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from scripts.attune.words import plain
from ui.moment import when
from ui.records import (
    Fact,
    Finding,
    Import,
    Losses,
    Plan,
    Refresh,
    Round,
    Schedule,
    User,
    Version,
    Versions,
    WrittenPlan,
)

STATE_STYLES = {
    "active": "green",
    "rejected": "yellow",
    "candidate": "cyan",
    "retired": "dim",
    "erased": "dim strike",
    "withdrawn": "dim strike",
}
VERDICT_STYLES = {"publish": "green", "reject": "yellow"}


def user_table(users: Sequence[User]) -> RenderableType:
    """All users with what is kept of each."""
    if not users:
        return Text("No users yet: add one with `attune users add NAME`.")
    rows = [
        [
            user.name,
            user.facts,
            user.texts,
            user.adapter or "-",
            _yes(user.consent),
            _yes(user.shares),
            when(user.created_at),
        ]
        for user in users
    ]
    return _table(["User", "Facts", "Texts", "Adapter", "Consent", "Shares", "Since"], rows)


def user_details(user: User) -> RenderableType:
    """One user."""
    rows: list[list[object]] = [
        ["Name", user.name],
        ["Since", when(user.created_at)],
        ["Consent to training", _yes(user.consent)],
        ["Shares texts with all", _yes(user.shares)],
        ["Facts", user.facts],
        ["Texts", user.texts],
        ["Active adapter", user.adapter or "none of their own"],
    ]
    if user.key:
        rows.append(["Key, shown only now", user.key])
    return _pairs(rows)


def fact_table(facts: Sequence[Fact]) -> RenderableType:
    """A user's facts with the numbers by which they are removed."""
    if not facts:
        return Text("No facts yet.")
    return _table(["Id", "Fact"], [[fact.id, fact.text] for fact in facts])


def import_summary(result: Import) -> RenderableType:
    """What became of an import's lines, and each bad line with its reason."""
    counts = Text(
        f"{result.imported} added, {result.duplicates} known already, "
        f"{len(result.errors)} not understood."
    )
    if not result.errors:
        return counts
    rows = [[error.line, error.reason] for error in result.errors]
    return Group(counts, _table(["Line", "Why it was left out"], rows))


def refresh_table(refreshes: Sequence[Refresh]) -> RenderableType:
    """Refreshes, with losses of base, incumbent and candidate where they were gated."""
    table = _empty_table(
        ["User", "Method", "Status", "Verdict", "Adapter", "Held-out", "Personal", "Time"]
    )
    for refresh in refreshes:
        verdict = Text(refresh.verdict or "-", style=VERDICT_STYLES.get(refresh.verdict or "", ""))
        table.add_row(
            plain(refresh.user),
            plain(refresh.method),
            plain(refresh.status),
            verdict,
            plain(refresh.adapter or "-"),
            _losses(refresh.held_out_loss),
            _losses(refresh.personal_loss),
            "-" if refresh.seconds is None else f"{refresh.seconds:.1f} s",
        )
    said = [
        plain(f"{refresh.user}: {refresh.error or refresh.reason}")
        for refresh in refreshes
        if refresh.error or refresh.reason
    ]
    key = Text("Losses per token: base / incumbent / candidate", style="dim")
    return Group(table, key, *said)


def version_table(versions: Versions) -> RenderableType:
    """All adapter versions of a user, and what answers where none of them does."""
    answers = f"{versions.answers or 'the base model'} answers."
    if not versions.data:
        return Text(f"No version yet: {answers}")
    table = _empty_table(["Version", "State", "Method", "From", "Made", "Verdict"])
    for version in versions.data:
        table.add_row(
            plain(version.version),
            Text(version.state, style=STATE_STYLES[version.state]),
            plain(version.method or "-"),
            plain(version.parent or "base"),
            plain(when(version.created_at)),
            plain(version.reason or "-"),
        )
    return table if versions.active else Group(table, Text(f"None is active: {answers}"))


def version_details(version: Version) -> RenderableType:
    """One adapter version with everything that was measured."""
    rows: list[list[object]] = [
        ["Version", version.version],
        ["Name at the engine", version.name],
        ["State", version.state],
        ["Method", version.method or "-"],
        ["Trained from", version.parent or "base"],
        ["Made", when(version.created_at)],
        ["Verdict", version.reason or "-"],
    ]
    rows += [[name, json.dumps(value)] for name, value in (version.metrics or {}).items()]
    return _pairs(rows)


def finding_table(findings: Sequence[Finding], users: int, versions: int) -> RenderableType:
    """What a check of adapters found, and what to do about each finding."""
    checked = f"{versions} versions of {users} users checked: "
    if not findings:
        return Text(f"{checked}everything is in order.", style="green")
    table = _empty_table(["User", "Version", "Problem", "What is wrong", "What to do"])
    for finding in findings:
        table.add_row(
            plain(finding.user or "-"),
            plain(finding.version or "-"),
            plain(finding.problem),
            plain(f"{finding.detail} ({finding.path})"),
            plain("Removed." if finding.repaired else finding.advice),
        )
    left = sum(not finding.repaired for finding in findings)
    outcome = f"{left} findings." if left else "all findings were repaired."
    return Group(table, Text(), Text(f"{checked}{outcome}", style="red" if left else "green"))


def schedule_details(schedule: Schedule) -> RenderableType:
    """When due users are refreshed, who is due, and what the last plan came to."""
    rows: list[list[object]] = [
        ["Cron", f"{schedule.cron} ({schedule.timezone})"],
        ["State", "paused" if schedule.paused else "active"],
        ["Next run", "none while paused" if schedule.paused else when(schedule.next_run)],
        ["New texts that make a user due", schedule.min_new_texts],
        ["Minutes since the last message", f"{schedule.quiet_minutes:g}"],
        ["Hours since the last refresh", f"{schedule.min_gap_hours:g}"],
        ["Window", f"{schedule.window_hours:g} h" if schedule.window_hours else "no end"],
        ["Online", f"{schedule.online_per_hour} an hour" if schedule.online else "off"],
    ]
    if schedule.last_plan is not None:
        rows += [
            ["Last plan", when(schedule.last_plan.created_at)],
            *_plan_rows(schedule.last_plan),
        ]
    return _pairs(rows)


def plan_table(plan: WrittenPlan) -> RenderableType:
    """A plan's sums, and the first of its entries in their order."""
    table = _empty_table(["Rank", "User", "Fleet", "Expected", "State"])
    for entry in plan.entries:
        table.add_row(
            str(entry.rank),
            plain(entry.user),
            str(entry.fleet or "-"),
            f"{entry.expected_s:.0f} s",
            plain(entry.state),
        )
    return Group(_pairs([["Made", when(plan.created_at)], *_plan_rows(plan)]), Text(), table)


def round_table(started: Round) -> RenderableType:
    """A round that was started: its plan, and the first refreshes that it opened."""
    if started.plan is None:
        return Text("The round is queued; the worker has not planned it yet.", style="yellow")
    if not started.plan.due:
        return Text("Nobody is due: nothing was started.")
    opened = refresh_table(started.data) if started.data else Text("No refresh is open yet.")
    return Group(_pairs(_plan_rows(started.plan)), Text(), opened)


def _plan_rows(plan: Plan) -> list[list[object]]:
    measured = f"measured on {plan.measured_on} refreshes" if plan.measured_on else "a default"
    rows: list[list[object]] = [
        ["Due", plan.due],
        ["Planned", f"{plan.planned} in {plan.fleets} fleets"],
        ["Carried over", plan.carried_over],
        ["Expected to take", f"{plan.expected_s / 60:.0f} min (pace: {measured})"],
    ]
    if plan.window_until is not None:
        rows.append(["Window ends", when(plan.window_until)])
    return rows


def _losses(losses: Losses | None) -> str:
    """Base, incumbent and candidate in this order."""
    if losses is None:
        return "-"
    values = (losses.base, losses.incumbent, losses.candidate)
    return "/".join("-" if value is None else f"{value:.3f}" for value in values)


def _yes(allowed: bool) -> str:
    return "yes" if allowed else "no"


def _table(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> Table:
    table = _empty_table(headers)
    for row in rows:
        table.add_row(*(plain(cell) for cell in row))
    return table


def _empty_table(headers: Sequence[str]) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for header in headers:
        table.add_column(header, overflow="fold")
    return table


def _pairs(rows: Sequence[Sequence[object]]) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(str(name), plain(value))
    return table
