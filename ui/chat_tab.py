"""The chat: talk as a persona, then see which words depend on it and what was in the prompt."""

import time
from collections.abc import Iterator
from typing import Any

import gradio as gr

from ui.adapter_choices import adapter_choices
from ui.conversation import Conversation, Turn, render
from ui.gateway import ChatRequest, Gateway
from ui.memory_cards import context_card
from ui.notices import notices, warn
from ui.records import Contrast, Personalization, Reply, Versions
from ui.settings import UiSettings
from ui.subject import Subject, timely, timely_parts
from ui.transport import GatewayError
from ui.words import legend

REDRAW_S = 0.08
NO_CONTEXT_YET = "What the model gets to see of the persona appears here with the first reply."
NO_PERSONA = "Not scored: there was no persona in the prompt to take away."
NO_ADAPTER = "Not scored: the base model answered, and there is no adapter to take away."
NOT_SCORED = "Not scored: choose a contrast to try again."
OTHER_VERSION = "Not scored: another version answers now than the one that wrote this reply."
NO_CONTEXT = "Nothing of the persona was in the prompt."
CONTRASTS = [("Persona", "persona"), ("Adapter", "adapter"), ("Both", "both")]
DEFAULT_ADAPTERS = [("Active version", "active"), ("None: base model", "none")]

Update = dict[str, Any]
View = tuple[Conversation, str, str, Update, Update, Update, Update, Update, str]
"""State, conversation HTML, context HTML, message box, both feedback buttons, send button,
contrast, and a message that was not sent."""


class ChatTab:
    """Handlers of the chat; Gradio calls them, and tests do without Gradio."""

    def __init__(self, gateway: Gateway, settings: UiSettings) -> None:
        self._gateway = gateway
        self._settings = settings

    def begin(self, subject: Subject, name: str | None) -> View:
        """Start a new conversation; what is being typed stays: its writer is faster than this."""
        return self._view(subject.begin(), name or "")

    def send(
        self,
        conversation: Conversation,
        message: str,
        name: str | None,
        contrast: Contrast,
        adapter: str,
        persona: bool,
    ) -> Iterator[View]:
        """Answer a message as it is written; one that cannot be answered is left to `settle`."""
        if not name or not message.strip():
            missing = "Pick a persona first." if not name else "Write a message first."
            gr.Warning(missing, title="Not sent")
            yield self._view(conversation, name or "")
            return
        try:
            asked = conversation.asked(message.strip())
            yield from self._answer(asked, name, contrast, adapter, persona)
        except GatewayError as error:
            warn(error)
            yield self._view(conversation, name, unsent=message)

    def rescore(
        self, conversation: Conversation, name: str | None, contrast: Contrast
    ) -> tuple[Conversation, str, str]:
        """Score the last reply under another contrast, by its own token ids where known."""
        last = conversation.last_reply()
        if last and last.personalization:
            words, unscored = self._score(conversation, last, last.personalization, contrast)
            conversation = conversation.rescored(words, contrast, unscored)
        return conversation, render(conversation, name or ""), legend(contrast)

    def endorse(self, conversation: Conversation, feedback: str) -> None:
        """Keep what the person thinks of the last reply."""
        last = conversation.last_reply()
        if last is None or last.personalization is None:
            return
        with notices():
            self._gateway.feedback(last.personalization.user, last.reply, feedback)
            gr.Info(
                "Kept: the next refresh learns from it."
                if feedback == "up"
                else "Kept: no refresh learns from it.",
                title="Thank you",
            )

    def adapters(self, name: str | None, chosen: str = "active") -> Update:
        """The versions that this persona can answer with; a choice that is left stays."""
        versions = Versions()
        if name:
            with notices():
                versions = self._gateway.adapters(name)
        choices = adapter_choices(versions)
        kept = chosen if chosen in {value for _, value in choices} else "active"
        return dict(gr.update(choices=choices, value=kept))

    def _answer(
        self, asked: Conversation, name: str, contrast: Contrast, adapter: str, persona: bool
    ) -> Iterator[View]:
        # The box is emptied this once: from here on the next message may be typed in it.
        yield self._view(asked, name, message="", writing="")
        unscored = self._unscorable(name, contrast, adapter, persona)
        request = ChatRequest(
            user=name,
            messages=asked.messages(),
            persona=persona,
            adapter=adapter,
            pir=not unscored,
            contrast=contrast,
            conversation=asked.id,
            max_tokens=self._settings.ui_max_tokens,
            temperature=self._settings.ui_temperature,
        )
        written = ""
        drawn = 0.0
        for part in self._gateway.stream_chat(request):
            if isinstance(part, Reply):
                finished = asked.answered(part, persona=persona, unscored=unscored)
                yield self._view(finished, name)
                return
            written += part.text
            if time.monotonic() - drawn >= REDRAW_S:
                drawn = time.monotonic()
                yield self._view(asked, name, writing=written)

    def _score(
        self, conversation: Conversation, last: Turn, used: Personalization, contrast: Contrast
    ) -> tuple[Personalization | None, str]:
        """The last reply's words under a contrast, or why there are none."""
        adapter = used.adapter or "none"
        if unscored := self._unscorable(used.user, contrast, adapter, last.persona):
            return None, unscored
        try:
            words = self._gateway.pir(
                used.user,
                conversation.messages()[:-1],
                last.token_ids or last.text,
                contrast=contrast,
                adapter=used.choice,
                persona=last.persona,
                conversation=conversation.id,
            )
        except GatewayError as error:
            warn(error)
            return None, NOT_SCORED
        return (words, "") if words.adapter == used.adapter else (None, OTHER_VERSION)

    def _unscorable(self, name: str, contrast: Contrast, adapter: str, persona: bool) -> str:
        """Why a reply cannot be scored under a contrast; empty where it can.

        The gateway refuses a contrast of two equal sides; a person wants the reply all the same.
        """
        if contrast != "adapter" and not persona:
            return NO_PERSONA
        if contrast != "persona" and not self._has_adapter(name, adapter):
            return NO_ADAPTER
        return ""

    def _has_adapter(self, name: str, adapter: str) -> bool:
        if adapter == "active":
            return self._gateway.adapters(name).answers is not None
        return adapter != "none"

    def _view(
        self,
        conversation: Conversation,
        name: str,
        *,
        message: str | None = None,
        writing: str | None = None,
        unsent: str = "",
    ) -> View:
        return (
            conversation,
            render(conversation, name, writing=writing),
            self._context(conversation),
            _box(message),
            *_usable(conversation.last_reply() is not None),
            *_usable(writing is None),
            unsent,
        )

    def _context(self, conversation: Conversation) -> str:
        last = conversation.last_reply()
        used: Personalization | None = last.personalization if last else None
        if used is None:
            return context_card((), NO_CONTEXT_YET)
        return context_card(used.context, NO_CONTEXT)


