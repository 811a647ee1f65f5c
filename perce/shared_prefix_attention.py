"""Attention over prefix groups that are packed into one row, in two parts.

A group is a prefix and its branches. The prefix attends causally to itself. A branch attends
to the prefix, all of it, and causally to itself, so it is as if it alone followed the prefix
(compare Hydragen, Juravsky et al. 2024, which splits decoding likewise). Neither part needs a
mask larger than one branch against prefix and branch. What is packed, and why, is
`perce.shared_prefix`.

Shapes: T tokens of the packed row. Of one group: P tokens of its prefix, B branches, R tokens
of the longest, N of all of them, M = B * R with padding. H query heads, K key-value heads, E
their size.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn.attention.bias import causal_lower_right
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, PreTrainedModel

from perce.errors import AttuneError

ATTENTION = "attune_shared_prefix"
"""The name under which transformers finds `shared_prefix_attention`."""

_CHANGES_ATTENTION = ("sliding_window", "softcap", "s_aux", "position_bias")
"""What a model may hand to its attention that is not computed here."""


class UnsupportedAttention(AttuneError):
    """The model's attention cannot share prefixes; train it with group_size 1."""


@dataclass(frozen=True, slots=True)
class GroupSpan:
    """Where a group lies in the packed row: its prefix, then its branches end to end.

    Attributes:
        start: Row slot of the prefix's first token.
        prefix: P; 0 for branches that share nothing.
        slot_BR: Row slots of the branches' tokens; a branch's padding repeats its last one.
        kept_N: Which of the M places, flattened, are tokens and not padding.
    """

    start: int
    prefix: int
    slot_BR: Tensor
    kept_N: Tensor

    @classmethod
    def at(cls, start: int, prefix: int, lengths: Sequence[int], device: torch.device) -> Self:
        """Lay out a group with B branches of these lengths, each at least 1."""
        length_B = torch.tensor(lengths)
        first_B = start + prefix + length_B.cumsum(0) - length_B
        place_R = torch.arange(max(lengths))
        slot_BR = first_B[:, None] + torch.minimum(place_R, length_B[:, None] - 1)
        kept_N = (place_R < length_B[:, None]).flatten().nonzero()[:, 0]
        return cls(start, prefix, slot_BR.to(device), kept_N.to(device))


@contextmanager
def sharing_prefixes(model: PreTrainedModel) -> Iterator[None]:
    """Let a model attend by `shared_prefix_attention`, and then as before.

    With gradient checkpointing the backward pass attends again and belongs inside too.

    Args:
        model: A causal language model without PEFT's wrapper; its layers may be adapted.

    Raises:
        UnsupportedAttention: Some layers attend otherwise, or not by transformers' interface.
    """
    decoder = model.get_decoder()
    kinds = set(getattr(decoder.config, "layer_types", None) or ()) - {"full_attention"}
    if kinds:
        raise _unsupported(f"has layers of type {', '.join(sorted(kinds))}")
    before = decoder.config._attn_implementation
    decoder.set_attn_implementation(ATTENTION)
    try:
        if decoder.config._attn_implementation != ATTENTION:
            raise _unsupported("does not attend by transformers' AttentionInterface")
        yield
    finally:
        decoder.set_attn_implementation(before)


def shared_prefix_attention(
    module: nn.Module,
    query_1HTE: Tensor,
    key_1KTE: Tensor,
    value_1KTE: Tensor,
    attention_mask: None,
    *,
    prefix_spans: Sequence[GroupSpan] | None = None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **options: object,
) -> tuple[Tensor, None]:
    """Attend within each group, by the contract of transformers' `AttentionInterface`.

    Args:
        module: The attention layer; not used.
        query_1HTE: Queries of the packed row, their positions applied.
        key_1KTE: Keys, likewise. K divides H (grouped-query attention).
        value_1KTE: Values.
        attention_mask: None, because the spans say what attends to what.
        prefix_spans: The groups, in the row's order; together they cover it.
        dropout: Probability of dropping an attention weight.
        scaling: Factor on the scores; `E ** -0.5` by default.
        options: What else the model hands on.

    Returns:
        The attended values [1, T, H, E], and None for the attention weights.

    Raises:
        UnsupportedAttention: The model does not hand on `prefix_spans`, or hands on what
            changes attention in a way that is not computed here.
    """
    if prefix_spans is None:
        raise _unsupported("does not hand keyword arguments on to its attention")
    for name in _CHANGES_ATTENTION:
        if options.get(name) is not None:
            raise _unsupported(f"sets {name}")
    # Under autocast, norms and rotations leave queries and keys in float32, but not values.
    query_THE, key_TKE, value_TKE = (
        states[0].transpose(0, 1).to(value_1KTE.dtype)
        for states in (query_1HTE, key_1KTE, value_1KTE)
    )
    attend = partial(
        scaled_dot_product_attention, dropout_p=dropout, scale=scaling, enable_gqa=True
    )
    parts = []
    for span in prefix_spans:
        if span.prefix:
            prefix_1HPE = attend(
                _prefix_of(span, query_THE),
                _prefix_of(span, key_TKE),
                _prefix_of(span, value_TKE),
                is_causal=True,
            )
            parts.append(prefix_1HPE[0].transpose(0, 1))
        longest = span.slot_BR.shape[1]
        branches_BHRE = attend(
            _branches_of(span, query_THE),
            _prefix_and_branches_of(span, key_TKE),
            _prefix_and_branches_of(span, value_TKE),
            # The last query sees the last key, the one before it one key less, and so on.
            # Padding comes last, so no token sees it.
            attn_mask=causal_lower_right(longest, span.prefix + longest),
        )
        parts.append(branches_BHRE.transpose(1, 2).flatten(0, 1).index_select(0, span.kept_N))
    return torch.cat(parts)[None], None


def _prefix_of(span: GroupSpan, states_THE: Tensor) -> Tensor:
    """A group's prefix out of the row, [1, H, P, E]; likewise for keys and values."""
    return states_THE[span.start : span.start + span.prefix].transpose(0, 1)[None]


def _branches_of(span: GroupSpan, states_THE: Tensor) -> Tensor:
    """A group's branches out of the row, padded to the longest, [B, H, R, E]."""
    states_MHE = states_THE.index_select(0, span.slot_BR.flatten())
    return states_MHE.view(*span.slot_BR.shape, *states_THE.shape[1:]).transpose(1, 2)


def _prefix_and_branches_of(span: GroupSpan, states_TKE: Tensor) -> Tensor:
    """For each branch the group's prefix and then the branch, [B, K, P + R, E]."""
    own_BKRE = _branches_of(span, states_TKE)
    prefix_BKPE = _prefix_of(span, states_TKE).expand(len(own_BKRE), -1, -1, -1)
    return torch.cat([prefix_BKPE, own_BKRE], dim=2)


def _unsupported(what: str) -> UnsupportedAttention:
    return UnsupportedAttention(
        f"This model {what}, so its examples cannot share a prefix. "
        "Train it with group_size 1, or choose a model with full attention such as Qwen3."
    )


AttentionInterface.register(ATTENTION, shared_prefix_attention)
