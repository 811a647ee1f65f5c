"""HTML that shows what is kept of a user: facts, texts in a context, an import."""

from collections.abc import Sequence
from html import escape

from ui.cards import empty_card
from ui.records import ContextItem, Import

SHOWN_ERRORS = 20


def context_card(items: Sequence[ContextItem], nothing: str) -> str:
    """Show what of the user is in a prompt: facts, then earlier texts by similarity.

    Args:
        items: The facts and texts.
        nothing: What to say where there are none.
    """
    if not items:
        return empty_card(nothing)
    facts = [item for item in items if item.kind == "fact"]
    texts = [item for item in items if item.kind == "text"]
    parts = []
    if facts:
        rows = "".join(f"<li>{escape(item.text)}</li>" for item in facts)
        parts.append(f'<h4>Facts</h4><ul class="facts">{rows}</ul>')
    if texts:
        nearest = sorted(texts, key=lambda item: -(item.score or 0.0))
        rows = "".join(_text_row(item) for item in nearest)
        parts.append(f"<h4>Earlier texts</h4>{rows}")
    return f'<div class="card">{"".join(parts)}</div>'


def fact_row(text: str) -> str:
    """One fact of the memory's list."""
    return f'<div class="fact-row">{escape(text)}</div>'


def import_card(result: Import) -> str:
    """Show what became of an imported file, with the number and reason of each bad line."""
    added = f"<strong>{result.imported}</strong> added"
    known = f"<strong>{result.duplicates}</strong> known already"
    bad = f"<strong>{len(result.errors)}</strong> not understood"
    parts = [f'<p class="counts">{added} · {known} · {bad}</p>']
    if result.errors:
        rows = "".join(
            f"<tr><td>{error.line}</td><td>{escape(error.reason)}</td></tr>"
            for error in result.errors[:SHOWN_ERRORS]
        )
        parts.append(f"<table><tr><th>Line</th><th>Why it was left out</th></tr>{rows}</table>")
    if (more := len(result.errors) - SHOWN_ERRORS) > 0:
        parts.append(f"<p>and {more} more lines.</p>")
    return f'<div class="card">{"".join(parts)}</div>'


def _text_row(item: ContextItem) -> str:
    score = max(0.0, min(item.score or 0.0, 1.0))
    label = "" if item.score is None else f"{item.score:.2f}"
    return (
        f'<div class="text-row"><div class="score" title="similarity to the message">'
        f'<span>{label}</span><i style="width:{score:.0%}"></i></div>'
        f"<p>{escape(item.text)}</p></div>"
    )
