import subprocess
import sys

import pytest

from perce.example import ExampleTooLong, encode
from perce.hyperparameters import BadHyperparameter, Hyperparameters
from perce.prompt import ContextItem, prompt_pair
from perce.tokens import ChatTokenizer

QUERY = [{"role": "user", "content": "How was the film?"}]
CONTEXT = [
    ContextItem("fact", "Has a dog"),
    *[ContextItem("text", f"text number {n} " * 3, f"query {n}") for n in range(4)],
]
TORCH_FREE = [
    *("tokens", "pir", "words", "prompt", "example", "adapter_files", "errors"),
    *("cutting", "contrasting", "scorer"),
]


def test_an_example_is_the_prompt_pair_and_the_ended_reply(chat_tokenizer: ChatTokenizer) -> None:
    example = encode(chat_tokenizer, QUERY, CONTEXT, "Fine.", max_length=2000)
    pair = prompt_pair(QUERY, CONTEXT)
    assert example.prompt_ids == tuple(chat_tokenizer.prompt_ids(pair.with_persona))
    assert example.prompt_ids_without == tuple(chat_tokenizer.prompt_ids(QUERY))
    assert example.reply_ids == (*chat_tokenizer.reply_ids("Fine."), chat_tokenizer.end_id)
    assert example.dropped_texts == 0
    assert example.has_persona
    assert not encode(chat_tokenizer, QUERY, [], "Fine.", 2000).has_persona


@pytest.mark.parametrize("dropped", range(5))
def test_as_few_oldest_texts_as_needed_are_dropped(
    chat_tokenizer: ChatTokenizer, dropped: int
) -> None:
    kept = [CONTEXT[0], *CONTEXT[1 + dropped :]]
    fitting = encode(chat_tokenizer, QUERY, kept, "Fine.", 2000)
    assert encode(chat_tokenizer, QUERY, CONTEXT, "Fine.", fitting.length).prompt_ids == (
        fitting.prompt_ids
    )
    assert encode(chat_tokenizer, QUERY, CONTEXT, "Fine.", fitting.length).dropped_texts == dropped


def test_a_reply_is_never_cut(chat_tokenizer: ChatTokenizer) -> None:
    with pytest.raises(ExampleTooLong, match="exceed max_length 100"):
        encode(chat_tokenizer, QUERY, CONTEXT, "Long. " * 100, max_length=100)


def test_plain_ce_is_the_same_run_with_all_weights_one() -> None:
    hyper = Hyperparameters(rank=8)
    assert hyper.weighs_tokens
    assert hyper.plain_ce() == Hyperparameters(rank=8, clip_min=1.0, clip_max=1.0)
    assert not hyper.plain_ce().weighs_tokens
    assert [hyper.of_method(method) for method in ("perce", "ce")] == [hyper, hyper.plain_ce()]


@pytest.mark.parametrize(
    "changed",
    [
        {"rank": 0},
        {"alpha": 0},
        {"dropout": 1.0},
        {"learning_rate": 0.0},
        {"learning_rate": float("nan")},
        {"epochs": 0},
        {"batch_size": 0},
        {"warmup": 1.5},
        {"betas": (0.9, 1.0)},
        {"weight_decay": -1.0},
        {"max_grad_norm": float("inf")},
        {"clip_min": -0.1},
        {"clip_min": 0.0, "normalize": "weights"},
        {"clip_max": 0.5},
        {"max_length": 0},
    ],
)
def test_hyperparameters_out_of_range_are_named(changed: dict[str, float]) -> None:
    with pytest.raises(BadHyperparameter, match=next(iter(changed))):
        Hyperparameters(**changed)  # type: ignore[arg-type]  # the values are of mixed types


def test_the_servers_part_of_the_method_imports_without_torch() -> None:
    modules = ", ".join(f"perce.{name}" for name in [*TORCH_FREE, "hyperparameters"])
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
