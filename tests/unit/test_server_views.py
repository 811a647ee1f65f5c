"""What long answers read of the store, and where their bytes are made."""

from collections.abc import Callable

import pytest
from fastapi.responses import JSONResponse
from fastapi.testclient import TestClient
from gateway_calls import chat
from scripted_engine import ScriptedEngine
from sqlalchemy import event

from server.routes.memory import list_history
from server.routes.users import export
from server.services import Services
from server.store.tables.people import User
from server.store.users import find_user

Answer = Callable[[User, Services], JSONResponse]


@pytest.mark.parametrize(("name", "answer"), [("history", list_history), ("export", export)])
def test_long_answers_leave_vectors_and_tokens_in_the_store(
    gateway: TestClient,
    mina: str,
    services: Services,
    scripted_engine: ScriptedEngine,
    name: str,
    answer: Answer,
) -> None:
    scripted_engine.replies = ["warm"]
    chat(gateway)
    with services.database.read() as session:
        user = find_user(session, "mina")
    statements = list[str]()

    def note(_c: object, _cursor: object, statement: str, *_rest: object) -> None:
        statements.append(statement)

    event.listen(services.database.engine, "before_cursor_execute", note)
    made = answer(user, services)
    event.remove(services.database.engine, "before_cursor_execute", note)
    # The function has made the bytes: FastAPI runs it in a thread.
    assert made.body == gateway.get(f"/v1/users/mina/{name}").content
    assert b"bread number 7" in made.body
    read = " ".join(statements)
    assert "texts.text" in read
    for column in ("embedding", "fingerprint", "token_ids", "logprobs"):
        assert f".{column}" not in read, column
