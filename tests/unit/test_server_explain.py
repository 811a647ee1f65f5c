"""Where the words of a PIR are put together: beside the event loop, as they may be many."""

from collections.abc import Sequence
from threading import get_ident
from typing import SupportsIndex

import pytest
from fastapi.testclient import TestClient
from gateway_calls import chat
from scripted_engine import ScriptedEngine

from perce.tokens import ChatTokenizer
from server.settings import REFERENCE_MODEL

threads: set[int] = set()


class NotingText(str):
    """Notes in which threads it is taken apart and copied."""

    __slots__ = ()

    def __getitem__(self, at: SupportsIndex | slice) -> str:
        threads.add(get_ident())
        return NotingText(super().__getitem__(at))

    def __deepcopy__(self, _memo: dict[int, object]) -> str:
        threads.add(get_ident())
        return self


class NotingTokenizer(ChatTokenizer):
    """Decodes to texts that note who works on them."""

    def decode(self, ids: Sequence[int]) -> str:
        return NotingText(super().decode(ids))


@pytest.fixture(scope="module")
def reference_tokenizer() -> NotingTokenizer:
    return NotingTokenizer.load(str(REFERENCE_MODEL))


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/pir"])
def test_words_are_put_together_beside_the_event_loop(
    gateway: TestClient, mina: str, scripted_engine: ScriptedEngine, path: str
) -> None:
    scripted_engine.tokenizer = ChatTokenizer.load(str(REFERENCE_MODEL))
    scripted_engine.replies = ["so warm"]
    assert gateway.portal
    loop = gateway.portal.call(_this_thread)
    threads.clear()
    if path == "/v1/pir":
        ids = scripted_engine.tokenizer.reply_ids("so warm")
        body = {"user": "mina", "query": "bread?", "token_ids": ids}
        told = gateway.post(path, json=body).json()
    else:
        told = chat(gateway, personalization={"pir": True}).json()["personalization"]
    assert [word["text"] for word in told["words"]] == ["so", "warm"]
    assert threads
    assert loop not in threads


async def _this_thread() -> int:
    return get_ident()
