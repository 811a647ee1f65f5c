"""The memory: what Attune knows of a person, which they may read, add to and take away."""

from collections.abc import Sequence
from pathlib import Path

import gradio as gr

from ui.gateway import Gateway
from ui.memory_cards import context_card, fact_row, import_card
from ui.moment import when
from ui.notices import notices, warn
from ui.records import Fact
from ui.transport import GatewayError

HEADERS = ["When", "Asked", "Wrote", "From"]
WIDTHS: list[str | int] = ["16%", "24%", "48%", "12%"]
NO_PREVIEW = "Write a message to see what a chat would get to see of this persona."
NO_FACTS = "No facts yet."
NO_MATCH = "Nothing: no fact and no earlier text fits."

Row = list[str]


class MemoryTab:
    """Handlers of the memory."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    def facts(self, name: str | None) -> list[Fact]:
        """The persona's facts; none where the gateway does not answer."""
        if name:
            with notices():
                return self._gateway.facts(name)
        return []

    def add_fact(self, name: str | None, text: str) -> tuple[list[Fact], str]:
        """Add a fact; answers all facts, and what stays in the box."""
        if name and text.strip():
            try:
                self._gateway.add_fact(name, text.strip())
            except GatewayError as error:
                warn(error)
                return self.facts(name), text
        return self.facts(name), ""

    def remove_fact(self, name: str | None, fact: Fact) -> list[Fact]:
        """Remove a fact; answers those that are left."""
        if name:
            with notices():
                self._gateway.remove_fact(name, fact.id)
        return self.facts(name)

    def texts(self, name: str | None) -> tuple[list[Row], str]:
        """The persona's texts as table rows, newest first, and how many there are."""
        rows: list[Row] = []
        if name:
            with notices():
                rows = [
                    [when(text.time), text.query, text.text, text.source or ""]
                    for text in reversed(self._gateway.history(name))
                ]
        return rows, texts_title(len(rows))

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


def texts_title(count: int) -> str:
    """The heading over the texts."""
    return f"<h3>Texts <span class='faint'>{count}</span></h3>"


def build(tab: MemoryTab, persona: gr.Dropdown, opened: gr.Tab) -> None:
    """Lay out the memory and wire it."""
    known: gr.State = gr.State([])
    with gr.Row(elem_classes="memory-layout"):
        with gr.Column(scale=5, min_width=340):
            gr.HTML("<h3>Facts</h3>", padding=False)
            _fact_list(tab, persona, known)
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
            title = gr.HTML(texts_title(0), padding=False)
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
                elem_id="texts",
            )
            upload = gr.File(
                label="Import texts: a JSONL file, plain or .gz",
                file_types=[".jsonl", ".json", ".gz"],
                height=140,
                elem_id="import",
            )
            imported = gr.HTML("", elem_id="imported", padding=False)

    gr.on([fact.submit, add.click], tab.add_fact, [persona, fact], [known, fact])
    query.submit(tab.preview, [persona, query], preview, show_progress="hidden")
    upload.upload(tab.import_file, [persona, upload], imported).then(
        tab.texts, persona, [texts, title]
    )
    gr.on([persona.select, opened.select], tab.facts, persona, known, show_progress="hidden")
    gr.on(
        [persona.select, opened.select],
        tab.texts,
        persona,
        [texts, title],
        show_progress="hidden",
    )
    persona.select(lambda: ("", context_card((), NO_PREVIEW)), None, [query, preview])


def _fact_list(tab: MemoryTab, persona: gr.Dropdown, known: gr.State) -> None:
    """A row with a remove button for each fact, drawn anew when the facts change."""

    def draw(facts: Sequence[Fact]) -> None:
        if not facts:
            gr.HTML(context_card((), NO_FACTS), padding=False)
        for fact in facts:
            with gr.Row(elem_classes="fact", equal_height=True):
                gr.HTML(fact_row(fact.text), padding=False)
                remove = gr.Button("Remove", size="sm", scale=0, min_width=80)
            remove.click(
                lambda name, gone=fact: tab.remove_fact(name, gone),
                persona,
                known,
                show_progress="hidden",
            )

    gr.render(inputs=known, show_progress="hidden")(draw)
