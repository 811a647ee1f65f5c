"""Who computes log-probabilities: one protocol, so that PIR does not care where a model runs.

`perce.local_scorer` scores on a model in this process. A scorer over a served engine lives
with the engine's client; it waits for answers, so it has the protocol's asynchronous form.
"""

from collections.abc import Sequence
from typing import Protocol


class Scorer(Protocol):
    """Computes log P(y_i | prompt, y_<i) of given tokens."""

    def logprobs(
        self, prompts: Sequence[Sequence[int]], replies: Sequence[Sequence[int]], adapter: bool
    ) -> list[list[float]]:
        """Score replies.

        Args:
            prompts: K prompts as token ids.
            replies: K replies as token ids.
            adapter: Whether the user's adapter takes part, where there is one.

        Returns:
            K lists of one natural-log probability a reply token.
        """


class AsyncScorer(Protocol):
    """A `Scorer` whose answers are awaited."""

    async def logprobs(
        self, prompts: Sequence[Sequence[int]], replies: Sequence[Sequence[int]], adapter: bool
    ) -> list[list[float]]:
        """Score replies; see `Scorer.logprobs`."""
