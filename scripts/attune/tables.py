"""Results as tables for a terminal."""

import json
from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from scripts.attune.words import plain
from ui.moment import when
from ui.records import Fact, Import, Losses, Refresh, Schedule, User, Version, Versions

STATE_STYLES = {"active": "green", "rejected": "yellow", "candidate": "cyan", "retired": "dim"}
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
            _consent(user),
            when(user.created_at),
        ]
        for user in users
    ]
    return _table(["User", "Facts", "Texts", "Adapter", "Consent", "Since"], rows)


def user_details(user: User) -> RenderableType:
    """One user."""
    rows: list[list[object]] = [
        ["Name", user.name],
        ["Since", when(user.created_at)],
        ["Consent to training", _consent(user)],
        ["Facts", user.facts],
        ["Texts", user.texts],
        ["Active adapter", user.adapter or "none: the base model answers"],
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
    if not refreshes:
        return Text("Nobody is due: nothing was started.")
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
    """All adapter versions of a user."""
    if not versions.data:
        return Text("No version yet: the base model answers.")
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
    return table


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


def schedule_details(schedule: Schedule) -> RenderableType:
    """When due users are refreshed."""
    return _pairs(
        [
            ["Cron", f"{schedule.cron} ({schedule.timezone})"],
            ["State", "paused" if schedule.paused else "active"],
            ["Next run", "none while paused" if schedule.paused else when(schedule.next_run)],
            ["New texts that make a user due", schedule.min_new_texts],
        ]
    )


def _losses(losses: Losses | None) -> str:
    """Base, incumbent and candidate in this order."""
    if losses is None:
        return "-"
    values = (losses.base, losses.incumbent, losses.candidate)
    return "/".join("-" if value is None else f"{value:.3f}" for value in values)


def _consent(user: User) -> str:
    return "yes" if user.consent else "no"


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
