"""The gateway over a scripted engine: what it sends, what it returns, what it keeps."""

from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from gateway_calls import HELLO, chat, events
from scripted_engine import ScriptedEngine
from sqlalchemy import select

from perce.prompt import FACTS_HEADER
from server.services import Services
from server.store.tables.adapters import Adapter
from server.store.tables.people import Interaction


def test_the_persona_goes_into_the_system_message(
    gateway: TestClient, mina: str, scripted_engine: ScriptedEngine
) -> None:
    scripted_engine.replies = ["warm"]
    answer = chat(gateway).json()
    assert answer["choices"][0]["message"]["content"] == "warm"
    (body,) = scripted_engine.bodies("/v1/chat/completions")
    system, user = body["messages"]
    assert FACTS_HEADER in system["content"] and "gerald" in system["content"]
    assert user == HELLO[0]
    shown = answer["personalization"]["context"]
    assert [item["kind"] for item in shown] == ["fact", "text", "text", "text"]
    assert answer["personalization"]["adapter"] is None
    assert "token_ids" not in answer["choices"][0]
    assert "logprobs" not in answer["choices"][0]


def test_without_persona_nothing_is_added(
    gateway: TestClient, mina: str, scripted_engine: ScriptedEngine
) -> None:
    scripted_engine.replies = ["plain"]
    answer = chat(gateway, personalization={"persona": False}).json()
    assert scripted_engine.bodies("/v1/chat/completions")[0]["messages"] == HELLO
    assert answer["personalization"]["context"] == []


def test_what_the_client_sets_passes_through(
    gateway: TestClient, mina: str, scripted_engine: ScriptedEngine
) -> None:
    scripted_engine.replies = ["ok"]
    chat(gateway, temperature=0.3, seed=7, stop=["."], max_tokens=9, top_p=0.5)
    body = scripted_engine.bodies("/v1/chat/completions")[0]
    assert (body["temperature"], body["seed"], body["stop"], body["max_tokens"], body["top_p"]) == (
        0.3,
        7,
        ["."],
        9,
        0.5,
    )
    assert not {"personalization", "user", "store"} & set(body)


@pytest.mark.parametrize("contrast", ["persona", "adapter", "both"])
def test_pir_is_the_difference_of_the_two_passes(
    gateway: TestClient, adapter: Adapter, scripted_engine: ScriptedEngine, contrast: str
) -> None:
    scripted_engine.loaded[adapter.name] = adapter.folder
    scripted_engine.replies = ["gerald is warm"]
    wish = {"pir": True, "contrast": contrast}
    tokens = chat(gateway, personalization=wish).json()["personalization"]["pir"]
    sent = scripted_engine.bodies("/v1/chat/completions")[0]["messages"]
    tokenizer = scripted_engine.tokenizer
    long, short = len(tokenizer.prompt_ids(sent)), len(tokenizer.prompt_ids(HELLO))
    model = adapter.name if contrast == "persona" else "scripted"
    length = long if contrast == "adapter" else short
    for token in tokens:
        own = scripted_engine.logprob(adapter.name, long, token["token_id"])
        other = scripted_engine.logprob(model, length, token["token_id"])
        assert token["logprob"] == pytest.approx(own)
        assert token["logprob_without"] == pytest.approx(other)
        assert token["pir"] == pytest.approx(own - other)
        assert token["personal"] == (own - other > 1)
    assert "".join(token["text"] for token in tokens) == "gerald is warm"


def test_a_stream_carries_the_same_text_and_pir(
    gateway: TestClient, mina: str, scripted_engine: ScriptedEngine
) -> None:
    scripted_engine.replies = ["gerald is warm ✨", "gerald is warm ✨"]
    whole = chat(gateway, personalization={"pir": True}).json()
    streamed = events(chat(gateway, stream=True, personalization={"pir": True}).text)
    assert streamed[-1] == "[DONE]"
    chunks = streamed[:-1]
    text = "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks)
    assert text == whole["choices"][0]["message"]["content"] == "gerald is warm ✨"
    assert [c for c in chunks if "personalization" in c] == [chunks[-1]]
    assert chunks[-1]["personalization"]["pir"] == whole["personalization"]["pir"]


