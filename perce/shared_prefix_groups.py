"""Which examples to train together, so that they share as long a prefix as possible.

Three questions, without tensors: which texts of a history should get one persona context
(`time_groups`, asked by whoever builds the examples), which examples have a long common
beginning (`prefix_groups`), and which groups make a batch (`group_batches`). What a shared
prefix is good for is `perce.shared_prefix`.
"""

import random
from collections.abc import Iterator, Sequence
from itertools import pairwise

from perce.example import Example
from perce.hyperparameters import Hyperparameters

MIN_SHARED = 32
"""Tokens from which on a common beginning is worth sharing; a template's opening is shorter."""


def time_groups(texts: int, group_size: int, alone: float = 0.25, seed: int = 0) -> list[range]:
    """Cut a user's history into runs of texts that are to share one persona context.

    A run's context may use only what is older than the run's first text, so that no example
    sees itself or what came later. A run is therefore never longer than the history before
    it: the first text stands alone, without context, and runs grow from there. Some texts
    stay alone all along, so that training also meets contexts as they are in serving, chosen
    for one query.

    Args:
        texts: How many texts there are, oldest first.
        group_size: Most texts of a run.
        alone: About which share of the texts is to stay alone, between 0 and 1.
        seed: Seeds which ones.

    Returns:
        Runs of consecutive indices, oldest first, that cover all texts.
    """
    draw = random.Random(seed)
    # So that of all texts, not of all runs, the share `alone` is in runs of one.
    odds = alone * group_size / (1 - alone + alone * group_size)
    runs: list[range] = []
    start = 0
    while start < texts:
        size = 1 if draw.random() < odds else max(1, min(group_size, start, texts - start))
        runs.append(range(start, start + size))
        start += size
    return runs


def prefix_groups(
    prompts: Sequence[Sequence[int]], group_size: int, min_shared: int = MIN_SHARED
) -> list[list[int]]:
    """Group prompts by their longest common beginning.

    In sorted order, prompts that begin alike are neighbours. Of all ways to cut that order
    into groups, this is one that saves the most tokens: each group its common beginning, once
    for every prompt but one.

    Args:
        prompts: Prompts of at least one token each.
        group_size: Most prompts of a group.
        min_shared: Fewest common tokens of a group of two and more.

    Returns:
        Groups of indices, which ascend in each group; every index is in one of them.
    """
    order = sorted(range(len(prompts)), key=lambda row: tuple(prompts[row]))
    shared = [shared_length(prompts[a], prompts[b]) for a, b in pairwise(order)]
    # Of the first `end` prompts in order: most tokens saved, and the size of their last group.
    saved, last = [0] * (len(order) + 1), [1] * (len(order) + 1)
    for end in range(1, len(order) + 1):
        saved[end] = saved[end - 1]
        common = len(prompts[order[end - 1]])
        for size in range(2, min(group_size, end) + 1):
            common = min(common, shared[end - size])
            if common < min_shared:
                break
            if saved[end - size] + common * (size - 1) > saved[end]:
                saved[end], last[end] = saved[end - size] + common * (size - 1), size
    groups = []
    end = len(order)
    while end:
        groups.append(sorted(order[end - last[end] : end]))
        end -= last[end]
    return groups[::-1]


def group_batches(examples: Sequence[Example], hyper: Hyperparameters) -> Iterator[list[Example]]:
    """Batches of all epochs, of whole groups that share a prefix, in an order the seed decides.

    The groups are the same in every epoch; which of them, and which lone examples, meet in a
    batch is not. A batch has `hyper.batch_size` examples or fewer.
    """
    order = random.Random(hyper.seed)
    groups = prefix_groups([example.prompt_ids for example in examples], hyper.group_size)
    for _ in range(hyper.epochs):
        batches: list[list[Example]] = []
        unfilled: list[list[Example]] = []
        for rows in order.sample(groups, len(groups)):
            room = hyper.batch_size - len(rows)
            batch = next((batch for batch in unfilled if len(batch) <= room), None)
            if batch is None:
                batch = []
                batches.append(batch)
                unfilled.append(batch)
            batch += [examples[row] for row in rows]
            if len(batch) == hyper.batch_size:
                unfilled.remove(batch)
        order.shuffle(batches)
        yield from batches


def shared_length(first: Sequence[int], second: Sequence[int]) -> int:
    """How many tokens two prompts share at their beginning, with one left over in both.

    The last token of a prompt predicts the reply, so it is never shared.
    """
    length = min(len(first), len(second)) - 1
    return next(
        (n for n, (a, b) in enumerate(zip(first[:length], second, strict=False)) if a != b), length
    )
