import math
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import PreTrainedModel

from perce.adapter import load_adapter, new_adapter, save_adapter
from perce.evaluate import (
    ExampleLoss,
    NothingHeldOut,
    held_out_losses,
    mean_loss,
    mean_personal_loss,
    paired_bootstrap,
    personal_mask,
)
from perce.example import Example, encode
from perce.hyperparameters import Hyperparameters, rate_for_width
from perce.model import load_model
from perce.prompt import ContextItem
from perce.tokens import ChatTokenizer
from perce.train import (
    NothingToTrain,
    Step,
    TrainingDiverged,
    length_batches,
    rate_factor,
    train_adapter,
)

HYPER = Hyperparameters(rank=4, alpha=8, epochs=2, learning_rate=1e-2)


@pytest.fixture
def examples(chat_tokenizer: ChatTokenizer) -> list[Example]:
    context = [ContextItem("fact", "Loves the sea")]
    return [
        encode(
            chat_tokenizer,
            [{"role": "user", "content": f"Question {n}?"}],
            context,
            "The sea, honestly!" * (1 + n % 3),
            max_length=400,
        )
        for n in range(10)
    ]


def trained_weights(model: PeftModel) -> list[torch.Tensor]:
    return [p.detach().clone() for p in model.parameters() if p.requires_grad]


def count_forwards(model: PreTrainedModel) -> list[bool]:
    """Grows by one entry per forward pass: whether gradients were on."""
    forwards: list[bool] = []
    model.get_decoder().register_forward_pre_hook(
        lambda *_: forwards.append(torch.is_grad_enabled())
    )
    return forwards


def test_training_lowers_the_loss_on_held_out_texts_too(
    tiny_model: PreTrainedModel, examples: list[Example]
) -> None:
    peft_model = new_adapter(tiny_model, HYPER)
    masks = personal_mask(peft_model, examples)
    before = held_out_losses(peft_model, examples[8:])
    seen: list[Step] = []
    result = train_adapter(peft_model, examples[:8], HYPER, on_step=seen.append)
    after = held_out_losses(peft_model, examples[8:])
    assert mean_loss(after) < 0.8 * mean_loss(before)
    assert seen == list(result.steps)
    assert [step.step for step in seen] == [1, 2, 3, 4]
    assert {step.steps for step in seen} == {4}
    assert all(0.8 <= step.mean_weight <= 5.0 for step in seen)
    assert all(step.personal_share is not None for step in seen)
    assert result.tokens == 2 * sum(example.length for example in examples[:8])
    assert not peft_model.training
    # The mask is the base model's, so training does not move it.
    assert all(
        np.array_equal(a, b)
        for a, b in zip(masks, personal_mask(peft_model, examples), strict=True)
    )


def test_the_same_seed_gives_the_same_adapter_and_another_does_not(
    tiny_model_dir: Path, examples: list[Example]
) -> None:
    def adapter(hyper: Hyperparameters) -> list[torch.Tensor]:
        peft_model = new_adapter(load_model(str(tiny_model_dir), "cpu"), HYPER)
        train_adapter(peft_model, examples, hyper)
        return trained_weights(peft_model)

    dropping = Hyperparameters(rank=4, epochs=1, dropout=0.1)
    first = adapter(dropping)
    torch.rand(7)
    assert all(torch.equal(a, b) for a, b in zip(first, adapter(dropping), strict=True))
    other = adapter(Hyperparameters(rank=4, epochs=1, dropout=0.1, seed=1))
    assert not all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_plain_ce_does_no_second_forward_and_perce_does_one(
    tiny_model: PreTrainedModel, examples: list[Example]
) -> None:
    forwards = count_forwards(tiny_model)
    peft_model = new_adapter(tiny_model, HYPER)
    result = train_adapter(peft_model, examples[:8], HYPER.plain_ce())
    assert forwards == [True] * 4
    assert {(step.mean_weight, step.personal_share) for step in result.steps} == {(1.0, None)}
    forwards.clear()
    train_adapter(peft_model, examples[:8], HYPER)
    assert forwards == [False, True] * 4