def test_pir_afresh_equals_pir_of_the_chat(
    gateway: TestClient, mina: str, scripted_engine: ScriptedEngine
) -> None:
    scripted_engine.replies = ["gerald is warm"]
    chatted = chat(gateway, personalization={"pir": True}).json()["personalization"]["pir"]
    ids = [token["token_id"] for token in chatted]
    body = {"user": "mina", "messages": HELLO, "token_ids": ids}
    afresh = gateway.post("/v1/pir", json=body).json()
    assert afresh["pir"] == chatted
    by_text = gateway.post(
        "/v1/pir", json={"user": "mina", "query": HELLO[0]["content"], "reply": "gerald is warm"}
    ).json()
    assert by_text["reply"] == "gerald is warm"


def test_later_turns_keep_the_context_until_memory_changes(
    gateway: TestClient, mina: str, scripted_engine: ScriptedEngine
) -> None:
    scripted_engine.replies = ["a", "b", "c"]
    first = chat(gateway).json()["personalization"]["context"]
    later = [*HELLO, {"role": "assistant", "content": "a"}, {"role": "user", "content": "post 5"}]
    assert chat(gateway, messages=later).json()["personalization"]["context"] == first
    gateway.post("/v1/users/mina/facts", json={"text": "i ride a bike."})
    changed = chat(gateway, messages=later).json()["personalization"]["context"]
    assert "i ride a bike." in [item["text"] for item in changed]


def test_chats_are_logged_unless_the_client_says_no(
    gateway: TestClient, mina: str, scripted_engine: ScriptedEngine, services: Services
) -> None:
    scripted_engine.replies = ["kept", "not kept"]
    kept = chat(gateway).json()["id"]
    chat(gateway, store=False)
    with services.database.read() as session:
        (row,) = session.scalars(select(Interaction)).all()
    assert (row.id, row.reply, row.messages) == (kept, "kept", HELLO)
    ids = scripted_engine.tokenizer.reply_ids("kept")
    assert row.token_ids == [*ids, scripted_engine.tokenizer.end_id]
    assert len(row.logprobs) == len(row.token_ids)


def test_feedback_turns_replies_into_texts_and_back(
    gateway: TestClient, mina: str, scripted_engine: ScriptedEngine
) -> None:
    def history() -> list[tuple[str, str]]:
        rows = gateway.get("/v1/users/mina/history").json()["data"]
        return [(row["text"], row["source"]) for row in rows if row["source"] != "import"]

    scripted_engine.replies = ["so warm"]
    name = {"user": "mina", "id": chat(gateway).json()["id"]}
    gateway.post("/v1/feedback", json={**name, "feedback": "up"})
    assert history() == [("so warm", "liked")]
    gateway.post("/v1/feedback", json={**name, "feedback": "up", "edited": "sooo warm!!"})
    assert history() == [("sooo warm!!", "edited")]
    gateway.post("/v1/feedback", json={**name, "feedback": "down"})
    assert history() == []


def test_erasing_removes_rows_files_and_key(
    gateway: TestClient,
    mina: str,
    adapter: Adapter,
    scripted_engine: ScriptedEngine,
) -> None:
    scripted_engine.replies = ["hello"]
    chat(gateway)
    erased = gateway.delete("/v1/users/mina").json()
    assert {k: erased[k] for k in ("facts", "texts", "interactions", "adapters")} == {
        "facts": 1,
        "texts": 8,
        "interactions": 1,
        "adapters": 1,
    }
    assert scripted_engine.loaded == {}
    assert not Path(adapter.folder).exists()
    assert gateway.get("/v1/users/mina").status_code == 404
    own = {"Authorization": f"Bearer {mina}"}
    assert gateway.get("/v1/models", headers=own).status_code == 401


def test_metrics_name_routes_and_no_users(gateway: TestClient, mina: str) -> None:
    gateway.get("/v1/users/mina")
    text = gateway.get("/metrics").text
    assert 'route="/v1/users/{user}"' in text
    assert "mina" not in text


def test_a_developer_message_is_a_system_message(
    gateway: TestClient, mina: str, scripted_engine: ScriptedEngine
) -> None:
    scripted_engine.replies = ["ok"]
    messages = [{"role": "developer", "content": "Be brief."}, *HELLO]
    assert chat(gateway, messages=messages).status_code == 200
    system, user = scripted_engine.bodies("/v1/chat/completions")[0]["messages"]
    assert system["role"] == "system"
    assert system["content"].startswith(f"Be brief.\n\n{FACTS_HEADER}")
    assert user == HELLO[0]
