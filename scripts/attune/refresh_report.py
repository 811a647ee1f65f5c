"""How refreshes ended, for a terminal: what was learnt from, what the gate measured and said."""

from collections.abc import Sequence

from rich.console import Group, RenderableType

from scripts.attune.tables import refresh_table
from scripts.attune.words import plain
from ui.records import Refresh


def refresh_report(refreshes: Sequence[Refresh]) -> RenderableType:
    """The table of refreshes, and under it what each was trained on."""
    lines = [f"{one.user}: {line}" for one in refreshes for line in data_lines(one)]
    return (
        Group(refresh_table(refreshes), *map(plain, lines)) if lines else refresh_table(refreshes)
    )


def data_lines(refresh: Refresh) -> list[str]:
    """What a refresh learnt from, and how its training went, in a sentence each."""
    examples, training = refresh.examples, refresh.training
    lines = []
    if examples is not None:
        said = f"learnt from {_texts(examples.train)}"
        if examples.replayed:
            said += f", {examples.replayed} of them again"
        said += f"; judged on {_texts(examples.held_out)}"
        if left_out := examples.left_out_in_words:
            said += f"; left out: {left_out}"
        lines.append(f"{said}.")
    if training is not None and training.seconds > 0:
        rate = training.tokens / training.seconds
        lines.append(
            f"trained {training.steps} steps at {rate:,.0f} tokens/s, loss "
            f"{training.first_loss:.3f} → {training.last_loss:.3f}."
        )
    return lines


def _texts(count: int) -> str:
    return f"{count} text{'' if count == 1 else 's'}"
