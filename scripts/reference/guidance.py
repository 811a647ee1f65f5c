"""Guided attention: some heads are taught where in the persona an answer is found.

From the loss of the next token alone a head that looks at a wrong fact learns next to nothing:
where its weight on the right one is near zero, so is the gradient. The corpus knows the right
place, so the weights themselves are trained as well (Mi, Wang and Ittycheriah 2016, "Supervised
Attentions for Neural Machine Translation"). It is a loss of training; the model stays what it is.

Shapes: B rows, T tokens of a row, Q queries of a row, H heads, D size of a head, C channels.
"""

from dataclasses import dataclass

import torch
from torch import nn
from transformers import Qwen3ForCausalLM
from transformers.masking_utils import create_causal_mask

from scripts.reference.batches import Looks
from scripts.reference.guides import Kind


@dataclass(frozen=True, slots=True)
class Heads:
    """Query heads of one layer that share a key head.

    Attributes:
        kind: The guides that they follow.
        layer: Number of the layer.
        heads: Numbers of the query heads.
    """

    kind: Kind
    layer: int
    heads: tuple[int, ...]


HEADS = (Heads("fact", 2, (0, 1)), Heads("word", 3, (0, 1)), Heads("word", 4, (0, 1)))
"""The fact is found early, so that there are layers left to conclude from it."""


def layer_inputs(
    model: Qwen3ForCausalLM, ids_BT: torch.Tensor, position_BT: torch.Tensor
) -> list[torch.Tensor]:
    """What goes into each layer, and at last what the head reads; B x T x C each.

    Args:
        model: The model.
        ids_BT: Token ids.
        position_BT: Where each token stands in its own example.
    """
    body = model.model
    hidden_BTC = body.embed_tokens(ids_BT)
    mask = create_causal_mask(
        config=model.config,
        inputs_embeds=hidden_BTC,
        attention_mask=None,
        past_key_values=None,
        position_ids=position_BT,
    )
    turns = body.rotary_emb(hidden_BTC, position_BT)
    inputs = []
    for layer in body.layers:
        inputs.append(hidden_BTC)
        hidden_BTC = layer(
            hidden_BTC, attention_mask=mask, position_embeddings=turns, position_ids=position_BT
        )
    return [*inputs, body.norm(hidden_BTC)]


def guided_loss(
    model: Qwen3ForCausalLM,
    heads: Heads,
    hidden_BTC: torch.Tensor,
    position_BT: torch.Tensor,
    looks: Looks,
) -> torch.Tensor:
    """Minus the logarithm of the attention to what is wanted: mean of heads, sum of queries.

    Args:
        model: The model.
        heads: The heads.
        hidden_BTC: What goes into their layer.
        position_BT: Where each token stands in its own example.
        looks: Where they are to look.
    """
    layer = model.model.layers[heads.layer]
    attention = layer.self_attn
    size = attention.head_dim
    shared = heads.heads[0] // attention.num_key_value_groups
    w_query = torch.cat([attention.q_proj.weight.split(size)[head] for head in heads.heads])
    w_key = attention.k_proj.weight.split(size)[shared]
    normed_BTC = layer.input_layernorm(hidden_BTC)
    cos_BTD, sin_BTD = model.model.rotary_emb(normed_BTC, position_BT)
    total = hidden_BTC.new_zeros(())
    # Row by row: keys that are gathered for every query would outgrow the memory at 2,048 tokens.
    for row, look in enumerate(looks):
        if not look.at_Q.numel():
            continue
        query_QHD = nn.functional.linear(normed_BTC[row, look.at_Q], w_query)
        query_QHD = attention.q_norm(query_QHD.view(-1, len(heads.heads), size))
        key_TD = attention.k_norm(nn.functional.linear(normed_BTC[row], w_key))
        cos_QD, sin_QD = cos_BTD[row, look.at_Q], sin_BTD[row, look.at_Q]
        query_QHD = _turned(query_QHD, cos_QD[:, None], sin_QD[:, None])
        key_TD = _turned(key_TD, cos_BTD[row], sin_BTD[row])
        scores_HQT = query_QHD.transpose(0, 1) @ key_TD.T * attention.scaling
        open_HQ = scores_HQT.masked_fill(~look.open_QT, -torch.inf).logsumexp(-1)
        wanted_HQ = scores_HQT.masked_fill(~look.wanted_QT, -torch.inf).logsumexp(-1)
        total = total + (open_HQ - wanted_HQ).mean(0).sum()
    return total


def _turned(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary positions as Qwen3 has them (Su et al. 2021), the last dimension D."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin
