"""The export: all that is kept of a user, sent as it is read.

It may be more than the memory holds, and whoever takes it may be slow: rows are read a page at
a time, each page in a transaction of its own.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from fastapi import APIRouter
from fastapi.responses import StreamingResponse
from sqlalchemy import select
from sqlalchemy.orm import QueryableAttribute, load_only

from server import registry
from server.arrangement import grouped
from server.refreshes import list_refreshes
from server.routes.depends import Parts, PathUser
from server.routes.views import (
    CONVERSATION_COLUMNS,
    FACT_COLUMNS,
    INTERACTION_COLUMNS,
    TEXT_COLUMNS,
    adapter_views,
    conversation_view,
    fact_view,
    interaction_view,
    refresh_view,
    text_view,
    user_view,
)
from server.store import memory
from server.store.database import Database
from server.store.tables.people import Conversation, Interaction, User, UserText
from server.store.users import summarize

router = APIRouter(prefix="/v1/users/{user}")
_ROWS_A_PAGE = 100
_Page = Sequence[dict[str, Any]]
_Row = TypeVar("_Row", Conversation, Interaction, UserText)


@router.get("/export")
def export(user: PathUser, parts: Parts) -> StreamingResponse:
    """Give out all that is kept of a user; what is added meanwhile may be left out."""
    with parts.database.read() as session:
        head = {
            **user_view(summarize(session, user.name)[0]),
            "facts": [fact_view(fact) for fact in memory.facts(session, user, *FACT_COLUMNS)],
        }
        adapters = adapter_views(session, registry.versions(session, user))
        refreshes = [refresh_view(session, row) for row in list_refreshes(session, user)]
    texts = (UserText.position, UserText.id), TEXT_COLUMNS, text_view
    pinned = (Conversation.created_at, Conversation.key), CONVERSATION_COLUMNS, conversation_view
    turns = (Interaction.created_at, Interaction.id), INTERACTION_COLUMNS, interaction_view
    lists: dict[str, Iterable[_Page]] = {
        "history": _pages(parts.database, user, UserText, *texts),
        "conversations": _pages(parts.database, user, Conversation, *pinned),
        "interactions": _pages(parts.database, user, Interaction, *turns),
        "adapters": [adapters],
        "refreshes": [refreshes],
    }
    return StreamingResponse(_spelled(head, lists), media_type="application/json")


def _pages(
    database: Database,
    user: User,
    table: type[_Row],
    order: Sequence[QueryableAttribute[Any]],
    columns: Sequence[QueryableAttribute[Any]],
    view: Callable[[_Row], dict[str, Any]],
) -> Iterator[_Page]:
    """Read a user's rows of a table, a page at a time; the last column of the order is the key.

    Which rows there are is read first: one that is removed meanwhile is left out.
    """
    key = order[-1]
    with database.read() as session:
        keys = session.scalars(select(key).where(table.user_id == user.id).order_by(*order)).all()
    for some in grouped(keys, _ROWS_A_PAGE):
        page = select(table).where(key.in_(some)).order_by(*order)
        with database.read() as session:
            rows = session.scalars(page.options(load_only(*columns, raiseload=True))).all()
        yield [view(row) for row in rows]


def _spelled(head: Mapping[str, Any], lists: Mapping[str, Iterable[_Page]]) -> Iterator[bytes]:
    """Spell one JSON object with some fields, and lists behind them, a page at a time."""
    yield _json(head)[:-1]
    for name, pages in lists.items():
        yield b"," + _json(name) + b":["
        between = b""
        for page in pages:
            if page:
                yield between + _json(page)[1:-1]
                between = b","
        yield b"]"
    yield b"}"


def _json(value: object) -> bytes:
    """Spell JSON as all other answers do."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
