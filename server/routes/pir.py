"""PIR of any reply, and feedback on a logged one."""

import time
from typing import Any

from fastapi import APIRouter, BackgroundTasks
from fastapi.concurrency import run_in_threadpool

from perce.prompt import Message
from server.context import shown
from server.errors import BadRequestError, NotFoundError
from server.online import texts_arrived
from server.routes.depends import Caller, Parts, acting_user
from server.schemas import (
    FeedbackRequest,
    Personalization,
    PirRequest,
    message_texts,
    plain_messages,
)
from server.services import Services
from server.servings import check_contrast
from server.store import memory
from server.store.tables.people import Interaction
from server.store.users import lock_person
from server.text_check import check_text

router = APIRouter(prefix="/v1")


@router.post("/pir")
async def pir(request: PirRequest, parts: Parts, caller: Caller) -> dict[str, Any]:
    """Say which words of a reply depend on the user."""
    user = await run_in_threadpool(acting_user, parts, caller, request.user)
    # In threads, as all that takes the longer, the longer the text: the event loop is everybody's.
    messages = await run_in_threadpool(_messages, request, parts)
    reply_ids = await run_in_threadpool(_reply_ids, request, parts)
    wish = Personalization(
        persona=request.persona, adapter=request.adapter, conversation=request.conversation
    )
    async with parts.servings.choose(user, messages, wish) as serving:
        check_contrast(request.contrast, wish, serving.adapter)
        explanation = await parts.explainer.explain(serving, reply_ids, request.contrast)
    cut = explanation.cut
    kept = [item for index, item in enumerate(serving.context) if index not in cut.items]
    return {
        "object": "pir",
        "user": user.name,
        "adapter": serving.label,
        "context": shown(kept),
        "cut": {"items": len(cut.items), "tokens": cut.tokens},
        "reply": await run_in_threadpool(parts.tokenizer.decode, reply_ids),
        **await run_in_threadpool(explanation.to_json),
    }


@router.post("/feedback")
def feedback(
    request: FeedbackRequest, parts: Parts, caller: Caller, afterwards: BackgroundTasks
) -> dict[str, Any]:
    """Keep what the user thinks of a reply; a liked or edited one becomes a text of the user."""
    user = acting_user(parts, caller, request.user)
    check_text("The edit has", [request.edited], parts.settings.max_message_chars)
    with parts.database.write() as session:
        # First, as an erasure does: each would wait for what the other has locked.
        lock_person(session, user)
        interaction = session.get(Interaction, request.id)
        # Whose reply it is else, or that there is one, is nobody's business.
        if interaction is None or interaction.user_id != user.id:
            raise NotFoundError(
                f"{user.name} has no logged reply {request.id!r}: was it stored, and is the user "
                "the one who got it?"
            )
        interaction.feedback, interaction.edited = request.feedback, request.edited
        memory.forget_endorsement(session, user, interaction.id)
        endorsed = _endorsed(interaction)
        if endorsed is not None:
            memory.add_texts(session, user, [endorsed])
            afterwards.add_task(texts_arrived, parts.jobs)
    return request.model_dump(include={"id", "feedback", "edited"})


def _messages(request: PirRequest, parts: Services) -> list[Message]:
    most = parts.settings.max_message_chars
    if (request.query is None) == (request.messages is None):
        raise BadRequestError("Send either 'query' or 'messages'.")
    if request.messages is not None:
        check_text("The messages have", message_texts(request.messages), most)
        return list(plain_messages(request.messages))
    check_text("The query has", [request.query], most)
    return [{"role": "user", "content": request.query}]


def _reply_ids(request: PirRequest, parts: Services) -> list[int]:
    if (request.reply is None) == (request.token_ids is None):
        raise BadRequestError("Send either 'reply' or 'token_ids'.")
    check_text(
        "The reply has", [request.reply, request.token_ids], parts.settings.max_message_chars
    )
    if request.token_ids is not None:
        return request.token_ids
    return parts.tokenizer.reply_ids(request.reply or "")


def _endorsed(interaction: Interaction) -> memory.NewText | None:
    """Return what the user endorsed: the edited reply, or the liked one."""
    text, source = interaction.edited, "edited"
    if text is None and interaction.feedback == "up":
        text, source = interaction.reply, "liked"
    if not text or not text.strip():
        return None
    return memory.NewText(
        memory.last_query(interaction.messages),
        text,
        position=time.time(),
        time=interaction.created_at,
        source=source,
        interaction_id=interaction.id,
    )
