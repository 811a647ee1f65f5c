"""Answers of a model to prompts, greedy or sampled. Serving does this with vLLM instead."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import Qwen3ForCausalLM

from perce.prompt import Message
from scripts.reference.batches import Encoder

_BATCH = 20


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model said, and whether it ended by itself, before its tokens ran out."""

    text: str
    ended: bool


@torch.no_grad()
def answers(
    model: Qwen3ForCausalLM,
    encoder: Encoder,
    prompts: Sequence[Sequence[Message]],
    tokens: int = 40,
    temperature: float = 0.0,
) -> list[Answer]:
    """Answer prompts, greedily or sampled (torch's generator decides which sample).

    Args:
        model: The model.
        encoder: Its tokenizer's encoder.
        prompts: K conversations that end with a user message.
        tokens: Most tokens of an answer.
        temperature: Sampling temperature; 0 is greedy.
    """
    said: list[Answer] = []
    for start in range(0, len(prompts), _BATCH):
        group = [encoder.prompt(p) for p in prompts[start : start + _BATCH]]
        width = max(map(len, group))
        ids_BT = torch.tensor([[encoder.pad] * (width - len(g)) + g for g in group])
        mask_BT = torch.tensor([[0] * (width - len(g)) + [1] * len(g) for g in group])
        out_BT = model.generate(
            input_ids=ids_BT.to(model.device),
            attention_mask=mask_BT.to(model.device),
            max_new_tokens=tokens,
            do_sample=temperature > 0,
            temperature=temperature or None,
        )
        for row in out_BT[:, width:].tolist():
            text = encoder.tokenizer.decode(row, skip_special_tokens=True)
            said.append(Answer(text, encoder.end in row))
    return said
