"""A conversation between one person and the model, and how it is shown.

Immutable: a handler answers a new conversation, so that a failed reply leaves the old one.
"""

import uuid
from dataclasses import dataclass, field, replace
from html import escape
from typing import Literal

from ui.cards import NOBODY
from ui.records import Contrast, Personalization, Reply
from ui.words import highlight, summary


@dataclass(frozen=True, slots=True)
class Turn:
    """One message.

    Attributes:
        role: Who wrote it.
        text: What they wrote.
        reply: The id of an assistant's finished reply; empty otherwise.
        personalization: How that reply was personalized.
        persona: Whether the persona was in its prompt.
        token_ids: The reply as the model wrote it, where that is known.
        unscored: Why its words are not scored; empty where they are.
    """

    role: Literal["user", "assistant"]
    text: str
    reply: str = ""
    personalization: Personalization | None = None
    persona: bool = True
    token_ids: tuple[int, ...] = ()
    unscored: str = ""


@dataclass(frozen=True, slots=True)
class Conversation:
    """All turns so far, and the id under which the gateway pins its persona context."""

    turns: tuple[Turn, ...] = ()
    id: str = field(default_factory=lambda: uuid.uuid4().hex)

    def messages(self) -> tuple[dict[str, str], ...]:
        """The turns in OpenAI's shape."""
        return tuple({"role": turn.role, "content": turn.text} for turn in self.turns)

    def asked(self, text: str) -> "Conversation":
        """The conversation with a new message of the person."""
        return replace(self, turns=(*self.turns, Turn("user", text)))

    def answered(self, reply: Reply, *, persona: bool = True, unscored: str = "") -> "Conversation":
        """The conversation with a finished reply."""
        turn = Turn(
            "assistant",
            reply.text,
            reply.id,
            reply.personalization,
            persona,
            tuple(token.token_id for token in reply.personalization.pir or ()),
            unscored,
        )
        return replace(self, turns=(*self.turns, turn))

    def rescored(
        self, words: Personalization | None, contrast: Contrast, unscored: str = ""
    ) -> "Conversation":
        """The conversation with its last reply scored anew; what was in its context stays."""
        last = self.turns[-1]
        if last.personalization is None:
            return self
        scores = {
            "contrast": contrast,
            "words": words.words if words else None,
            "pir": words.pir if words else None,
        }
        changed = replace(
            last,
            personalization=last.personalization.model_copy(update=scores),
            unscored=unscored,
        )
        return replace(self, turns=(*self.turns[:-1], changed))

    def last_reply(self) -> Turn | None:
        """The reply that the conversation ends with; None while one is being written."""
        return self.turns[-1] if self.turns and self.turns[-1].reply else None


def render(conversation: Conversation, name: str, *, writing: str | None = None) -> str:
    """Write a conversation as HTML.

    Args:
        conversation: What was said.
        name: Who chats; shown above their messages.
        writing: The reply that is still being written; None where there is none.
    """
    turns = [_turn(turn, name) for turn in conversation.turns]
    if writing is not None:
        body = f'{escape(writing)}<span class="caret"></span>'
        turns.append(_bubble("assistant", "Attune", body))
    page = "".join(turns) or _empty(name)
    return f'<div class="conversation" role="log" aria-live="polite">{page}</div>'


def _turn(turn: Turn, name: str) -> str:
    if turn.role == "user":
        return _bubble("user", name, escape(turn.text))
    if turn.personalization is None:
        return _bubble("assistant", "Attune", escape(turn.text))
    adapter = turn.personalization.adapter
    who = f"Attune · {f'adapter {adapter}' if adapter else 'base model'}"
    text = highlight(turn.text, turn.personalization)
    return _bubble("assistant", who, text, turn.unscored or summary(turn.personalization))


def _bubble(role: str, who: str, body: str, note: str = "") -> str:
    foot = f'<div class="note">{escape(note)}</div>' if note else ""
    return (
        f'<div class="turn {role}"><div class="who">{escape(who)}</div>'
        f'<div class="bubble">{body}</div>{foot}</div>'
    )


def _empty(name: str) -> str:
    if not name:
        return f'<div class="empty"><p>{NOBODY}</p></div>'
    return (
        f'<div class="empty"><h3>Chat as {escape(name)}</h3>'
        f"<p>The model answers the way {escape(name)} would want. "
        "Afterwards the words that depend on them are highlighted.</p></div>"
    )
