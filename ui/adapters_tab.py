"""The adapters: a person's versions, a refresh with live progress, and the way back."""

from typing import Any

import gradio as gr

from ui.adapter_cards import refresh_card, versions_table
from ui.cards import empty_card
from ui.chat_tab import adapter_choices
from ui.gateway import Gateway
from ui.notices import notices
from ui.records import Method, Refresh, Versions
from ui.settings import UiSettings

METHODS = [("PerCE: weigh personal words", "perce"), ("CE: plain control", "ce")]
UNREAD = "The versions and refreshes cannot be read now."

Update = dict[str, Any]
Page = tuple[str | Update, str | Update, Update, Update, Update, Update, str | None]
"""Versions, newest refresh, choices of rollback, refresh button, timer, cancel button, and whose
they are."""


class AdaptersTab:
    """Handlers of the adapters; while a refresh runs, a timer calls `show` again and again."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    def show(self, name: str | None, chosen: str | None = None, shown: str | None = None) -> Page:
        """Show a persona's versions and how its newest refresh stands.

        Args:
            name: The persona.
            chosen: The version picked for a rollback; it stays picked.
            shown: Whose page is shown now; where it cannot be read anew, the persona's own stays
                and another's goes.
        """
        if not name:
            return _page(name, Versions(), None, chosen)
        with notices():
            newest = next(iter(self._gateway.refreshes(name)), None)
            return _page(name, self._gateway.adapters(name), newest, chosen)
        return _kept(name) if name == shown else _unread(name)

    def refresh(self, name: str | None, method: Method, chosen: str | None = None) -> Page:
        """Start a refresh."""
        if not name:
            gr.Warning("Pick a persona first.", title="Not started")
        else:
            with notices():
                self._gateway.start_refresh(name, method)
        return self.show(name, chosen, name)

    def cancel(self, name: str | None, chosen: str | None = None) -> Page:
        """Cancel the refresh that waits or runs."""
        if name:
            with notices():
                newest = next(iter(self._gateway.refreshes(name)), None)
                if newest is not None and not newest.finished:
                    self._gateway.cancel_refresh(name, newest.id)
        return self.show(name, chosen, name)

    def rollback(self, name: str | None, to: str | None) -> Page:
        """Make another version active."""
        if name and to:
            with notices():
                self._gateway.rollback(name, to)
                gr.Info("The next reply uses it.", title="Rolled back")
        return self.show(name, shown=name)


def _page(
    name: str | None, versions: Versions, refresh: Refresh | None, chosen: str | None
) -> Page:
    running = refresh is not None and not refresh.finished
    stoppable = refresh is not None and running and not refresh.cancel_requested
    choices = rollback_choices(versions)
    kept = chosen if chosen in {value for _, value in choices} else None
    return (
        versions_table(versions.data),
        refresh_card(refresh),
        dict(gr.update(choices=choices, value=kept)),
        dict(gr.update(interactive=not running)),
        dict(gr.update(active=running)),
        dict(gr.update(visible=stoppable)),
        name,
    )


def _kept(name: str) -> Page:
    """The page as it is."""
    skip = dict(gr.skip())
    return skip, skip, skip, skip, skip, skip, name


def _unread(name: str) -> Page:
    """The page of somebody of whom nothing could be read."""
    return empty_card(UNREAD), "", *_page(name, Versions(), None, None)[2:]


def rollback_choices(versions: Versions) -> list[tuple[str, str]]:
    """Everything that may become active and is not: published versions, and none at all."""
    choices = [
        (label, value)
        for label, value in adapter_choices(versions)
        if value not in {"active", "none", versions.active}
    ]
    return [*choices, ("None of their own", "none")] if versions.active else choices


def build(
    tab: AdaptersTab,
    persona: gr.Dropdown,
    picked: gr.State,
    opened: gr.Tab,
    settings: UiSettings,
) -> None:
    """Lay out the adapters and wire them."""
    shown: gr.State = gr.State(None)
    gr.HTML("<h3>Versions</h3>", padding=False)
    table = gr.HTML(versions_table(()), elem_id="versions", padding=False)
    with gr.Row(elem_classes="adapters-layout"):
        with gr.Column(scale=7, min_width=420):
            gr.HTML("<h3>Refresh</h3>", padding=False)
            with gr.Row(equal_height=True):
                method = gr.Radio(
                    METHODS, value="perce", show_label=False, container=False, scale=4
                )
                start = gr.Button(
                    "Refresh now", variant="primary", scale=1, min_width=140, elem_id="refresh"
                )
                stop = gr.Button(
                    "Cancel", visible=False, scale=1, min_width=90, elem_id="cancel-refresh"
                )
            progress = gr.HTML(refresh_card(None), elem_id="progress", padding=False)
        with gr.Column(scale=4, min_width=300):
            gr.HTML("<h3>Roll back</h3>", padding=False)
            to = gr.Dropdown([], label="Version to make active", elem_id="rollback-to")
            back = gr.Button("Roll back", elem_id="rollback")

    timer = gr.Timer(settings.ui_poll_s, active=False)
    page = [table, progress, to, start, timer, stop, shown]
    gr.on(
        [picked.change, opened.select, timer.tick],
        tab.show,
        [persona, to, shown],
        page,
        trigger_mode="always_last",
        show_progress="hidden",
    )
    start.click(tab.refresh, [persona, method, to], page, show_progress="hidden")
    stop.click(tab.cancel, [persona, to], page, show_progress="hidden")
    back.click(tab.rollback, [persona, to], page, show_progress="hidden")
