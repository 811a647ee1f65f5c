"""Greedy replies of a local model, for evaluation. Serving does this with vLLM instead.

Shapes: B prompts in a batch, T tokens of the longest prompt and of the replies.
"""

from collections.abc import Sequence

import torch
from peft import PeftModel
from transformers import GenerationConfig, PreTrainedModel

# All said outright: what is left open, transformers takes from the model's own settings.
_GREEDY = {
    "do_sample": False,
    "temperature": 1.0,
    "top_p": 1.0,
    "top_k": 50,
    "repetition_penalty": 1.0,
}


@torch.no_grad()
def greedy_replies(
    model: PreTrainedModel | PeftModel,
    prompts: Sequence[Sequence[int]],
    end_id: int,
    max_tokens: int,
    batch_size: int = 8,
) -> list[list[int]]:
    """Answer prompts with the likeliest token at each step.

    Args:
        model: A causal language model, plain or with adapters.
        prompts: K prompts of at least one token each.
        end_id: The token that ends a reply.
        max_tokens: Most tokens of a reply.
        batch_size: Prompts answered at once.

    Returns:
        K replies without the token that ended them; one may be empty.
    """
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    replies: dict[int, list[int]] = {}
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        generated = _generate(model, [prompts[index] for index in batch], end_id, max_tokens)
        replies.update(zip(batch, generated, strict=True))
    return [replies[index] for index in range(len(prompts))]


def _generate(
    model: PreTrainedModel | PeftModel,
    prompts: Sequence[Sequence[int]],
    end_id: int,
    max_tokens: int,
) -> list[list[int]]:
    width = max(map(len, prompts))
    padding = [width - len(prompt) for prompt in prompts]
    # The padding's id is arbitrary: the mask hides it.
    ids_BT = torch.tensor([[end_id] * p + [*q] for p, q in zip(padding, prompts, strict=True)])
    mask_BT = torch.tensor([[0] * p + [1] * (width - p) for p in padding])
    config = GenerationConfig(
        max_new_tokens=max_tokens, eos_token_id=end_id, pad_token_id=end_id, **_GREEDY
    )
    out_BT = model.generate(
        input_ids=ids_BT.to(model.device),
        attention_mask=mask_BT.to(model.device),
        generation_config=config,
    )
    return [_until(end_id, row) for row in out_BT[:, width:].tolist()]


def _until(end_id: int, ids: list[int]) -> list[int]:
    return ids[: ids.index(end_id)] if end_id in ids else ids
