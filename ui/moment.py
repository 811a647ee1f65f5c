"""Moments as people write them."""

from datetime import datetime


def when(moment: str | None) -> str:
    """Write an ISO 8601 moment for people; what is no moment stays as it is."""
    if not moment:
        return "-"
    try:
        parsed = datetime.fromisoformat(moment)
    except ValueError:
        return moment
    return f"{parsed:%Y-%m-%d %H:%M} {parsed.tzname() or ''}".rstrip()
