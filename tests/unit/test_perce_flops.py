"""The formula equals what torch counts on a real step."""

from pathlib import Path

import pytest
import torch
from noisy_adapter import noisy_adapter
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from perce.example import Example
from perce.flops import Shape, Work, forward_flops, step_flops
from perce.hyperparameters import Hyperparameters
from perce.logprobs import reply_logprobs
from perce.model import load_model
from perce.shared_prefix import Branch, PrefixGroup, group_prompts
from perce.train import train_adapter

PERSONA, BARE, REPLY = tuple(range(3, 90)), tuple(range(5, 26)), tuple(range(200, 213))
HYPER = Hyperparameters(rank=8, epochs=1, batch_size=3)


def lone(prompt: tuple[int, ...], reply: tuple[int, ...]) -> PrefixGroup:
    return PrefixGroup((), (Branch(prompt, reply),))


def all_pairs(*lengths: int) -> int:
    """What the plain kernel computes, which masks attention only after the product."""
    return sum(length**2 for length in lengths)


@pytest.fixture
def counter() -> FlopCounterMode:
    return FlopCounterMode(display=False)


def test_a_forward_pass_takes_what_torch_counts(
    tiny_model_dir: Path, counter: FlopCounterMode
) -> None:
    model = load_model(str(tiny_model_dir), "cpu")
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        reply_logprobs(model, [PERSONA], [REPLY], chunk=5)
    length = len(PERSONA) + len(REPLY)
    work = Work(length, all_pairs(length), len(REPLY))
    assert forward_flops(Shape.of(model.config), work) == counter.get_total_flops()


@pytest.mark.parametrize("hyper", [HYPER, HYPER.plain_ce()], ids=["perce", "ce"])
def test_a_training_step_takes_what_torch_counts(
    tiny_model_dir: Path, counter: FlopCounterMode, hyper: Hyperparameters
) -> None:
    model = noisy_adapter(load_model(str(tiny_model_dir), "cpu"), hyper)
    examples = [Example((*PERSONA, n), (*BARE, n), REPLY) for n in range(3)]
    with sdpa_kernel(SDPBackend.MATH), counter:
        train_adapter(model, examples, hyper)
    long, short = len(PERSONA) + 1 + len(REPLY), len(BARE) + 1 + len(REPLY)
    own = Work(3 * long, all_pairs(long, long, long), 3 * len(REPLY))
    without = Work(3 * short, all_pairs(short, short, short), 3 * len(REPLY))
    shape = Shape.of(model.config)
    flops = step_flops(shape, own, without if hyper.weighs_tokens else None, hyper.rank)
    assert flops == counter.get_total_flops()


def test_a_shared_prefix_is_counted_once() -> None:
    prompts = [(*PERSONA, 3, 3), (*PERSONA, 4)]
    groups, _ = group_prompts(prompts, [REPLY, REPLY])
    prefix, branches = len(PERSONA), (2 + len(REPLY), 1 + len(REPLY))
    work = Work.of(groups)
    assert work.tokens == prefix + sum(branches)
    sees = [n + 1 for n in range(prefix)]
    sees += [prefix + n + 1 for branch in branches for n in range(branch)]
    assert work.pairs == sum(sees)
    assert work.replies == 2 * len(REPLY)


def test_examples_that_share_nothing_add_up() -> None:
    one, other = lone(PERSONA, REPLY), lone(BARE, REPLY)
    together, first, second = Work.of([one, other]), Work.of([one]), Work.of([other])
    assert together.tokens == first.tokens + second.tokens
    assert together.pairs == first.pairs + second.pairs
    assert first.pairs == sum(range(len(PERSONA) + len(REPLY) + 1))
