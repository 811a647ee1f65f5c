"""The memory: what Attune knows of a person, which they may read, add to and take away."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from ui.cards import NOBODY, empty_card
from ui.gateway import Gateway
from ui.memory_cards import context_card, fact_row, import_card
from ui.moment import when
from ui.notices import notices
from ui.records import Fact, Text
from ui.subject import timely

HEADERS = ["When", "Asked", "Wrote", "From"]
WIDTHS: list[str | int] = ["16%", "24%", "48%", "12%"]
NO_PREVIEW = "Write a message to see what a chat would get to see of this persona."
NO_FACTS = "No facts yet."
NO_TEXTS = "No texts yet: chat as this persona, or import a file."
NO_MATCH = "Nothing: no fact and no earlier text fits."
UNREAD = "The memory cannot be read now."

Update = dict[str, Any]
Facts = list[Fact] | str
"""Facts, or why there are none to show."""

Page = tuple[Facts | Update, Update, str | Update, str | None]
"""Facts, texts as table rows, their heading, and whose they are."""


class MemoryTab:
    """Handlers of the memory."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    def show(self, name: str | None, shown: str | None = None) -> Page:
        """The persona's facts, and their texts newest first.

        Args:
            name: The persona.
            shown: Whose memory is shown now; where it cannot be read anew, the persona's own stays
                and another's goes.
        """
        if not name:
            return NOBODY, _rows([]), texts_head(None, NOBODY), name
        with notices():
            facts, texts = self._gateway.facts(name), self._gateway.history(name)
            return facts or NO_FACTS, _rows(texts), texts_head(len(texts), NO_TEXTS), name
        if name == shown:
            return dict(gr.skip()), dict(gr.skip()), dict(gr.skip()), name
        return UNREAD, _rows([]), texts_head(None, UNREAD), name

    def facts(self, name: str | None) -> Facts | Update:
        """The persona's facts; those that are shown stay where they cannot be read."""
        if not name:
            return NOBODY
        with notices():
            return self._gateway.facts(name) or NO_FACTS
        return dict(gr.skip())

    def add_fact(self, name: str | None, text: str) -> str | Update:
        """Add a fact; answers what becomes of the box."""
        if not name or not text.strip():
            missing = "Pick a persona first." if not name else "Write a fact first."
            gr.Warning(missing, title="Not added")
            return dict(gr.skip())
        with notices():
            self._gateway.add_fact(name, text.strip())
            return ""
        return dict(gr.skip())

    def remove_fact(self, name: str, fact: Fact) -> Facts | Update:
        """Remove a fact; answers those that are left."""
        with notices():
            self._gateway.remove_fact(name, fact.id)
        return self.facts(name)

    def import_file(self, name: str | None, path: str | None) -> str:
        """Import a file of texts; answers what became of its lines."""
        if not path:
            return ""
        if not name:
            gr.Warning("Pick a persona first.", title="Not imported")
            return ""
        with notices():
            return import_card(self._gateway.import_history(name, Path(path).read_bytes()))
        return ""

    def preview(self, name: str | None, query: str) -> str:
        """What a chat with that message would see."""
        if not name or not query.strip():
            return context_card((), NO_PREVIEW)
        with notices():
            return context_card(self._gateway.memory(name, query.strip()), NO_MATCH)
        return context_card((), NO_PREVIEW)


def texts_head(count: int | None, nothing: str) -> str:
    """The heading of the texts.

    Args:
        count: Their number; None where it is not known.
        nothing: What to say below the heading where there are none to show.
    """
    number = "" if count is None else f" <span class='faint'>{count}</span>"
    return f"<h3>Texts{number}</h3>{'' if count else empty_card(nothing)}"


def start_over() -> tuple[str, str, str, None]:
    """Empty what was of the persona before: a message tried, its preview, an import, its file."""
    return "", context_card((), NO_PREVIEW), "", None


def build(
    tab: MemoryTab,
    subject: gr.State,
    persona: gr.Dropdown,
    picked: gr.State,
    opened: gr.Tab,
) -> None:
    """Lay out the memory and wire it."""
    known: gr.State = gr.State(NOBODY)
    shown: gr.State = gr.State(None)
    with gr.Row(elem_classes="memory-layout"):
        with gr.Column(scale=5, min_width=340):
            gr.HTML("<h3>Facts</h3>", padding=False)
            _fact_list(tab, subject, persona, known)
            with gr.Row(elem_classes="composer"):
                fact = gr.Textbox(
                    placeholder="Add a fact, such as: I live in Porto.",
                    show_label=False,
                    container=False,
                    scale=5,
                    elem_id="new-fact",
                )
                add = gr.Button("Add", variant="primary", scale=1, min_width=80, elem_id="add-fact")
            gr.HTML("<h3>What a chat would see</h3>", padding=False)
            query = gr.Textbox(
                placeholder="Try a message…",
                show_label=False,
                container=False,
                elem_id="preview-query",
            )
            preview = gr.HTML(context_card((), NO_PREVIEW), elem_id="preview", padding=False)
        with gr.Column(scale=7, min_width=420):
            head = gr.HTML(texts_head(None, NOBODY), elem_id="texts-head", padding=False)
            texts = gr.Dataframe(
                headers=HEADERS,
                datatype="str",
                type="array",
                column_widths=WIDTHS,
                interactive=False,
                wrap=True,
                max_height=460,
                show_search="search",
                buttons=[],
                show_label=False,
                visible=False,
                elem_id="texts",
            )
            upload = gr.File(
                label="Import texts: a JSONL file, plain or .gz",
                file_types=[".jsonl", ".json", ".gz"],
                height=140,
                elem_id="import",
            )
            imported = gr.HTML("", elem_id="imported", padding=False)

    adding = gr.on([fact.submit, add.click], tab.add_fact, [persona, fact], fact)
    adding.then(timely(tab.facts), [subject, persona], known)
    query.submit(timely(tab.preview), [subject, persona, query], preview, show_progress="hidden")
    page = [known, texts, head, shown]
    show = timely(tab.show)
    importing = upload.upload(timely(tab.import_file), [subject, persona, upload], imported)
    importing.then(show, [subject, persona, shown], page)
    gr.on(
        [picked.change, opened.select],
        show,
        [subject, persona, shown],
        page,
        trigger_mode="always_last",
        show_progress="hidden",
    )
    picked.change(start_over, None, [query, preview, imported, upload], show_progress="hidden")


def _rows(texts: Sequence[Text]) -> Update:
    """The table of texts, newest first; there is none without texts."""
    rows = [[when(text.time), text.query, text.text, text.source or ""] for text in reversed(texts)]
    return dict(gr.update(value=rows, visible=bool(rows)))


def _fact_list(tab: MemoryTab, subject: gr.State, persona: gr.Dropdown, known: gr.State) -> None:
    """A row with a remove button for each fact, drawn anew when the facts change."""

    def draw(facts: Facts) -> None:
        if isinstance(facts, str):
            gr.HTML(empty_card(facts), padding=False)
            return
        with gr.Column(elem_classes="facts-box"):
            for fact in facts:
                _fact(fact)

    def _fact(fact: Fact) -> None:
        with gr.Row(elem_classes="fact", equal_height=True):
            gr.HTML(fact_row(fact.text), padding=False)
            remove = gr.Button("Remove", size="sm", scale=0, min_width=80)
        remove.click(
            timely(partial(tab.remove_fact, fact=fact)),
            [subject, persona],
            known,
            show_progress="hidden",
        )

    gr.render(inputs=known, show_progress="hidden")(draw)
