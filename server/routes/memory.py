"""What is remembered of a user: facts, history, and what a query would retrieve."""

from dataclasses import asdict
from tempfile import SpooledTemporaryFile
from typing import IO, Any

from fastapi import APIRouter, BackgroundTasks, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse

from server.context import shown
from server.errors import TooLargeError
from server.history import MAX_BYTES, read_history
from server.online import texts_arrived
from server.routes.depends import Parts, PathUser
from server.routes.views import FACT_COLUMNS, TEXT_COLUMNS, fact_view, text_view
from server.schemas import After, FactRequest, PageSize
from server.services import Services
from server.store import memory
from server.store.tables.people import User

router = APIRouter(prefix="/v1/users/{user}")
# Bytes of an import that are held in memory; a larger one waits on the disk.
_IN_MEMORY = 2**20
_SHOWN = 100


@router.get("/facts")
def list_facts(user: PathUser, parts: Parts) -> dict[str, Any]:
    """List the user's facts."""
    with parts.database.read() as session:
        facts = memory.facts(session, user, *FACT_COLUMNS)
    return {"object": "list", "data": [fact_view(fact) for fact in facts]}


@router.post("/facts", status_code=201)
def add_fact(request: FactRequest, user: PathUser, parts: Parts) -> dict[str, Any]:
    """Remember a fact."""
    with parts.database.write() as session:
        return fact_view(memory.add_fact(session, user, request.text))


@router.delete("/facts/{fact_id}", status_code=204)
def remove_fact(fact_id: int, user: PathUser, parts: Parts) -> None:
    """Forget a fact."""
    with parts.database.write() as session:
        memory.remove_fact(session, user, fact_id)


@router.get("/history")
def list_history(
    user: PathUser, parts: Parts, after: After = 0, limit: PageSize = _SHOWN
) -> JSONResponse:
    """List some of the user's texts, oldest first: those behind the text with the id `after`.

    Ask again with `after` set to `next` until that is null.
    """
    with parts.database.read() as session:
        texts = memory.texts_behind(session, user, after, limit, *TEXT_COLUMNS)
    following = texts[-1].id if len(texts) == limit else None
    # Its bytes are made here, in a thread, and not by FastAPI on the event loop.
    return JSONResponse(
        {"object": "list", "data": [text_view(text) for text in texts], "next": following}
    )


@router.post("/history")
async def import_history(
    request: Request, user: PathUser, parts: Parts, afterwards: BackgroundTasks
) -> dict[str, Any]:
    """Import a JSONL file, plain or gzip; good lines are kept, bad ones are named.

    The next chat uses a small history at once, and of a large one what is embedded by then.
    """
    with SpooledTemporaryFile(_IN_MEMORY) as file:
        async for part in request.stream():
            file.write(part)
            if file.tell() > MAX_BYTES:
                raise TooLargeError("The history is larger than 256 MiB: import it in parts.")
        file.seek(0)
        afterwards.add_task(texts_arrived, parts.jobs)
        afterwards.add_task(parts.contexts.embedding.embed, user)
        return await run_in_threadpool(_import, parts, user, file)


@router.get("/memory")
async def retrieve(user: PathUser, parts: Parts, query: str) -> dict[str, Any]:
    """Show what a conversation that starts with this query would see."""
    return {"object": "list", "data": shown(await parts.contexts.retrieve(user, query))}


def _import(parts: Services, user: User, file: IO[bytes]) -> dict[str, Any]:
    found = read_history(file)
    added = memory.import_texts(parts.database, user, found.texts)
    return {
        "imported": added,
        "duplicates": len(found.texts) - added,
        "errors": [asdict(error) for error in found.errors],
    }
