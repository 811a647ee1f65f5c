"""Scoring on a model in this process, by the protocol of `perce.scorer`."""

from collections.abc import Sequence
from contextlib import nullcontext

import torch
from peft import PeftModel
from transformers import PreTrainedModel

from perce.logprobs import reply_logprobs


class LocalScorer:
    """Scores on a local model, in batches of about the same length; an empty reply is free.

    Args:
        model: A base model, or one with the user's adapter on it.
        batch_tokens: Padded tokens that go forward at once, about.
    """

    def __init__(self, model: PreTrainedModel | PeftModel, batch_tokens: int = 4096) -> None:
        self._model = model
        self._batch_tokens = batch_tokens

    @torch.no_grad()
    def logprobs(
        self, prompts: Sequence[Sequence[int]], replies: Sequence[Sequence[int]], adapter: bool
    ) -> list[list[float]]:
        """Score replies; a model without adapter gives the same for either `adapter`."""
        off = isinstance(self._model, PeftModel) and not adapter
        scores: list[list[float]] = [[] for _ in replies]
        with self._model.disable_adapter() if off else nullcontext():
            for rows in self._batches(prompts, replies):
                scored = reply_logprobs(
                    self._model, [prompts[row] for row in rows], [replies[row] for row in rows]
                )
                for row, logprobs in zip(rows, scored, strict=True):
                    scores[row] = logprobs.tolist()
        return scores

    def _batches(
        self, prompts: Sequence[Sequence[int]], replies: Sequence[Sequence[int]]
    ) -> list[list[int]]:
        lengths = [len(p) + len(r) for p, r in zip(prompts, replies, strict=True)]
        batches: list[list[int]] = []
        scored = [row for row, reply in enumerate(replies) if reply]
        for row in sorted(scored, key=lengths.__getitem__, reverse=True):
            if batches and (len(batches[-1]) + 1) * lengths[batches[-1][0]] <= self._batch_tokens:
                batches[-1].append(row)
            else:
                batches.append([row])
        return batches
