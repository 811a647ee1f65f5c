"""Sharing prefixes gives the logprobs and gradients that separate examples give."""

from pathlib import Path

import pytest
import torch
from paper_loss import perce_loss
from persona_examples import (
    EXAMPLES,
    FULL,
    assert_same,
    ids,
    noisy,
    reference_adapter,
    separate_perce_loss,
    trained,
)
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel

from perce.logprobs import reply_logprobs
from perce.loss import perce_weights
from perce.model import load_model
from perce.shared_prefix import Branch, PrefixGroup, group_logprobs, shared_logprobs


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
