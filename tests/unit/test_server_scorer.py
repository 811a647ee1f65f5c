"""Scoring through the engine: the protocol of perce, and prompts that are cut to fit."""

import asyncio
import json
from collections.abc import Sequence

import httpx
import pytest
from fastapi.testclient import TestClient
from scripted_engine import ScriptedEngine

from perce.context import Candidate
from perce.contrasting import Case, contrast_replies_async
from perce.cutting import PromptTooLong
from perce.prompt import ContextItem, prompt_pair
from perce.tokens import ChatTokenizer
from server.engine import Engine, ServedModel
from server.errors import EngineRefusedError
from server.explain import Explainer
from server.naps import Naps
from server.scorer import EngineScorer
from server.servings import Serving
from server.store.tables.people import User

ASKED = [{"role": "user", "content": "how is the bread?"}]
ITEMS = [
    ContextItem("fact", "i have a sourdough named gerald."),
    *(ContextItem("text", f"bread number {n} is the best so far", f"post {n}") for n in range(3)),
]


class NoNaps(Naps):
    """Knows engines that never sleep."""

    def __init__(self) -> None:
        """There is no store to look at."""

    def check(self, engines: Sequence[Engine]) -> None:
        """None of them sleeps."""


def serving_of(
    engine: ScriptedEngine, items: Sequence[ContextItem] = ITEMS, max_length: int = 2048
) -> Serving:
    return Serving(
        user=User(id=1, name="mina"),
        context=[Candidate(f"item:{n}", item, 0.0, n) for n, item in enumerate(items)],
        prompts=prompt_pair(ASKED, items),
        adapter=None,
        engine=Engine("http://engine", transport=engine.transport()),
        base=ServedModel("scripted", max_length),
        naps=NoNaps(),
    )


def test_many_replies_are_scored_in_order(
    scripted_engine: ScriptedEngine, reference_tokenizer: ChatTokenizer
) -> None:
    replies = ["gerald is warm", "", "no bread today", "yes!"] * 5
    cases = [Case(ASKED, ITEMS[: 1 + n % 3], reply) for n, reply in enumerate(replies)]
    scorer = EngineScorer(serving_of(scripted_engine), under_way=3)
    scored = asyncio.run(contrast_replies_async(scorer, reference_tokenizer, cases))
    bare = len(reference_tokenizer.prompt_ids(ASKED))
    for case, result in zip(cases, scored, strict=True):
        long = len(
            reference_tokenizer.prompt_ids(prompt_pair(case.messages, case.context).with_persona)
        )
        assert "".join(token.text for token in result.tokens) == case.reply
        for token in result.tokens:
            expected = scripted_engine.logprob("scripted", long, token.token_id)
            assert token.logprob == pytest.approx(expected)
            without = scripted_engine.logprob("scripted", bare, token.token_id)
            assert token.logprob_without == pytest.approx(without)


def test_no_more_requests_than_allowed_are_under_way() -> None:
    under_way, most = 0, 0

    async def answer(request: httpx.Request) -> httpx.Response:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.01)
        under_way -= 1
        prompt = json.loads(request.content)["prompt"]
        scored = [None, *({str(token): {"logprob": -1.0}} for token in prompt[1:])]
        return httpx.Response(200, json={"choices": [{"prompt_logprobs": scored}]})

    engine = Engine("http://engine", transport=httpx.MockTransport(answer))
    base = ServedModel("scripted", 2048)
    user = User(id=1, name="mina")
    serving = Serving(user, [], prompt_pair(ASKED, ()), None, engine, base, NoNaps())
    scorer = EngineScorer(serving, under_way=4)
    scores = asyncio.run(scorer.logprobs([[1, 2]] * 12, [[3, 4]] * 12, adapter=True))
    assert scores == [[-1.0, -1.0]] * 12
    assert most == 4


def test_a_refusal_reaches_the_caller(scripted_engine: ScriptedEngine) -> None:
    serving = serving_of(scripted_engine)
    unknown = Serving(
        serving.user,
        serving.context,
        serving.prompts,
        None,
        serving.engine,
        ServedModel("another", 2048),
        NoNaps(),
    )
    with pytest.raises(EngineRefusedError, match="does not exist"):
        asyncio.run(EngineScorer(unknown).logprobs([[1, 2]] * 3, [[3]] * 3, adapter=False))


@pytest.mark.parametrize(("dropped", "items"), [(0, ()), (1, (1,)), (2, (1, 2)), (4, (0, 1, 2, 3))])
def test_a_prompt_without_room_for_the_reply_loses_its_oldest_context(
    scripted_engine: ScriptedEngine,
    reference_tokenizer: ChatTokenizer,
    dropped: int,
    items: tuple[int, ...],
) -> None:
    reply = reference_tokenizer.reply_ids("gerald is warm")
    kept = [item for index, item in enumerate(ITEMS) if index not in items]
    fitting = len(reference_tokenizer.prompt_ids(prompt_pair(ASKED, kept).with_persona))
    serving = serving_of(scripted_engine, max_length=fitting + len(reply) + 1)
    explained = asyncio.run(Explainer(reference_tokenizer).explain(serving, reply, "persona"))
    assert (len(explained.cut.items), explained.cut.items) == (dropped, items)
    lengths = [len(body["prompt"]) for body in scripted_engine.bodies("/v1/completions")]
    assert lengths[0] == fitting + len(reply) < serving.base.max_length


def test_a_conversation_that_does_not_fit_alone_is_refused(
    scripted_engine: ScriptedEngine, reference_tokenizer: ChatTokenizer
) -> None:
    serving = serving_of(scripted_engine, max_length=10)
    with pytest.raises(PromptTooLong, match="Shorten"):
        asyncio.run(Explainer(reference_tokenizer).explain(serving, [5], "persona"))
    assert scripted_engine.bodies("/v1/completions") == []


def test_the_api_says_what_was_cut(gateway: TestClient, reference_tokenizer: ChatTokenizer) -> None:
    word = reference_tokenizer.reply_ids(" bread")
    body = {"user": "mina", "query": "how is it?"}
    gateway.post("/v1/users", json={"name": "mina"})
    for fact in ("i have a sourdough named gerald.", "i ride a bike."):
        gateway.post("/v1/users/mina/facts", json={"text": fact})
    short = gateway.post("/v1/pir", json={**body, "token_ids": word}).json()
    long = gateway.post("/v1/pir", json={**body, "token_ids": (word * 2000)[:2015]}).json()
    refused = gateway.post("/v1/pir", json={**body, "token_ids": (word * 3000)[:2100]})
    assert short["cut"] == {"items": 0, "tokens": 0}
    assert len(short["context"]) == 2
    assert long["cut"]["items"] == 2 - len(long["context"]) > 0
    assert long["cut"]["tokens"] > 0
    assert len(long["pir"]) == 2015
    assert refused.status_code == 413
    assert "Shorten" in refused.json()["error"]["message"]
