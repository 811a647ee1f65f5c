"""Scoring over a vLLM engine, by the protocol of `perce.scorer`.

The engine batches by itself what arrives together, so each reply is a request of its own, and
many are under way at once.
"""

import asyncio
from collections.abc import Sequence

from server.servings import Serving

_UNDER_WAY = 32


class EngineScorer:
    """Scores replies as a serving's engine and weights do; an `AsyncScorer`.

    Args:
        serving: Engine, base model and adapter; an adapter that the engine lost is loaded.
        under_way: Most requests at once.
    """

    def __init__(self, serving: Serving, under_way: int = _UNDER_WAY) -> None:
        self._serving = serving
        self._free = asyncio.Semaphore(under_way)

    async def logprobs(
        self, prompts: Sequence[Sequence[int]], replies: Sequence[Sequence[int]], adapter: bool
    ) -> list[list[float]]:
        """Score replies; see `perce.scorer.Scorer.logprobs`.

        Raises:
            EngineUnavailableError, EngineRefusedError: The engine could not score.
        """
        model = self._serving.model if adapter else self._serving.base.name

        async def score(prompt: Sequence[int], reply: Sequence[int]) -> list[float]:
            async with self._free:
                return await self._serving.reply_logprobs(model, prompt, reply)

        pairs = zip(prompts, replies, strict=True)
        return list(await asyncio.gather(*(score(prompt, reply) for prompt, reply in pairs)))
