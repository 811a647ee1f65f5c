"""Sharing prefixes gives what separate examples give: logprobs, gradients, adapters."""

import random
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from noisy_adapter import noisy_adapter
from peft import PeftModel
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    PreTrainedModel,
    Qwen3Config,
    Qwen3ForCausalLM,
)

import perce
from perce.adapter import new_adapter
from perce.example import Example
from perce.hyperparameters import BadHyperparameter, Hyperparameters
from perce.logprobs import reply_logprobs
from perce.loss import perce_loss, perce_weights
from perce.model import load_model
from perce.shared_prefix import Branch, PrefixGroup, group_logprobs, shared_logprobs
from perce.shared_prefix_attention import (
    GroupSpan,
    UnsupportedAttention,
    shared_prefix_attention,
    sharing_prefixes,
)
from perce.shared_prefix_groups import (
    MIN_SHARED,
    group_batches,
    prefix_groups,
    shared_length,
    time_groups,
)
from perce.train import Step, rate_factor, train_adapter

REFERENCE = Path(perce.__path__[0]) / "reference"
RANDOM = random.Random(0)


def ids(length: int) -> list[int]:
    return [RANDOM.randrange(3, 380) for _ in range(length)]


SYSTEM, PERSONAS = ids(40), [ids(150), ids(90)]
FULL = Hyperparameters(rank=4, alpha=8)


def example(persona: Sequence[int], query: int, reply: int) -> Example:
    asked = ids(query)
    return Example((*SYSTEM, *persona, *asked), (*SYSTEM, *asked), tuple(ids(reply)))


EXAMPLES = [
    *(example(PERSONAS[0], 3 + 7 * n, 1 + 9 * (4 - n)) for n in range(5)),
    *(example(PERSONAS[1], 12, 5 + n) for n in range(3)),
    example(ids(60), 9, 14),
    *(example((), 20 + n, 8) for n in range(2)),
]
"""Two shared personas, five and three times, uneven; one of its own; two examples without."""


