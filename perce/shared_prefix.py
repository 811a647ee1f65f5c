"""Log-probabilities of replies whose prompts begin alike, with the beginning computed once.

A user's examples often share their persona context, which is most of their length. Here the
common beginning of a group of prompts, the prefix, goes forward and backward once, and each
example adds only its branch: the rest of its prompt, and its reply. Under a causal model a
token's state depends on nothing after it, so the prefix has the same states in all examples;
and a branch that attends to the prefix and to itself, at the positions that follow the prefix,
has the states it has alone. So logprobs and gradients are those of the separate examples, up
to rounding, for every model without dropout; with dropout in the model or the adapter, the
examples of a group share the prefix's draw.

All groups of a batch lie end to end in one row, without padding:

    prefix 1 | branch 1a | branch 1b | branch 1c | prefix 2 | branch 2a | ...

Which tokens attend to which is `perce.shared_prefix_attention`; which examples make a good
group is `perce.shared_prefix_groups`.

Shapes: T tokens of the row, D the hidden size, N reply tokens of the whole row end to end.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel

from perce.logprobs import LOGITS_CHUNK, causal_lm_of, target_logprobs
from perce.shared_prefix_attention import GroupSpan, sharing_prefixes
from perce.shared_prefix_groups import MIN_SHARED, prefix_groups, shared_length


@dataclass(frozen=True, slots=True)
class Branch:
    """What one example adds to its group's prefix.

    Attributes:
        query_ids: The rest of its prompt; at least one token, which predicts the reply's first.
        reply_ids: Its reply; at least one token.
    """

    query_ids: tuple[int, ...]
    reply_ids: tuple[int, ...]

    @property
    def ids(self) -> tuple[int, ...]:
        """The tokens that follow the prefix."""
        return self.query_ids + self.reply_ids


@dataclass(frozen=True, slots=True)
class PrefixGroup:
    """Examples whose prompts begin with the same tokens.

    Attributes:
        prefix_ids: What all prompts begin with; may be empty.
        branches: What each example adds, at least one of them.
    """

    prefix_ids: tuple[int, ...]
    branches: tuple[Branch, ...]

    @classmethod
    def of(
        cls,
        prompts: Sequence[Sequence[int]],
        replies: Sequence[Sequence[int]],
        min_shared: int = 1,
    ) -> Self:
        """Group prompts, of at least one token each, and their replies.

        Args:
            prompts: What the replies answer.
            replies: One for each prompt, of at least one token.
            min_shared: A common beginning of fewer tokens is not shared: the prefix is empty.
        """
        shared = min(shared_length(prompts[0], prompt) for prompt in prompts)
        prefix = shared if shared >= min_shared and len(prompts) > 1 else 0
        return cls(
            tuple(prompts[0][:prefix]),
            tuple(
                Branch(tuple(prompt[prefix:]), tuple(reply))
                for prompt, reply in zip(prompts, replies, strict=True)
            ),
        )

    @property
    def length(self) -> int:
        """Tokens that go forward: the prefix once, and all branches."""
        return len(self.prefix_ids) + sum(len(branch.ids) for branch in self.branches)


def shared_logprobs(
    model: PreTrainedModel | PeftModel,
    prompts: Sequence[Sequence[int]],
    replies: Sequence[Sequence[int]],
    *,
    chunk: int = LOGITS_CHUNK,
) -> list[Tensor]:
    """As `perce.logprobs.reply_logprobs`, sharing the prefixes that these prompts happen to have.

    Args:
        model: A causal language model, plain or with adapters (which may be disabled).
        prompts: B prompts of at least one token each, in any order.
        replies: B replies of at least one token each.
        chunk: Reply tokens whose logits are computed at once.

    Returns:
        B tensors, one logprob per token of that reply.

    Raises:
        perce.shared_prefix_attention.UnsupportedAttention: See `sharing_prefixes`.
    """
    groups, rows = group_prompts(prompts, replies)
    scored = group_logprobs(model, groups, chunk=chunk)
    by_row = dict(zip(rows, scored, strict=True))
    return [by_row[row] for row in range(len(prompts))]


def group_prompts(
    prompts: Sequence[Sequence[int]], replies: Sequence[Sequence[int]]
) -> tuple[list[PrefixGroup], list[int]]:
    """Group prompts by the prefixes that they happen to share.

    Args:
        prompts: B prompts of at least one token each, in any order.
        replies: B replies of at least one token each.

    Returns:
        The groups, and which of the prompts each branch is, in order of groups and branches.
    """
    found = prefix_groups(prompts, len(prompts))
    # Those that share nothing make one group without prefix, which is a plain batch.
    alone = [row for rows in found if len(rows) == 1 for row in rows]
    groups = [rows for rows in found if len(rows) > 1] + ([alone] if alone else [])
    return [
        PrefixGroup.of([prompts[r] for r in rows], [replies[r] for r in rows], MIN_SHARED)
        for rows in groups
    ], [row for rows in groups for row in rows]


def group_logprobs(
    model: PreTrainedModel | PeftModel, groups: Sequence[PrefixGroup], *, chunk: int = LOGITS_CHUNK
) -> list[Tensor]:
    """Score each reply token: log P(y_i | prompt, y_<i), in nats, in float32 or better.

    All groups go forward as one row. Gradients flow to whatever in the model requires them,
    unless the caller disables them; with gradient checkpointing, run backward inside
    `perce.shared_prefix_attention.sharing_prefixes` too.

    Args:
        model: A causal language model, plain or with adapters (which may be disabled).
        groups: Groups of any sizes; none give an empty list.
        chunk: Reply tokens whose logits are computed at once.

    Returns:
        One tensor for each branch, in order of groups and branches: a logprob per token of
        its reply.

    Raises:
        perce.shared_prefix_attention.UnsupportedAttention: See `sharing_prefixes`.
    """
    if not groups:
        return []
    causal_lm = causal_lm_of(model)
    row = _Row.pack(groups, causal_lm.device)
    with sharing_prefixes(causal_lm):
        hidden_1TD = causal_lm.get_decoder()(
            input_ids=row.id_T[None],
            position_ids=row.position_T[None],
            use_cache=False,
            prefix_spans=row.spans,
        ).last_hidden_state
    logprobs_N = target_logprobs(
        hidden_1TD[0, row.before_N],
        causal_lm.get_output_embeddings(),
        row.id_T[row.before_N + 1],
        chunk,
    )
    return list(torch.split(logprobs_N, [len(branch.reply_ids) for branch in _branches(groups)]))


@dataclass(frozen=True, slots=True)
class _Row:
    """Groups end to end.

    Attributes:
        id_T: Token ids.
        position_T: Where each token stands in its own example.
        before_N: Slot before each reply token: whose state predicts it.
        spans: Where each group lies.
    """

    id_T: Tensor
    position_T: Tensor
    before_N: Tensor
    spans: tuple[GroupSpan, ...]

    @classmethod
    def pack(cls, groups: Sequence[PrefixGroup], device: torch.device) -> Self:
        ids: list[int] = []
        positions: list[int] = []
        before: list[int] = []
        spans = []
        for group in groups:
            prefix = len(group.prefix_ids)
            lengths = [len(branch.ids) for branch in group.branches]
            spans.append(GroupSpan.at(len(ids), prefix, lengths, device))
            ids += group.prefix_ids
            positions += range(prefix)
            for branch in group.branches:
                reply = len(ids) + len(branch.query_ids)
                before += range(reply - 1, reply + len(branch.reply_ids) - 1)
                ids += branch.ids
                positions += range(prefix, prefix + len(branch.ids))
        id_T, position_T, before_N = (
            torch.tensor(values, device=device) for values in (ids, positions, before)
        )
        return cls(id_T, position_T, before_N, tuple(spans))


def _branches(groups: Sequence[PrefixGroup]) -> Iterator[Branch]:
    for group in groups:
        yield from group.branches
