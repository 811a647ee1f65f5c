"""Which examples share a prefix: groups that save the most, whole batches, runs in time."""

from collections.abc import Sequence
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st
from persona_examples import EXAMPLES

from perce.hyperparameters import Hyperparameters
from perce.shared_prefix import PrefixGroup
from perce.shared_prefix_groups import (
    MIN_SHARED,
    group_batches,
    prefix_groups,
    shared_length,
    time_groups,
)


def test_a_group_shares_what_all_prompts_begin_with_if_that_is_enough() -> None:
    prompts, replies = [[1, 2, 3, 4], [1, 2, 3, 5, 6], [1, 2, 3]], [[7], [8, 9], [10]]
    group = PrefixGroup.of(prompts, replies)
    assert group.prefix_ids == (1, 2)
    assert [branch.query_ids for branch in group.branches] == [(3, 4), (3, 5, 6), (3,)]
    assert group.length == 2 + 2 + 3 + 1 + 4
    for nothing in (
        PrefixGroup.of(prompts, replies, min_shared=3),
        PrefixGroup.of(prompts[:1], replies[:1]),
    ):
        assert nothing.prefix_ids == ()
        assert nothing.branches[0].ids == (1, 2, 3, 4, 7)


def saved_tokens(groups: Sequence[Sequence[Sequence[int]]], min_shared: int) -> int:
    """What sharing saves, or less than nothing where a group shares too little."""
    total = 0
    for group in groups:
        common = min(shared_length(group[0], prompt) for prompt in group)
        if len(group) > 1 and common < min_shared:
            return -1
        total += common * (len(group) - 1)
    return total


@given(
    prompts=st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=6), max_size=7),
    group_size=st.integers(1, 4),
    min_shared=st.integers(1, 3),
)
def test_prefix_groups_save_the_most_of_all_cuts_of_the_sorted_order(
    prompts: list[list[int]], group_size: int, min_shared: int
) -> None:
    groups = prefix_groups(prompts, group_size, min_shared)
    assert sorted(row for rows in groups for row in rows) == list(range(len(prompts)))
    assert all(rows == sorted(rows) and len(rows) <= group_size for rows in groups)
    saved = saved_tokens([[prompts[row] for row in rows] for rows in groups], min_shared)
    ordered = sorted(prompts)
    best = 0
    for cuts in product([False, True], repeat=max(0, len(prompts) - 1)):
        cut: list[list[list[int]]] = [ordered[:1]] if ordered else []
        for prompt, here in zip(ordered[1:], cuts, strict=True):
            if here:
                cut.append([prompt])
            else:
                cut[-1].append(prompt)
        if all(len(group) <= group_size for group in cut):
            best = max(best, saved_tokens(cut, min_shared))
    assert saved == best


@given(st.lists(st.integers(0, 2), min_size=1), st.lists(st.integers(0, 2), min_size=1))
def test_a_token_of_both_prompts_is_never_shared(first: list[int], second: list[int]) -> None:
    shared = shared_length(first, second)
    assert first[:shared] == second[:shared]
    assert shared < min(len(first), len(second))
    assert shared == min(len(first), len(second)) - 1 or first[shared] != second[shared]


def test_batches_keep_groups_whole_and_every_epoch_has_every_example_once() -> None:
    hyper = Hyperparameters(epochs=3, batch_size=6, group_size=3, seed=5)
    batches = list(group_batches(EXAMPLES, hyper))
    assert batches == list(group_batches(EXAMPLES, hyper))
    groups = prefix_groups([e.prompt_ids for e in EXAMPLES], 3, MIN_SHARED)
    assert sorted(map(len, groups)) == [1, 2, 2, 3, 3]
    assert all(len(batch) <= 6 for batch in batches)
    for rows in groups:
        members = [EXAMPLES[row] for row in rows]
        holders = [batch for batch in batches if members[0] in batch]
        assert len(holders) == 3
        assert all(member in batch for member in members for batch in holders)
    assert sorted(e.length for b in batches for e in b) == sorted(3 * [e.length for e in EXAMPLES])
    per_epoch = len(batches) // 3
    assert batches[:per_epoch] != batches[per_epoch : 2 * per_epoch]


@given(
    texts=st.integers(0, 200),
    group_size=st.integers(1, 16),
    alone=st.floats(0, 1),
    seed=st.integers(0, 3),
)
def test_runs_in_time_have_more_history_than_texts(
    texts: int, group_size: int, alone: float, seed: int
) -> None:
    runs = time_groups(texts, group_size, alone, seed)
    assert [index for run in runs for index in run] == list(range(texts))
    assert all(len(run) <= max(1, min(group_size, run.start)) for run in runs)
    assert runs == time_groups(texts, group_size, alone, seed)


@pytest.mark.parametrize("alone", [0.0, 0.25, 1.0])
def test_about_as_many_texts_stay_alone_as_asked(alone: float) -> None:
    runs = time_groups(20_000, 8, alone)
    single = sum(len(run) == 1 for run in runs)
    assert single / 20_000 == pytest.approx(alone, abs=0.02)
