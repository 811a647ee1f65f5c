"""The schedule: when due people are refreshed, on their own or now."""

from typing import Any

import gradio as gr

from ui.gateway import Gateway
from ui.notices import notices
from ui.records import Schedule
from ui.schedule_cards import schedule_card, started_card

UNKNOWN = '<div class="card nothing">The schedule cannot be read now.</div>'

Update = dict[str, Any]

Fields = tuple[str, str, float, float, float, float, bool, float]
"""Cron, time zone, least number of new texts, quiet minutes, gap hours, window hours, online
mode, its refreshes an hour."""

Page = tuple[Any, ...]
"""How the schedule stands, the form, its fields, and what the fields were filled with."""

Standing = tuple[str | Update, Update, Update]
"""The card, and the buttons that pause and resume: the one that changes something is there."""

UNCHANGED: Standing = (dict(gr.skip()),) * 3
KEPT: Page = (dict(gr.skip()),) * 13
"""The page as it is."""


class ScheduleTab:
    """Handlers of the schedule."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    def show(self, filled: Fields | None, *typed: str | float | bool | None) -> Page:
        """The schedule as it stands.

        Args:
            filled: What the fields were filled with; None if they never were.
            typed: What is in them now; where that was edited, it stays.
        """
        with notices():
            page = _page(self._gateway.schedule())
            return page if filled in (None, typed) else (*page[:3], *KEPT[3:])
        return KEPT

    def save(
        self,
        cron: str | None,
        timezone: str | None,
        min_new_texts: float | None,
        quiet_minutes: float | None,
        min_gap_hours: float | None,
        window_hours: float | None,
        online: bool,
        online_per_hour: float | None,
    ) -> Page:
        """Change when it runs and who is due; what was typed stays where that is refused."""
        fields: dict[str, str | float | None] = {
            "cron": (cron or "").strip(),
            "timezone": (timezone or "").strip(),
            "min_new_texts": min_new_texts,
            "quiet_minutes": quiet_minutes,
            "min_gap_hours": min_gap_hours,
            "window_hours": window_hours,
            "online": online,
            "online_per_hour": online_per_hour,
        }
        changes = {name: value for name, value in fields.items() if value is not None}
        if len(changes) < len(fields) or "" in changes.values():
            gr.Warning("A field is empty: fill in every one.", title="Not saved")
            return KEPT
        with notices():
            changed = self._gateway.set_schedule(**changes)
            gr.Info("From now on it runs like this.", title="Saved")
            return _page(changed)
        return KEPT

    def pause(self) -> Standing:
        """Run no refreshes until resumed."""
        return self._set_paused(True)

    def resume(self) -> Standing:
        """Run refreshes again."""
        return self._set_paused(False)

    def run_now(self) -> str:
        """Start a round over everyone who is due."""
        with notices():
            return started_card(self._gateway.run_schedule())
        return ""

    def _set_paused(self, paused: bool) -> Standing:
        with notices():
            return _standing(self._gateway.set_schedule(paused=paused))
        return UNCHANGED


def _standing(schedule: Schedule) -> Standing:
    return (
        schedule_card(schedule),
        dict(gr.update(visible=not schedule.paused)),
        dict(gr.update(visible=schedule.paused)),
    )


def _page(schedule: Schedule) -> Page:
    fields: Fields = (
        schedule.cron,
        schedule.timezone,
        schedule.min_new_texts,
        schedule.quiet_minutes,
        schedule.min_gap_hours,
        schedule.window_hours,
        schedule.online,
        schedule.online_per_hour,
    )
    return *_standing(schedule), dict(gr.update(visible=True)), *fields, fields


def build(tab: ScheduleTab, opened: gr.Tab) -> None:
    """Lay out the schedule and wire it."""
    with gr.Row(elem_classes="schedule-layout"):
        with gr.Column(scale=5, min_width=340):
            gr.HTML("<h3>Nightly refresh</h3>", padding=False)
            card = gr.HTML(UNKNOWN, elem_id="schedule", padding=False)
            with gr.Row():
                pause = gr.Button("Pause", elem_id="pause", min_width=100)
                resume = gr.Button("Resume", visible=False, elem_id="resume", min_width=100)
                run = gr.Button("Run now", variant="primary", elem_id="run-now", min_width=100)
            started = gr.HTML("", elem_id="started", padding=False)
        # Empty numbers would read as 0: there is no form before there is something to fill it with.
        with gr.Column(scale=5, min_width=340, visible=False) as form:
            gr.HTML("<h3>Change it</h3>", padding=False)
            cron = gr.Textbox(
                label="Cron",
                info="Minute, hour, day of the month, month, day of the week.",
                placeholder="0 3 * * *",
                elem_id="cron",
            )
            zone = gr.Textbox(label="Time zone", info="Such as Europe/Berlin.", elem_id="zone")
            least = gr.Number(
                label="New texts that make a person due",
                precision=0,
                elem_id="min-new-texts",
            )
            with gr.Row():
                quiet = gr.Number(
                    label="Minutes of quiet",
                    info="Since the last message.",
                    elem_id="quiet-minutes",
                    min_width=120,
                )
                gap = gr.Number(
                    label="Hours between refreshes",
                    info="Of one person.",
                    elem_id="min-gap-hours",
                    min_width=120,
                )
            window = gr.Number(
                label="Window in hours",
                info="What does not fit is carried over to the next night. 0: no end.",
                elem_id="window-hours",
            )
            with gr.Row():
                online = gr.Checkbox(
                    label="Online: refresh also when texts arrive",
                    elem_id="online",
                    min_width=120,
                )
                budget = gr.Number(
                    label="Refreshes an hour, online",
                    precision=0,
                    elem_id="online-per-hour",
                    min_width=120,
                )
            save = gr.Button("Save", variant="primary", elem_id="save-schedule")

    fields = [cron, zone, least, quiet, gap, window, online, budget]
    filled: gr.State = gr.State(None)
    standing = [card, pause, resume]
    page = [*standing, form, *fields, filled]
    opened.select(tab.show, [filled, *fields], page, show_progress="hidden")
    save.click(tab.save, fields, page, show_progress="hidden")
    pause.click(tab.pause, None, standing, show_progress="hidden")
    resume.click(tab.resume, None, standing, show_progress="hidden")
    running = run.click(tab.run_now, None, started, show_progress="hidden")
    running.then(tab.show, [filled, *fields], page, show_progress="hidden")
