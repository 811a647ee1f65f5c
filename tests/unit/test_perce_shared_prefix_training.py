"""Training with shared prefixes gives the adapter of separate examples, and computes less."""

from pathlib import Path

import pytest
import torch
from persona_examples import (
    EXAMPLES,
    assert_same,
    noisy,
    reference_adapter,
    separate_perce_loss,
    trained,
)
from transformers import PreTrainedModel

from perce.adapter import new_adapter
from perce.hyperparameters import BadHyperparameter, Hyperparameters
from perce.model import load_model
from perce.shared_prefix import PrefixGroup
from perce.shared_prefix_groups import group_batches
from perce.train import Step, rate_factor, train_adapter


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


@pytest.mark.parametrize(
    "changed",
    [{"group_size": 0}, {"group_size": 5}, {"reweigh_every": 0}, {"normalize": "mean"}],
)
def test_options_out_of_range_are_named(changed: dict[str, object]) -> None:
    with pytest.raises(BadHyperparameter, match=next(iter(changed))):
        Hyperparameters(**changed)  # type: ignore[arg-type]  # the values are of mixed types
