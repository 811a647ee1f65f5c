"""Replies of a local model, for evaluation. Serving does this with vLLM instead.

Shapes: B prompts in a batch, T tokens of the longest prompt and of the replies.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from peft import PeftModel
from transformers import GenerationConfig, PreTrainedModel

# All said outright: what is left open, transformers takes from the model's own settings, and
# greedily it wants to see its own defaults.
_GREEDY = {"do_sample": False, "temperature": 1.0, "top_k": 50}
_PLAIN = {"top_p": 1.0, "repetition_penalty": 1.0}


@dataclass(frozen=True, slots=True)
class Reply:
    """What a model answered.

    Attributes:
        ids: Token ids, without the one that ended it; may be empty.
        ended: Whether it ended by itself, before its tokens ran out.
    """

    ids: tuple[int, ...]
    ended: bool


@torch.no_grad()
def generate_replies(
    model: PreTrainedModel | PeftModel,
    prompts: Sequence[Sequence[int]],
    end_id: int,
    max_tokens: int,
    temperature: float = 0.0,
    batch_size: int = 8,
) -> list[Reply]:
    """Answer prompts.

    Args:
        model: A causal language model, plain or with adapters.
        prompts: K prompts of at least one token each.
        end_id: The token that ends a reply.
        max_tokens: Most tokens of a reply.
        temperature: 0 takes the likeliest token at each step; above, torch's generator
            decides which sample is drawn.
        batch_size: Prompts answered at once.

    Returns:
        K replies.
    """
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    drawn = {"do_sample": True, "temperature": temperature, "top_k": 0}
    choice = drawn if temperature > 0 else _GREEDY
    config = GenerationConfig(
        max_new_tokens=max_tokens, eos_token_id=end_id, pad_token_id=end_id, **_PLAIN, **choice
    )
    replies: dict[int, Reply] = {}
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        generated = _generate(model, [prompts[index] for index in batch], config)
        replies.update(
            (index, _until(end_id, ids)) for index, ids in zip(batch, generated, strict=True)
        )
    return [replies[index] for index in range(len(prompts))]


def _generate(
    model: PreTrainedModel | PeftModel, prompts: Sequence[Sequence[int]], config: GenerationConfig
) -> list[list[int]]:
    width = max(map(len, prompts))
    padding = [width - len(prompt) for prompt in prompts]
    pad = config.pad_token_id  # arbitrary: the mask hides it
    ids_BT = torch.tensor([[pad] * p + [*q] for p, q in zip(padding, prompts, strict=True)])
    mask_BT = torch.tensor([[0] * p + [1] * (width - p) for p in padding])
    out_BT = model.generate(
        input_ids=ids_BT.to(model.device),
        attention_mask=mask_BT.to(model.device),
        generation_config=config,
    )
    generated: list[list[int]] = out_BT[:, width:].tolist()
    return generated


def _until(end_id: int, ids: list[int]) -> Reply:
    ended = end_id in ids
    return Reply(tuple(ids[: ids.index(end_id)] if ended else ids), ended)
