"""The page: a header that says who chats and whether the engine is ready, and four tabs."""

from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from ui import adapters_tab, chat_tab, memory_tab, schedule_tab
from ui.gateway import Gateway
from ui.login import MESSAGE, Login, is_loopback
from ui.notices import notices
from ui.settings import UiSettings
from ui.subject import Subject, timely
from ui.theme import theme
from ui.transport import GatewayError

HERE = Path(__file__).resolve().parent
STYLE = HERE / "style.css"
TOOLTIP = HERE / "tooltip.js"
STATUS_EVERY_S = 15

BRAND = (
    '<div class="brand"><h1>Attune</h1>'
    "<p>One model, answering each person in their own way</p></div>"
)

Update = dict[str, Any]


class Header:
    """Handlers of the header."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    def status(self) -> str:
        """Whether the engine is ready, and which model it serves."""
        try:
            model = self._gateway.model()
        except GatewayError as error:
            return (
                f'<div class="status waiting" title="{escape(error.message, quote=True)}">'
                f"<i></i>{escape(error.message)}</div>"
            )
        short = model.rstrip("/").rsplit("/", 1)[-1]
        return (
            f'<div class="status ready" title="{escape(model, quote=True)}">'
            f"<i></i>{escape(short)} is ready</div>"
        )

    def personas(self) -> Update:
        """Everyone there is. The choice is left alone: it may change while this is under way."""
        with notices():
            names = sorted(user.name for user in self._gateway.users())
            return dict(gr.update(choices=names))
        return dict(gr.update())


def build(gateway: Gateway, settings: UiSettings) -> gr.Blocks:
    """Lay out the whole page and wire it to a gateway."""
    header = Header(gateway)
    page: gr.Blocks
    with gr.Blocks(title="Attune", analytics_enabled=False, fill_width=True) as page:
        with gr.Row(elem_classes="header", equal_height=True):
            gr.HTML(BRAND, padding=False)
            status = gr.HTML("", elem_id="status", padding=False)
            persona = gr.Dropdown(
                [],
                label="Chat as",
                value=None,
                scale=0,
                min_width=240,
                elem_id="persona",
            )
        picked = gr.State(0)
        subject = gr.State(Subject())
        with gr.Tabs():
            with gr.Tab("Chat", id="chat") as chat:
                chat_handlers = chat_tab.ChatTab(gateway, settings)
                adapter = chat_tab.build(chat_handlers, subject, persona, picked)
            with gr.Tab("Memory", id="memory") as memory:
                memory_handlers = memory_tab.MemoryTab(gateway)
                memory_tab.build(memory_handlers, subject, persona, picked, memory)
            with gr.Tab("Adapters", id="adapters") as adapters:
                adapters_handlers = adapters_tab.AdaptersTab(gateway)
                adapters_tab.build(adapters_handlers, subject, persona, picked, adapters, settings)
            with gr.Tab("Schedule", id="schedule") as schedule:
                schedule_tab.build(schedule_tab.ScheduleTab(gateway), schedule)
        chat.select(
            timely(chat_handlers.adapters),
            [subject, persona, adapter],
            adapter,
            show_progress="hidden",
        )
        # What must not miss a pick listens to a state that each changes. For one listener that asks
        # for the last, Gradio repeats all listeners of a component's event, but of a state's change
        # that one alone; and a conversation must not begin twice.
        persona.change(
            Subject.pick,
            [subject, persona],
            picked,
            trigger_mode="multiple",
            show_progress="hidden",
        )
        timer = gr.Timer(STATUS_EVERY_S)
        gr.on([page.load, timer.tick], header.status, None, status, show_progress="hidden")
        page.load(header.personas, None, persona, show_progress="hidden")
        persona.focus(header.personas, None, persona, show_progress="hidden")
    return page


def serve(settings: UiSettings) -> None:
    """Serve the page until the process is told to stop."""
    with Gateway(settings.gateway_url, settings.key.get_secret_value()) as gateway:
        build(gateway, settings).queue(default_concurrency_limit=32).launch(
            server_name=settings.ui_host,
            server_port=settings.ui_port,
            auth=None if is_loopback(settings.ui_host) else Login(settings.key),
            auth_message=MESSAGE,
            share=False,
            show_error=False,
            ssr_mode=False,
            quiet=True,
            footer_links=[],
            theme=theme(),
            css_paths=STYLE,
            js=TOOLTIP.read_text(encoding="utf-8"),
        )
