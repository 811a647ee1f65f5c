"""Attention with shared prefixes is that under a dense mask; where it cannot be, it says so."""

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel, Qwen3Config, Qwen3ForCausalLM

from perce.shared_prefix import PrefixGroup, group_logprobs
from perce.shared_prefix_attention import (
    GroupSpan,
    UnsupportedAttention,
    shared_prefix_attention,
    sharing_prefixes,
)


def test_attention_equals_a_softmax_under_a_dense_mask() -> None:
    generator = torch.Generator().manual_seed(0)
    query, key, value = (
        torch.randn(1, heads, 17, 8, generator=generator, dtype=torch.float64)
        for heads in (4, 2, 2)
    )
    cpu = torch.device("cpu")
    spans = [GroupSpan.at(0, 4, [3, 1, 2], cpu), GroupSpan.at(10, 0, [2, 5], cpu)]
    # The example that each slot belongs to, and -1 - group for a prefix.
    owner = np.array([-1] * 4 + [0] * 3 + [1] + [2] * 2 + [3] * 2 + [4] * 5)
    sees = (owner[:, None] == owner) | ((owner == -1) & (owner[:, None] < 3))
    sees &= np.tri(17, dtype=bool)
    got, _ = shared_prefix_attention(
        torch.nn.Identity(), query, key, value, None, prefix_spans=spans, scaling=0.3
    )
    for head in range(4):
        scores = 0.3 * query[0, head].numpy() @ key[0, head // 2].numpy().T
        odds = np.exp(scores) * sees
        expected = odds / odds.sum(1, keepdims=True) @ value[0, head // 2].numpy()
        np.testing.assert_allclose(got[0, :, head].numpy(), expected, atol=1e-12)


def test_models_that_attend_otherwise_are_refused_and_left_as_they_were() -> None:
    config = Qwen3Config(
        vocab_size=8,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=2,
        num_attention_heads=1,
        num_key_value_heads=1,
        head_dim=8,
        layer_types=["full_attention", "sliding_attention"],
    )
    model = Qwen3ForCausalLM(config)
    group = PrefixGroup.of([[1, 2], [1, 3]], [[4], [5]])
    with pytest.raises(UnsupportedAttention, match=r"sliding_attention.*group_size 1"):
        group_logprobs(model, [group])
    assert model.config._attn_implementation == "sdpa"
    states = torch.zeros(1, 1, 2, 8)
    spans = [GroupSpan.at(0, 0, [2], states.device)]
    with pytest.raises(UnsupportedAttention, match="s_aux"):
        shared_prefix_attention(
            model, states, states, states, None, prefix_spans=spans, s_aux=states
        )


def test_the_models_own_attention_comes_back(tiny_model: PreTrainedModel) -> None:
    ids_BT = torch.tensor([[5, 6, 7]])
    before = tiny_model(input_ids=ids_BT).logits
    with sharing_prefixes(tiny_model), pytest.raises(UnsupportedAttention, match="hand keyword"):
        tiny_model(input_ids=ids_BT)
    assert tiny_model.config._attn_implementation == "sdpa"
    assert torch.equal(tiny_model(input_ids=ids_BT).logits, before)