@pytest.fixture(scope="session")
def llama_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another family, without grouped queries and without norms on queries and keys."""
    folder = tmp_path_factory.mktemp("tiny-llama")
    config = LlamaConfig(
        vocab_size=384,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        initializer_range=0.2,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


def reference_adapter(hyper: Hyperparameters = FULL) -> PeftModel:
    """The reference model with LoRA on all projections, whose B matrices are not zero."""
    return noisy(load_model(str(REFERENCE), "cpu"), hyper)


def noisy(model: PreTrainedModel, hyper: Hyperparameters = FULL) -> PeftModel:
    return noisy_adapter(model, hyper, 0.05)


def trained(model: PeftModel) -> list[torch.nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def separate_perce_loss(
    model: PeftModel, examples: Sequence[Example], hyper: Hyperparameters
) -> Tensor:
    """PerCE with every example in a forward pass of its own."""
    logprobs, without = [], []
    for one in examples:
        logprobs += reply_logprobs(model, [one.prompt_ids], [one.reply_ids])
        with torch.no_grad():
            without += reply_logprobs(model, [one.prompt_ids_without], [one.reply_ids])
    logprobs_N, without_N = torch.cat(logprobs), torch.cat(without)
    weights_N = perce_weights(logprobs_N, without_N, hyper.clip_min, hyper.clip_max)
    return perce_loss(logprobs_N, weights_N)


def assert_same(got: Sequence[Tensor], expected: Sequence[Tensor], relative: float) -> None:
    """Each tensor differs by at most this share of its norm."""
    for one, other in zip(got, expected, strict=True):
        assert other.norm() > 0
        assert (one - other).norm() <= relative * other.norm()


def test_logprobs_and_perce_gradients_equal_those_of_separate_examples() -> None:
    model = reference_adapter()
    prompts, replies = [e.prompt_ids for e in EXAMPLES], [e.reply_ids for e in EXAMPLES]
    shared = shared_logprobs(model, prompts, replies)
    with torch.no_grad():
        without = shared_logprobs(model, [e.prompt_ids_without for e in EXAMPLES], replies)
    for one, own, bare in zip(EXAMPLES, shared, without, strict=True):
        (alone,) = reply_logprobs(model, [one.prompt_ids], [one.reply_ids])
        (alone_bare,) = reply_logprobs(model, [one.prompt_ids_without], [one.reply_ids])
        torch.testing.assert_close(own, alone, atol=2e-5, rtol=1e-5)
        torch.testing.assert_close(bare, alone_bare, atol=2e-5, rtol=1e-5)
    weights = perce_weights(torch.cat(shared), torch.cat(without), 0.8, 5.0)
    assert 0.8 < weights.mean() < 5.0
    loss = perce_loss(torch.cat(shared), weights)
    expected = separate_perce_loss(model, EXAMPLES, FULL)
    assert len(trained(model)) == 2 * 7 * 6
    assert_same(
        torch.autograd.grad(loss, trained(model)),
        torch.autograd.grad(expected, trained(model)),
        1e-5,
    )


@pytest.mark.parametrize("replies", [(1,), (5,), (4, 1, 9), (1, 1)])
@pytest.mark.parametrize("prefix", [0, 1, 40])
@pytest.mark.parametrize("family", ["tiny_model_dir", "llama_dir"])
def test_groups_of_any_shape_score_as_separate_examples(
    request: pytest.FixtureRequest, family: str, prefix: int, replies: tuple[int, ...]
) -> None:
    model = noisy(load_model(str(request.getfixturevalue(family)), "cpu"))
    common = ids(prefix)
    groups, alone = [], []
    for sizes in (replies, replies[::-1]):
        queries, texts = [ids(2 + n) for n in range(len(sizes))], [ids(n) for n in sizes]
        branches = [Branch(tuple(q), tuple(r)) for q, r in zip(queries, texts, strict=True)]
        groups.append(PrefixGroup(tuple(common), tuple(branches)))
        for query, text in zip(queries, texts, strict=True):
            alone += reply_logprobs(model, [[*common, *query]], [text])
    scored = group_logprobs(model, groups, chunk=3)
    for own, expected in zip(scored, alone, strict=True):
        torch.testing.assert_close(own, expected, atol=1e-5, rtol=1e-5)
    weights = torch.linspace(-1, 3, sum(map(len, alone)))
    assert_same(
        torch.autograd.grad((weights * torch.cat(scored)).sum(), trained(model)),
        torch.autograd.grad((weights * torch.cat(alone)).sum(), trained(model)),
        1e-4,
    )


def test_positions_reach_the_contexts_end(tiny_model: PreTrainedModel) -> None:
    end = tiny_model.config.max_position_embeddings
    prefix = ids(end - 60)
    prompts, replies = [[*prefix, 7, *ids(19)], [*prefix, 8]], [ids(40), ids(30)]
    assert len(prompts[0]) + len(replies[0]) == end
    with torch.no_grad():
        shared = shared_logprobs(tiny_model, prompts, replies)
        alone = reply_logprobs(tiny_model, prompts, replies)
    for own, expected in zip(shared, alone, strict=True):
        torch.testing.assert_close(own, expected, atol=1e-5, rtol=1e-5)


def test_a_disabled_adapter_scores_as_the_base(tiny_model: PreTrainedModel) -> None:
    prompts, replies = [e.prompt_ids for e in EXAMPLES], [e.reply_ids for e in EXAMPLES]
    base = torch.cat(reply_logprobs(tiny_model, prompts, replies))
    model = noisy(tiny_model)
    adapted = torch.cat(shared_logprobs(model, prompts, replies))
    with model.disable_adapter():
        disabled = torch.cat(shared_logprobs(model, prompts, replies))
    torch.testing.assert_close(disabled, base, atol=1e-5, rtol=1e-5)
    assert (adapted - base).abs().max() > 0.1


def test_no_groups_no_logprobs(tiny_model: PreTrainedModel) -> None:
    assert group_logprobs(tiny_model, []) == []
    assert shared_logprobs(tiny_model, [], []) == []


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


def forwards_of(model: PreTrainedModel) -> list[tuple[bool, int]]:
    """Grows by one entry per forward pass: whether gradients were on, and tokens computed."""
    forwards: list[tuple[bool, int]] = []
    model.get_decoder().register_forward_pre_hook(
        lambda _, args, options: forwards.append(
            (torch.is_grad_enabled(), options["input_ids"].numel())
        ),
        with_kwargs=True,
    )
    return forwards


def test_both_passes_compute_what_is_shared_once(tiny_model: PreTrainedModel) -> None:
    forwards = forwards_of(tiny_model)
    hyper = Hyperparameters(rank=4, epochs=1, batch_size=5, group_size=5)
    batch = EXAMPLES[:5]
    result = train_adapter(new_adapter(tiny_model, hyper), batch, hyper)
    own = sum(len(e.prompt_ids) + len(e.reply_ids) - 190 for e in batch)
    assert forwards == [(False, 40 + own), (True, 190 + own)]
    group = PrefixGroup.of([e.prompt_ids for e in batch], [e.reply_ids for e in batch])
    assert group.length == 190 + own
    assert result.tokens == 5 * 190 + own


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_trained_adapter_equals_that_of_separate_examples(checkpointing: bool) -> None:
    hyper = Hyperparameters(
        rank=4,
        learning_rate=1e-3,
        epochs=2,
        batch_size=8,
        group_size=4,
        gradient_checkpointing=checkpointing,
    )
    # In float64: Adam divides by the gradient's size, which makes rounding of small ones large.
    # What is left comes from norms, which transformers computes in float32 all the same.
    shared, separate = reference_adapter().double(), reference_adapter().double()
    start = [p.detach().clone() for p in trained(separate)]
    train_adapter(shared, EXAMPLES, hyper)
    optimizer = torch.optim.AdamW(trained(separate), betas=hyper.betas, weight_decay=0)
    batches = list(group_batches(EXAMPLES, hyper))
    for number, batch in enumerate(batches):
        rate = hyper.learning_rate * rate_factor(number, len(batches), hyper.warmup)
        optimizer.param_groups[0]["lr"] = rate
        optimizer.zero_grad()
        separate_perce_loss(separate, batch, hyper).backward()  # type: ignore[no-untyped-call]  # torch
        torch.nn.utils.clip_grad_norm_(trained(separate), hyper.max_grad_norm)
        optimizer.step()
    moved = [p.detach() - before for p, before in zip(trained(separate), start, strict=True)]
    assert_same(
        [p.detach() - before for p, before in zip(trained(shared), start, strict=True)],
        moved,
        1e-4,
    )


@pytest.mark.parametrize("group_size", [1, 4])
def test_checkpointing_computes_layers_again_and_changes_nothing(
    tiny_model_dir: Path, group_size: int
) -> None:
    adapters, layers = [], []
    for checkpointing in (False, True):
        hyper = Hyperparameters(
            rank=4,
            epochs=1,
            batch_size=4,
            group_size=group_size,
            gradient_checkpointing=checkpointing,
        )
        base = load_model(str(tiny_model_dir), "cpu")
        model = noisy(base, hyper)
        calls: list[bool] = []
        base.get_decoder().layers[0].mlp.register_forward_pre_hook(
            lambda *_, seen=calls: seen.append(torch.is_grad_enabled())
        )
        train_adapter(model, EXAMPLES, hyper)
        assert not base.is_gradient_checkpointing
        adapters.append([p.detach() for p in trained(model)])
        layers.append(sum(calls))
    assert layers[1] == 2 * layers[0] > 0
    assert_same(adapters[1], adapters[0], 1e-6)


def test_weights_serve_for_as_many_steps_as_asked(tiny_model: PreTrainedModel) -> None:
    forwards = forwards_of(tiny_model)
    hyper = Hyperparameters(
        rank=4, learning_rate=1e-2, epochs=5, batch_size=11, warmup=0, reweigh_every=2
    )
    steps = train_adapter(noisy(tiny_model), EXAMPLES, hyper).steps
    assert [grad for grad, _ in forwards] == [False, True, True] * 2 + [False, True]
    weights = [step.mean_weight for step in steps]
    assert weights[0] == pytest.approx(weights[1], abs=1e-6)
    assert weights[2] == pytest.approx(weights[3], abs=1e-6)
    assert abs(weights[2] - weights[1]) > 1e-3
    assert steps[0].personal_share == pytest.approx(steps[1].personal_share, abs=1e-6)


def test_the_loss_is_divided_by_tokens_or_by_their_weights(tiny_model_dir: Path) -> None:
    def first(hyper: Hyperparameters) -> Step:
        model = noisy(load_model(str(tiny_model_dir), "cpu"))
        return train_adapter(model, EXAMPLES, hyper).steps[0]

    by_tokens = first(Hyperparameters(rank=4, epochs=1, batch_size=11))
    by_weights = first(Hyperparameters(rank=4, epochs=1, batch_size=11, normalize="weights"))
    assert by_weights.mean_weight == by_tokens.mean_weight > 0.85
    assert by_weights.loss == pytest.approx(by_tokens.loss / by_tokens.mean_weight)


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


@pytest.mark.parametrize(
    "changed",
    [{"group_size": 0}, {"group_size": 5}, {"reweigh_every": 0}, {"normalize": "mean"}],
)
def test_options_out_of_range_are_named(changed: dict[str, object]) -> None:
    with pytest.raises(BadHyperparameter, match=next(iter(changed))):
        Hyperparameters(**changed)  # type: ignore[arg-type]  # the values are of mixed types
