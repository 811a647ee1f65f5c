"""How rows of the store look in the API."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from server import population
from server.store.tables.adapters import Adapter
from server.store.tables.people import Conversation, Fact, Interaction, User, UserText
from server.store.tables.refreshes import Refresh
from server.store.users import UserSummary

FACT_COLUMNS = (Fact.id, Fact.text, Fact.created_at)
TEXT_COLUMNS = (UserText.id, UserText.query, UserText.text, UserText.time, UserText.source)
CONVERSATION_COLUMNS = (Conversation.key, Conversation.created_at, Conversation.context)
INTERACTION_COLUMNS = (
    Interaction.id,
    Interaction.created_at,
    Interaction.messages,
    Interaction.reply,
    Interaction.adapter,
    Interaction.context,
    Interaction.feedback,
    Interaction.edited,
)
"""What the views show: vectors, and ids and logprobs of tokens, stay in the store."""


def user_view(summary: UserSummary) -> dict[str, Any]:
    """Show a user."""
    return {
        "object": "user",
        "name": summary.name,
        "created_at": summary.created_at.isoformat(),
        "consent": summary.consent,
        "shares": summary.shares,
        "facts": summary.facts,
        "texts": summary.texts,
        "adapter": summary.adapter,
    }


def fact_view(fact: Fact) -> dict[str, Any]:
    """Show a fact."""
    return {"id": fact.id, "text": fact.text, "created_at": fact.created_at.isoformat()}


def text_view(text: UserText) -> dict[str, Any]:
    """Show a text."""
    return {
        "id": text.id,
        "query": text.query,
        "text": text.text,
        "time": text.time.isoformat() if text.time else None,
        "source": text.source,
    }


def conversation_view(conversation: Conversation) -> dict[str, Any]:
    """Show the context that is pinned to a conversation."""
    return {
        "id": conversation.key,
        "created_at": conversation.created_at.isoformat(),
        "context": conversation.context,
    }


def interaction_view(row: Interaction) -> dict[str, Any]:
    """Show a chat turn."""
    return {
        "id": row.id,
        "created_at": row.created_at.isoformat(),
        "messages": row.messages,
        "reply": row.reply,
        "adapter": row.adapter,
        "context": row.context,
        "feedback": row.feedback,
        "edited": row.edited,
    }


def adapter_views(session: Session, adapters: Sequence[Adapter]) -> list[dict[str, Any]]:
    """Show all adapter versions of one user; a version's parent is among them, or of all."""
    labels = {adapter.id: adapter.label for adapter in adapters}
    missing = {a.parent_id for a in adapters if a.parent_id is not None} - labels.keys()
    for shared in session.scalars(select(Adapter).where(Adapter.id.in_(missing))):
        labels[shared.id] = population.shared_label(shared)
    return [
        {
            "version": adapter.label,
            "name": adapter.name,
            "state": adapter.state,
            "parent": labels.get(adapter.parent_id or 0),
            "method": adapter.method,
            "created_at": adapter.created_at.isoformat(),
            "reason": adapter.reason,
            "base_model": adapter.base_model,
            "data_fingerprint": adapter.data_fingerprint,
            "settings": adapter.settings,
            "code_version": adapter.code_version,
            "size_bytes": adapter.size_bytes,
            "checksums": adapter.checksums,
            "erased_at": adapter.erased_at.isoformat() if adapter.erased_at else None,
            "metrics": adapter.metrics,
        }
        for adapter in adapters
    ]


def refresh_view(session: Session, refresh: Refresh) -> dict[str, Any]:
    """Show a refresh with its progress, verdict and losses."""
    user = session.get_one(User, refresh.user_id)
    adapter = session.get(Adapter, refresh.adapter_id) if refresh.adapter_id else None
    progress = None
    if refresh.step is not None and refresh.status == "running":
        progress = {
            "step": refresh.step,
            "steps": refresh.steps,
            "tokens_per_s": refresh.tokens_per_s,
            "seconds_left": refresh.seconds_left,
        }
    seconds = None
    if refresh.started_at and refresh.finished_at:
        seconds = (refresh.finished_at - refresh.started_at).total_seconds()
    return {
        "object": "refresh",
        "id": refresh.id,
        "user": user.name,
        "method": refresh.method,
        "origin": refresh.origin,
        "plan": refresh.plan_id,
        "status": refresh.status,
        "cancel_requested": refresh.cancel_requested,
        "worker": refresh.worker,
        "stage": refresh.stage,
        "progress": progress,
        "verdict": refresh.verdict,
        "reason": refresh.reason,
        "adapter": adapter.label if adapter else None,
        "held_out_loss": refresh.report.get("held_out_loss"),
        "personal_loss": refresh.report.get("personal_loss"),
        "report": refresh.report,
        "seconds": seconds,
        "error": refresh.error,
        "created_at": refresh.created_at.isoformat(),
        "started_at": refresh.started_at.isoformat() if refresh.started_at else None,
        "finished_at": refresh.finished_at.isoformat() if refresh.finished_at else None,
    }
