"""Log-probabilities of several users' replies, each under the user's own adapter.

All users go forward in one pass: as one padded batch, or, with shared prefixes, as one packed
row, where each prefix is computed once for its user and never shared between users, whose
adapters give it different states. The figures are those of `perce.logprobs` and
`perce.shared_prefix` for each user alone, up to rounding.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, islice
from operator import itemgetter

import torch
from torch import Tensor
from transformers import PreTrainedModel

from perce.logprobs import reply_logprobs
from perce.shared_prefix import group_logprobs, group_prompts
from perce.shared_prefix_attention import sharing_prefixes
from perce.stacked import UserAdapter, stacked_adapters


@dataclass(frozen=True, slots=True)
class UserBatch:
    """What one user's adapter is to score.

    Attributes:
        adapter: The adapter.
        prompts: Prompts of at least one token each; there may be none.
        replies: One for each prompt, of at least one token.
    """

    adapter: UserAdapter
    prompts: Sequence[Sequence[int]]
    replies: Sequence[Sequence[int]]


@contextmanager
def stacked_logprobs(
    model: PreTrainedModel,
    batches: Sequence[UserBatch],
    share_prefixes: bool = False,
    autocast: bool = False,
) -> Iterator[list[list[Tensor]]]:
    """Score each reply token of each user: log P(y_i | prompt, y_<i), in nats.

    With gradient checkpointing, run backward before the context ends.

    Args:
        model: The base model, without PEFT's wrapper or layers.
        batches: One for each user.
        share_prefixes: Whether the prefixes that a user's prompts share are computed once.
        autocast: Whether the layers compute in bfloat16; see `Hyperparameters.autocast`.

    Yields:
        For each user, one tensor for each reply: a logprob per token.

    Raises:
        perce.shared_prefix_attention.UnsupportedAttention: See `sharing_prefixes`.
    """
    prompts = [list(batch.prompts) for batch in batches]
    replies = [list(batch.replies) for batch in batches]
    adapters = [batch.adapter for batch in batches]
    counts = [len(own) for own in prompts]
    if share_prefixes:
        grouped = [group_prompts(*own) for own in zip(prompts, replies, strict=True)]
        tokens = [sum(group.length for group in groups) for groups, _ in grouped]
        with sharing_prefixes(model), stacked_adapters(model, adapters, tokens):
            with _precision(model, autocast):
                scored = group_logprobs(model, [one for groups, _ in grouped for one in groups])
            yield [
                [own for _, own in sorted(zip(rows, logprobs, strict=True), key=itemgetter(0))]
                for (_, rows), logprobs in zip(grouped, _cut(scored, counts), strict=True)
            ]
    else:
        with stacked_adapters(model, adapters, counts):
            with _precision(model, autocast):
                scored = reply_logprobs(model, list(chain(*prompts)), list(chain(*replies)))
            yield _cut(scored, counts)


def _precision(model: PreTrainedModel, autocast: bool) -> torch.autocast:
    return torch.autocast(model.device.type, torch.bfloat16, enabled=autocast)


def _cut(scored: Sequence[Tensor], counts: Sequence[int]) -> list[list[Tensor]]:
    """Consecutive stretches of these lengths."""
    rest = iter(scored)
    return [list(islice(rest, count)) for count in counts]
