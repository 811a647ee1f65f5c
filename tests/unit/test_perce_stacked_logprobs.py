"""Scores of several users in one pass are those of each user alone."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from fleet_members import HYPER, ids
from hypothesis import given, settings
from hypothesis import strategies as st
from noisy_adapter import noisy_adapter

from perce.logprobs import reply_logprobs
from perce.model import load_model
from perce.stacked import UserAdapter
from perce.stacked_logprobs import UserBatch, stacked_logprobs


@settings(max_examples=15, deadline=None)
@given(
    sizes=st.lists(
        st.lists(st.tuples(st.integers(1, 9), st.integers(1, 5)), max_size=3), max_size=4
    ),
    share=st.booleans(),
)
def test_stacked_users_score_as_alone_for_any_shapes(
    tiny_model_dir: Path, sizes: Sequence[Sequence[tuple[int, int]]], share: bool
) -> None:
    model = load_model(str(tiny_model_dir), "cpu")
    batches, expected = [], []
    for user, texts in enumerate(sizes):
        prompts = [ids(prompt) for prompt, _ in texts]
        replies = [ids(reply) for _, reply in texts]
        adapted = noisy_adapter(model, replace(HYPER, rank=2 + user, seed=user), 0.3)
        with torch.no_grad():
            expected.append(reply_logprobs(adapted, prompts, replies))
        batches.append(UserBatch(UserAdapter.taken_off(adapted), prompts, replies))
    with torch.no_grad(), stacked_logprobs(model, batches, share) as scored:
        for own, one in zip(scored, expected, strict=True):
            assert len(own) == len(one)
            for got, reference in zip(own, one, strict=True):
                torch.testing.assert_close(got, reference, atol=1e-5, rtol=1e-5)