def settle(typed: str, unsent: str) -> tuple[Update, str, Update, Update]:
    """Let the next message be sent; one that was not sent goes back before what was typed since.

    Args:
        typed: What is in the message box.
        unsent: The message that was not sent; empty where there is none.
    """
    kept = "\n".join(text for text in (unsent, typed) if text)
    return _box(kept if unsent else None), "", *_usable(True)


def build(tab: ChatTab, subject: gr.State, persona: gr.Dropdown, picked: gr.State) -> gr.Dropdown:
    """Lay out the chat and wire it; answers its choice of adapter, for others to refresh."""
    # Until somebody is picked, this is the conversation that a new page's subject names.
    state = gr.State(Conversation(id=""))
    unsent = gr.State("")
    with gr.Row(elem_classes="chat-layout"):
        with gr.Column(scale=7, min_width=420):
            page = gr.HTML(
                render(Conversation(), ""), elem_id="conversation", autoscroll=True, padding=False
            )
            with gr.Row(elem_classes="feedback"):
                liked = _small_button("Sounds like me", "liked", usable=False)
                disliked = _small_button("Not like me", "disliked", usable=False)
                gr.HTML("", elem_classes="spacer")
                new = _small_button("New conversation", "new")
            with gr.Row(elem_classes="composer"):
                box = gr.Textbox(
                    placeholder="Write a message…",
                    show_label=False,
                    container=False,
                    lines=1,
                    max_lines=6,
                    scale=8,
                    elem_id="message",
                )
                send = gr.Button("Send", variant="primary", scale=1, min_width=90, elem_id="send")
        with gr.Column(scale=4, min_width=320, elem_classes="side"):
            with gr.Group(elem_classes="controls"):
                contrast = gr.Radio(
                    CONTRASTS,
                    value="persona",
                    label="Highlight what depends on",
                    elem_id="contrast",
                )
                adapter = gr.Dropdown(
                    DEFAULT_ADAPTERS, value="active", label="Adapter", elem_id="adapter"
                )
                with_persona = gr.Checkbox(
                    True, label="Persona in the prompt", elem_id="with-persona"
                )
            key = gr.HTML(legend("persona"), padding=False)
            gr.HTML("<h3>What the model saw of the persona</h3>", padding=False)
            context = gr.HTML(context_card((), NO_CONTEXT_YET), elem_id="context", padding=False)

    view = [state, page, context, box, liked, disliked, send, contrast, unsent]
    asked = [subject, state, box, persona, contrast, adapter, with_persona]
    sending = gr.on(
        [send.click, box.submit], timely_parts(tab.send), asked, view, show_progress="hidden"
    )
    # Of these two, an error triggers only the second.
    for ended in (sending.then, sending.failure):
        ended(settle, [box, unsent], [box, unsent, send, contrast], show_progress="hidden")
    rescoring = contrast.input(
        timely(tab.rescore),
        [subject, state, persona, contrast],
        [state, page, key],
        trigger_mode="always_last",
        show_progress="hidden",
    )
    # What runs is stopped, so that the new conversation need not wait for it to end.
    persona.change(None, cancels=[sending, rescoring])
    renewed = new.click(None, cancels=[sending, rescoring])
    for changed in (renewed.then, picked.change):
        changed(
            tab.begin, [subject, persona], view, trigger_mode="always_last", show_progress="hidden"
        )
    picked.change(timely(tab.adapters), [subject, persona], adapter, show_progress="hidden")
    liked.click(lambda conversation: tab.endorse(conversation, "up"), state)
    disliked.click(lambda conversation: tab.endorse(conversation, "down"), state)
    return adapter


def _small_button(label: str, name: str, *, usable: bool = True) -> gr.Button:
    return gr.Button(label, size="sm", min_width=130, scale=0, interactive=usable, elem_id=name)


def _box(message: str | None) -> Update:
    """Set the message box; None leaves it as it is."""
    return dict(gr.update() if message is None else gr.update(value=message))


def _usable(usable: bool) -> tuple[Update, Update]:
    """Let two components be used, or not."""
    return dict(gr.update(interactive=usable)), dict(gr.update(interactive=usable))