def test_examples_without_persona_weigh_m_and_are_scored_once(
    tiny_model: PreTrainedModel, examples: list[Example]
) -> None:
    bare = [Example(e.prompt_ids_without, e.prompt_ids_without, e.reply_ids) for e in examples]
    forwards = count_forwards(tiny_model)
    result = train_adapter(new_adapter(tiny_model, HYPER), bare, HYPER)
    assert forwards == [True] * len(result.steps)
    assert all(step.mean_weight == pytest.approx(0.8) for step in result.steps)
    assert {step.personal_share for step in result.steps} == {0.0}


def test_one_step_of_ce_equals_torch_on_the_models_own_loss(
    tiny_model_dir: Path, examples: list[Example]
) -> None:
    hyper = Hyperparameters(rank=4, epochs=1, batch_size=1, warmup=1.0, weight_decay=0.1).plain_ce()
    ours = new_adapter(load_model(str(tiny_model_dir), "cpu"), hyper)
    train_adapter(ours, examples[:1], hyper)
    theirs = new_adapter(load_model(str(tiny_model_dir), "cpu"), hyper)
    trained = [p for p in theirs.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=hyper.learning_rate, weight_decay=0.1)
    prompt, reply = examples[0].prompt_ids, examples[0].reply_ids
    ids = torch.tensor([[*prompt, *reply]])
    theirs(input_ids=ids, labels=ids.masked_fill(torch.arange(ids.shape[1]) < len(prompt), -100))[
        "loss"
    ].backward()
    torch.nn.utils.clip_grad_norm_(trained, 1.0)
    optimizer.step()
    for a, b in zip(trained_weights(ours), trained_weights(theirs), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-3)


def test_an_adapter_trains_on_from_its_saved_state(
    tiny_model_dir: Path, examples: list[Example], tmp_path: Path
) -> None:
    first = new_adapter(load_model(str(tiny_model_dir), "cpu"), HYPER)
    train_adapter(first, examples, HYPER)
    save_adapter(first, tmp_path / "v1")
    again = load_adapter(load_model(str(tiny_model_dir), "cpu"), tmp_path / "v1")
    start = mean_loss(held_out_losses(again, examples))
    assert start == pytest.approx(mean_loss(held_out_losses(first, examples)), abs=1e-6)
    train_adapter(again, examples, HYPER)
    assert mean_loss(held_out_losses(again, examples)) < start


def test_whatever_on_step_raises_cancels_and_leaves_evaluation_mode(
    tiny_model: PreTrainedModel, examples: list[Example]
) -> None:
    class Cancelled(Exception):
        pass

    def cancel(step: Step) -> None:
        if step.step == 2:
            raise Cancelled

    peft_model = new_adapter(tiny_model, HYPER)
    with pytest.raises(Cancelled):
        train_adapter(peft_model, examples, HYPER, on_step=cancel)
    assert not peft_model.training


def test_a_loss_that_is_not_finite_stops_before_it_spoils_the_adapter(
    tiny_model: PreTrainedModel, examples: list[Example]
) -> None:
    peft_model = new_adapter(tiny_model, HYPER)
    before = trained_weights(peft_model)
    tiny_model.get_decoder().norm.weight.data.fill_(math.nan)
    with pytest.raises(TrainingDiverged, match="Lower the learning rate"):
        train_adapter(peft_model, examples, HYPER)
    assert all(torch.equal(a, b) for a, b in zip(before, trained_weights(peft_model), strict=True))


def test_nothing_to_train_on_is_refused(tiny_model: PreTrainedModel) -> None:
    with pytest.raises(NothingToTrain, match="history"):
        train_adapter(new_adapter(tiny_model, HYPER), [], HYPER)


