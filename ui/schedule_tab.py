"""The schedule: when due people are refreshed, on their own or now."""

import gradio as gr

from ui.gateway import Gateway
from ui.notices import notices
from ui.records import Schedule
from ui.schedule_cards import schedule_card, started_card

UNKNOWN = '<div class="card nothing">The schedule cannot be read now.</div>'

Fields = tuple[str, str, float, float, float, float, bool, float]
"""Cron, time zone, least number of new texts, quiet minutes, gap hours, window hours, online
mode, its refreshes an hour."""

Page = tuple[str, str, str, float, float, float, float, bool, float]
"""The card, and the fields."""

DEFAULTS: Fields = ("", "UTC", 10, 60, 8, 0, False, 20)


class ScheduleTab:
    """Handlers of the schedule."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    def show(self) -> Page:
        """The schedule as it stands."""
        with notices():
            return _page(self._gateway.schedule())
        return UNKNOWN, *DEFAULTS

    def save(
        self,
        cron: str,
        timezone: str,
        min_new_texts: float,
        quiet_minutes: float,
        min_gap_hours: float,
        window_hours: float,
        online: bool,
        online_per_hour: float,
    ) -> Page:
        """Change when it runs and who is due; what was typed stays where that is refused."""
        with notices():
            changed = self._gateway.set_schedule(
                cron=cron.strip(),
                timezone=timezone.strip(),
                min_new_texts=int(min_new_texts),
                quiet_minutes=quiet_minutes,
                min_gap_hours=min_gap_hours,
                window_hours=window_hours,
                online=online,
                online_per_hour=int(online_per_hour),
            )
            gr.Info("From now on it runs like this.", title="Saved")
            return _page(changed)
        typed = (min_new_texts, quiet_minutes, min_gap_hours, window_hours, online, online_per_hour)
        return self.show()[0], cron, timezone, *typed

    def pause(self) -> Page:
        """Run no refreshes until resumed."""
        with notices():
            return _page(self._gateway.set_schedule(paused=True))
        return self.show()

    def resume(self) -> Page:
        """Run refreshes again."""
        with notices():
            return _page(self._gateway.set_schedule(paused=False))
        return self.show()

    def run_now(self) -> str:
        """Start a round over everyone who is due."""
        with notices():
            return started_card(self._gateway.run_schedule())
        return ""


def _page(schedule: Schedule) -> Page:
    return (
        schedule_card(schedule),
        schedule.cron,
        schedule.timezone,
        schedule.min_new_texts,
        schedule.quiet_minutes,
        schedule.min_gap_hours,
        schedule.window_hours,
        schedule.online,
        schedule.online_per_hour,
    )


def build(tab: ScheduleTab, opened: gr.Tab) -> None:
    """Lay out the schedule and wire it."""
    with gr.Row(elem_classes="schedule-layout"):
        with gr.Column(scale=5, min_width=340):
            gr.HTML("<h3>Nightly refresh</h3>", padding=False)
            card = gr.HTML(UNKNOWN, elem_id="schedule", padding=False)
            with gr.Row():
                pause = gr.Button("Pause", elem_id="pause", min_width=100)
                resume = gr.Button("Resume", elem_id="resume", min_width=100)
                run = gr.Button("Run now", variant="primary", elem_id="run-now", min_width=100)
            started = gr.HTML("", elem_id="started", padding=False)
        with gr.Column(scale=5, min_width=340):
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
                value=10,
                minimum=1,
                precision=0,
                elem_id="min-new-texts",
            )
            with gr.Row():
                quiet = gr.Number(
                    label="Minutes of quiet",
                    info="Since the last message.",
                    value=60,
                    minimum=0,
                    elem_id="quiet-minutes",
                    min_width=120,
                )
                gap = gr.Number(
                    label="Hours between refreshes",
                    info="Of one person.",
                    value=8,
                    minimum=0,
                    elem_id="min-gap-hours",
                    min_width=120,
                )
            window = gr.Number(
                label="Window in hours",
                info="What does not fit is carried over to the next night. 0: no end.",
                value=0,
                minimum=0,
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
                    value=20,
                    minimum=1,
                    precision=0,
                    elem_id="online-per-hour",
                    min_width=120,
                )
            save = gr.Button("Save", variant="primary", elem_id="save-schedule")

    fields = [cron, zone, least, quiet, gap, window, online, budget]
    page = [card, *fields]
    opened.select(tab.show, None, page, show_progress="hidden")
    save.click(tab.save, fields, page, show_progress="hidden")
    pause.click(tab.pause, None, page, show_progress="hidden")
    resume.click(tab.resume, None, page, show_progress="hidden")
    run.click(tab.run_now, None, started, show_progress="hidden")
