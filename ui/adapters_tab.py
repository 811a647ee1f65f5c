"""The adapters: a person's versions, a refresh with live progress, and the way back."""

from typing import Any

import gradio as gr

from ui.adapter_cards import refresh_card, versions_table
from ui.adapter_choices import rollback_choices
from ui.cards import NOBODY, empty_card, trouble_card
from ui.gateway import Gateway
from ui.notices import notices
from ui.records import Method, Refresh, Versions
from ui.settings import UiSettings
from ui.subject import timely
from ui.transport import GatewayError

METHODS = [("PerCE: weigh personal words", "perce"), ("CE: plain control", "ce")]
UNREAD = "The versions and refreshes cannot be read now."
OUTDATED = "This may be out of date."

Update = dict[str, Any]
Page = tuple[str | Update, str | Update, Update, Update, Update, Update, Update, str | None]
"""Versions, newest refresh, choices of rollback, refresh button, timer, cancel button, why they
cannot be read anew, and whose they are."""


class AdaptersTab:
    """Handlers of the adapters.

    While a refresh runs, or the gateway cannot be asked, a timer calls `show` again and again.
    """

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    def show(self, name: str | None, chosen: str | None = None, shown: str | None = None) -> Page:
        """Show a persona's versions and how its newest refresh stands.

        Args:
            name: The persona.
            chosen: The version picked for a rollback; it stays picked.
            shown: Whose page is shown now; where it cannot be read anew, the persona's own stays
                and another's goes. The page says so, and the timer tries again.
        """
        if not name:
            return _nothing(name, NOBODY)
        try:
            newest = next(iter(self._gateway.refreshes(name)), None)
            return _page(name, self._gateway.adapters(name), newest, chosen)
        except GatewayError as error:
            if name == shown:
                return _troubled(_kept(name), f"{OUTDATED} {error.message}")
            return _troubled(_nothing(name, UNREAD), error.message)

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
        if not name or not to:
            missing = "Pick a persona first." if not name else "Pick a version first."
            gr.Warning(missing, title="Not rolled back")
        else:
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
        dict(gr.update(visible=False)),
        name,
    )


def _kept(name: str) -> Page:
    """The page as it is."""
    skip = dict(gr.skip())
    return skip, skip, skip, skip, skip, skip, skip, name


def _troubled(page: Page, why: str) -> Page:
    """A page that says why it is no newer; a notice of each look that fails would pile up."""
    table, progress, to, start, _, stop, _, name = page
    look = dict(gr.update(active=True))
    reason = dict(gr.update(value=trouble_card(why), visible=True))
    return table, progress, to, start, look, stop, reason, name


def _nothing(name: str | None, why: str) -> Page:
    """The page of somebody of whom there is nothing to show."""
    return empty_card(why), "", *_page(name, Versions(), None, None)[2:]


def build(
    tab: AdaptersTab,
    subject: gr.State,
    persona: gr.Dropdown,
    picked: gr.State,
    opened: gr.Tab,
    settings: UiSettings,
) -> None:
    """Lay out the adapters and wire them."""
    shown: gr.State = gr.State(None)
    trouble = gr.HTML("", visible=False, elem_id="trouble", padding=False)
    gr.HTML("<h3>Versions</h3>", padding=False)
    table = gr.HTML(empty_card(NOBODY), elem_id="versions", padding=False)
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
            progress = gr.HTML("", elem_id="progress", padding=False)
        with gr.Column(scale=4, min_width=300):
            gr.HTML("<h3>Roll back</h3>", padding=False)
            to = gr.Dropdown([], label="Version to make active", elem_id="rollback-to")
            back = gr.Button("Roll back", elem_id="rollback")

    timer = gr.Timer(settings.ui_poll_s, active=False)
    page = [table, progress, to, start, timer, stop, trouble, shown]
    gr.on(
        [picked.change, opened.select, timer.tick],
        timely(tab.show),
        [subject, persona, to, shown],
        page,
        trigger_mode="always_last",
        show_progress="hidden",
    )
    start.click(timely(tab.refresh), [subject, persona, method, to], page, show_progress="hidden")
    stop.click(timely(tab.cancel), [subject, persona, to], page, show_progress="hidden")
    back.click(timely(tab.rollback), [subject, persona, to], page, show_progress="hidden")
