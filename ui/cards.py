"""What the cards have in common: small pieces of HTML that show one record each.

Everything that comes from the gateway is escaped in them; `ui/style.css` says how they look.
The cards themselves are in `ui.memory_cards`, `ui.adapter_cards` and `ui.schedule_cards`.
"""

from html import escape

NOBODY = "Pick a persona above to begin."

STATE_NOTES = {
    "queued": "Waiting for the worker",
    "running": "Running",
    "succeeded": "Finished",
    "failed": "Failed",
    "cancelled": "Cancelled",
}


def badge_of(text: str, tone: str) -> str:
    """A few words on a coloured ground; the tone is `good`, `warn`, `bad`, `busy` or `plain`."""
    return f'<span class="badge {tone}">{escape(text)}</span>'


def empty_card(text: str) -> str:
    """A card that says why there is nothing to show."""
    return f'<div class="card nothing">{escape(text)}</div>'


def trouble_card(text: str) -> str:
    """A card that says what does not work at the moment."""
    return f'<div class="card trouble" role="status">{escape(text)}</div>'