def test_every_epoch_has_every_example_once_in_batches_of_like_length() -> None:
    lengths = [(37 * n) % 101 + 1 for n in range(64)]
    examples = [Example((1,) * n, (1,), (2,)) for n in lengths]
    batches = list(length_batches(examples, Hyperparameters(epochs=2, batch_size=4)))
    assert batches == list(length_batches(examples, Hyperparameters(epochs=2, batch_size=4)))
    epochs = [batches[:16], batches[16:]]
    assert epochs[0] != epochs[1]
    for epoch in epochs:
        assert sorted(e.length for batch in epoch for e in batch) == sorted(n + 1 for n in lengths)
        padding = sum(max(e.length for e in b) - e.length for b in epoch for e in b)
        assert padding < 0.1 * sum(lengths)


def test_the_rate_rises_to_its_peak_and_falls_along_a_cosine() -> None:
    factors = [rate_factor(done, 100, 0.04) for done in range(100)]
    assert factors[:5] == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0])
    assert factors[52] == pytest.approx(0.5)
    assert 0 < factors[99] < 0.001
    assert rate_factor(0, 1, 0.0) == 1.0


def losses(rng: np.random.Generator, texts: int, mean: float, tokens: int) -> list[ExampleLoss]:
    return [
        ExampleLoss(np.full(tokens, 3.0 + delta)) for delta in rng.normal(mean, 0.3, size=texts)
    ]


def test_the_bootstrap_interval_is_the_normal_one_for_many_texts() -> None:
    rng = np.random.default_rng(0)
    incumbent = [ExampleLoss(np.full(5, 3.0))] * 400
    candidate = losses(rng, 400, -0.1, 5)
    deltas = np.array([loss.token_losses[0] - 3.0 for loss in candidate])
    half = 1.96 * deltas.std(ddof=1) / math.sqrt(400)
    compared = paired_bootstrap(candidate, incumbent, n=8000)
    assert compared.difference == pytest.approx(deltas.mean())
    assert compared.low == pytest.approx(deltas.mean() - half, abs=0.1 * half)
    assert compared.high == pytest.approx(deltas.mean() + half, abs=0.1 * half)
    assert compared.verdict == "better"
    assert compared == paired_bootstrap(candidate, incumbent, n=8000)


@pytest.mark.parametrize(
    ("shifts", "tolerance", "verdict"),
    [
        ([-0.2, -0.1, -0.3], 0.0, "better"),
        ([-0.2, 0.1, 0.05], 0.0, "no worse"),
        ([0.01, 0.01, 0.01], 0.02, "no worse"),
        ([0.01, 0.01, 0.01], 0.0, "worse"),
        ([0.3, 0.3, -0.1], 0.1, "worse"),
    ],
)
def test_verdicts(shifts: list[float], tolerance: float, verdict: str) -> None:
    incumbent = [ExampleLoss(np.full(4, 2.0))] * len(shifts)
    candidate = [ExampleLoss(np.full(4, 2.0 + shift)) for shift in shifts]
    assert paired_bootstrap(candidate, incumbent, tolerance=tolerance).verdict == verdict


def test_losses_are_means_over_tokens_and_masks_choose_among_them() -> None:
    texts = [ExampleLoss(np.array([1.0, 2.0, 6.0])), ExampleLoss(np.array([3.0]))]
    masks = [np.array([True, False, True]), np.array([False])]
    assert mean_loss(texts) == 3.0
    assert mean_personal_loss(texts, masks) == 3.5
    worse = [ExampleLoss(np.array([2.0, 0.0, 7.0])), ExampleLoss(np.array([0.0]))]
    compared = paired_bootstrap(worse, texts, masks)
    assert (compared.difference, compared.low, compared.high) == (1.0, 1.0, 1.0)
    none = [np.zeros(3, dtype=np.bool_), np.zeros(1, dtype=np.bool_)]
    with pytest.raises(NothingHeldOut, match="history"):
        mean_personal_loss(texts, none)
    with pytest.raises(NothingHeldOut, match="history"):
        paired_bootstrap(worse, texts, none)


def test_the_rate_falls_with_the_width() -> None:
    assert rate_for_width(256) == pytest.approx(1e-3)
    assert rate_for_width(2560) == pytest.approx(1e-4)
