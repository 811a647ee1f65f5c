"""How many floating-point operations training steps take: what a step's time cannot go below.

A product of matrices [m, k] and [k, n] counts 2 m k n; everything else (norms, activations,
softmax, the optimizer) is left out, being of lower order. Of a decoder with L layers, for T
tokens, P pairs of a query and a key that it attends to, and N reply tokens:

    forward    2 T W + 4 P L E + 2 N D V     products with weights, attention, logits
    backward   2 T W + 8 P L E + 2 N D V     the same products for the gradients of activations
               + 4 T r S                     and for those of A and B, with x A^T and g B

with W the weights of all adapted projections, E the width of all query heads together, D the
hidden size, V the vocabulary, r the rank and S the sum of inputs and outputs over the adapted
projections. The base is frozen, so its weights take no gradients, and nothing goes back
through the first layer's queries, keys and values to the embeddings, which saves 2 T of their
weights. Logits are needed at reply positions alone. Adding the adapter to the weights, once a
step, takes 2 r W (`perce.merged_lora`). Attention is causal: a sequence of n tokens has
n (n + 1) / 2 pairs, which kernels that compute masked pairs too do not reach.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from transformers import PretrainedConfig

from perce.shared_prefix import PrefixGroup


@dataclass(frozen=True, slots=True)
class Shape:
    """What of a model's shape decides its work: Llama's, Mistral's and Qwen's kind of decoder.

    Attributes:
        layers: How many there are.
        hidden: Width of the residual stream.
        query: Width of all query heads together.
        key_value: Width of all key heads together, and of all value heads.
        intermediate: Width inside the feed-forward part.
        vocabulary: Logits per token.
    """

    layers: int
    hidden: int
    query: int
    key_value: int
    intermediate: int
    vocabulary: int

    @classmethod
    def of(cls, config: PretrainedConfig) -> Self:
        """Read a model's shape from its config."""
        text = config.get_text_config()
        head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        return cls(
            layers=text.num_hidden_layers,
            hidden=text.hidden_size,
            query=head * text.num_attention_heads,
            key_value=head * text.num_key_value_heads,
            intermediate=text.intermediate_size,
            vocabulary=text.vocab_size,
        )

    @property
    def weights(self) -> int:
        """Weights of the adapted projections of all layers."""
        attention = 2 * self.hidden * (self.query + self.key_value)
        return self.layers * (attention + 3 * self.hidden * self.intermediate)

    @property
    def lora_sides(self) -> int:
        """Inputs and outputs of the adapted projections of all layers: LoRA weights per rank."""
        attention = 4 * self.hidden + 2 * (self.query + self.key_value)
        return self.layers * (attention + 3 * (self.hidden + self.intermediate))


@dataclass(frozen=True, slots=True)
class Work:
    """What goes forward in a pass.

    Attributes:
        tokens: T.
        pairs: P, pairs of a token and one that it attends to.
        replies: N, tokens whose logits are computed.
    """

    tokens: int
    pairs: int
    replies: int

    @classmethod
    def of(cls, groups: Sequence[PrefixGroup]) -> Self:
        """The work of groups that share prefixes; a group of one branch is a lone example."""
        tokens = pairs = replies = 0
        for group in groups:
            prefix = len(group.prefix_ids)
            tokens += group.length
            pairs += _causal_pairs(prefix)
            for branch in group.branches:
                pairs += len(branch.ids) * prefix + _causal_pairs(len(branch.ids))
                replies += len(branch.reply_ids)
        return cls(tokens, pairs, replies)


def forward_flops(shape: Shape, work: Work) -> int:
    """Of a pass without gradient, the adapter already in the weights."""
    products = work.tokens * shape.weights + work.replies * shape.hidden * shape.vocabulary
    return 2 * products + 4 * work.pairs * shape.layers * shape.query


def backward_flops(shape: Shape, work: Work, rank: int) -> int:
    """Of the backward pass through a frozen base to a LoRA adapter on all its projections."""
    first_inputs = shape.hidden * (shape.query + 2 * shape.key_value)
    products = work.tokens * (shape.weights - first_inputs)
    products += work.replies * shape.hidden * shape.vocabulary
    attention = 8 * work.pairs * shape.layers * shape.query
    return 2 * products + attention + 4 * work.tokens * rank * shape.lora_sides


def merge_flops(shape: Shape, rank: int) -> int:
    """Of adding the adapter to the weights, once a step."""
    return 2 * rank * shape.weights


def step_flops(shape: Shape, own: Work, without: Work | None, rank: int) -> int:
    """Of a training step.

    Args:
        shape: The model's.
        own: The pass with persona, which goes backward too.
        without: The pass without persona; None for plain cross-entropy, which has none.
        rank: The adapter's.
    """
    flops = merge_flops(shape, rank) + forward_flops(shape, own) + backward_flops(shape, own, rank)
    return flops + (forward_flops(shape, without) if without else 0)


def _causal_pairs(tokens: int) -> int:
    return tokens * (tokens + 1) // 2
