"""The schedule: when due people are refreshed, on their own or now."""

import gradio as gr

from ui.cards import schedule_card, started_card
from ui.gateway import Gateway
from ui.notices import notices
from ui.records import Schedule

UNKNOWN = '<div class="card nothing">The schedule cannot be read now.</div>'

Page = tuple[str, str, str, int]
"""Card, cron, time zone, least number of new texts."""


class ScheduleTab:
    """Handlers of the schedule."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    def show(self) -> Page:
        """The schedule as it stands."""
        with notices():
            return _page(self._gateway.schedule())
        return UNKNOWN, "", "UTC", 1

    def save(self, cron: str, timezone: str, min_new_texts: float) -> Page:
        """Change when it runs and who is due; what was typed stays where that is refused."""
        with notices():
            changed = self._gateway.set_schedule(
                cron=cron.strip(), timezone=timezone.strip(), min_new_texts=int(min_new_texts)
            )
            gr.Info("From now on it runs like this.", title="Saved")
            return _page(changed)
        return self.show()[0], cron, timezone, int(min_new_texts)

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
        """Queue a refresh for everyone who is due."""
        with notices():
            return started_card(self._gateway.run_schedule())
        return ""


def _page(schedule: Schedule) -> Page:
    return (
        schedule_card(schedule),
        schedule.cron,
        schedule.timezone,
        schedule.min_new_texts,
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
            save = gr.Button("Save", variant="primary", elem_id="save-schedule")

    page = [card, cron, zone, least]
    opened.select(tab.show, None, page, show_progress="hidden")
    save.click(tab.save, [cron, zone, least], page, show_progress="hidden")
    pause.click(tab.pause, None, page, show_progress="hidden")
    resume.click(tab.resume, None, page, show_progress="hidden")
    run.click(tab.run_now, None, started, show_progress="hidden")
