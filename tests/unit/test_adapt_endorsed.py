"""From feedback at the gateway to training examples: only what a user wrote or endorsed."""

import json
from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient
from scripted_engine import ScriptedEngine, WordEncoder

from adapt.curation import StoredText
from adapt.dataset import ContextBudget, Dataset, Recipe
from adapt.history import History, StoredFact, learn_from
from server.app import create_app
from server.services import Services
from server.store import memory
from server.store.users import find_user

NOUNS = ("harbour", "garden", "kitchen", "market", "library", "orchard", "station", "bakery")
OWN = [f"today the {noun} was calm, the bees were busy and i slept." for noun in NOUNS]


@pytest.fixture
def gateway(services: Services) -> Iterator[TestClient]:
    headers = {"Authorization": "Bearer attune-admin"}
    with TestClient(create_app(services), headers=headers) as client:
        client.post("/v1/users", json={"name": "mina"}).raise_for_status()
        bring_in(client, OWN)
        yield client


def bring_in(gateway: TestClient, texts: list[str]) -> None:
    rows = [{"query": f"post {i}", "text": text, "order": i} for i, text in enumerate(texts)]
    body = "\n".join(json.dumps(row) for row in rows)
    gateway.post("/v1/users/mina/history", content=body).raise_for_status()


def reply(gateway: TestClient, engine: ScriptedEngine, text: str) -> str:
    """Have the model say something; returns the reply's id."""
    engine.replies = [text]
    body = {"user": "mina", "messages": [{"role": "user", "content": f"say: {text}"}]}
    name: str = gateway.post("/v1/chat/completions", json=body).json()["id"]
    return name


def rate(gateway: TestClient, name: str, **feedback: str) -> None:
    gateway.post("/v1/feedback", json={"user": "mina", "id": name, **feedback}).raise_for_status()


def learnt(services: Services) -> tuple[Dataset, list[str]]:
    """The dataset that a refresh would train on, and the texts in it beside the user's own."""
    with services.database.read() as session:
        user = find_user(session, "mina")
        history = History(
            [StoredText.of(row) for row in memory.texts(session, user)],
            [StoredFact.of(fact) for fact in memory.facts(session, user)],
            memory.logged_replies(session, user),
        )
    recipe = Recipe(ContextBudget(384, 3), 2048)
    dataset = learn_from(history, WordEncoder(), services.tokenizer, recipe)
    texts = [services.tokenizer.decode(e.reply_ids) for e in (*dataset.train, *dataset.held_out)]
    assert set(OWN) <= set(texts)
    return dataset, [text for text in texts if text not in OWN]


def test_of_replies_only_liked_ones_and_edits_are_learnt(
    services: Services, gateway: TestClient, scripted_engine: ScriptedEngine
) -> None:
    said = {
        kind: reply(gateway, scripted_engine, f"{kind} bread wants a warm oven")
        for kind in ("liked", "edited", "disliked", "unrated")
    }
    rate(gateway, said["liked"], feedback="up")
    rate(gateway, said["edited"], feedback="up", edited="edited by me: a HOT oven")
    rate(gateway, said["disliked"], feedback="down")
    assert learnt(services)[1] == ["liked bread wants a warm oven", "edited by me: a HOT oven"]
    # A change of mind, and nothing of it is learnt any more.
    rate(gateway, said["liked"], feedback="down")
    assert learnt(services)[1] == ["edited by me: a HOT oven"]


def test_a_reply_that_comes_back_as_an_import_is_not_learnt(
    services: Services, gateway: TestClient, scripted_engine: ScriptedEngine
) -> None:
    for kind, feedback in (("unrated", None), ("disliked", "down")):
        name = reply(gateway, scripted_engine, f"{kind} bread wants a warm oven")
        if feedback:
            rate(gateway, name, feedback=feedback)
    bring_in(gateway, [f"{kind} bread wants a warm oven" for kind in ("unrated", "disliked")])
    dataset, others = learnt(services)
    assert others == []
    assert dataset.left_out == {"model_voice": 2}


def test_a_model_that_repeats_its_user_does_not_take_their_texts(
    services: Services, gateway: TestClient, scripted_engine: ScriptedEngine
) -> None:
    reply(gateway, scripted_engine, OWN[0])
    dataset, others = learnt(services)
    assert (others, dataset.left_out) == ([], {})
