"""Texts of a history, each with its number for its position."""

from server.store.memory import NewText


def texts(count: int, start: int = 0) -> list[NewText]:
    return [NewText("q", f"text {i}", float(i)) for i in range(start, start + count)]
