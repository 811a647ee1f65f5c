import numpy as np
import pytest
import torch
from noisy_adapter import noisy_adapter
from numpy.typing import NDArray
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel

from perce.logprobs import reply_logprobs, target_logprobs
from perce.loss import loss_divisor, perce_weights, weighted_nll

PROMPTS = [[5, 9, 200, 31], [7], [11, 12, 13, 14, 15, 16, 17, 18, 19]]
REPLIES = [[40, 41, 42], [50, 60, 70, 80, 90, 2], [33]]


def full_logprobs(
    model: PreTrainedModel | PeftModel, prompt: list[int], reply: list[int]
) -> Tensor:
    """All logits of one example, then log_softmax."""
    logits = model(input_ids=torch.tensor([[*prompt, *reply]])).logits[0]
    logprobs = torch.log_softmax(logits.double(), -1)[len(prompt) - 1 : -1]
    return logprobs[range(len(reply)), reply]


def numpy_logprobs(
    model: PreTrainedModel | PeftModel, prompt: list[int], reply: list[int]
) -> NDArray[np.float64]:
    """Softmax from scratch on NumPy logits."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([[*prompt, *reply]])).logits[0]
    chosen = logits.double().numpy()[len(prompt) - 1 : -1]
    odds = np.exp(chosen - chosen.max(1, keepdims=True))
    logprobs: NDArray[np.float64] = np.log(odds[np.arange(len(reply)), reply] / odds.sum(1))
    return logprobs


@pytest.mark.parametrize("chunk", [1, 4, 512])
@pytest.mark.parametrize("adapted", [False, True])
def test_padded_batches_equal_one_by_one(
    tiny_model: PreTrainedModel, adapted: bool, chunk: int
) -> None:
    model = noisy_adapter(tiny_model) if adapted else tiny_model
    batched = reply_logprobs(model, PROMPTS, REPLIES, chunk=chunk)
    for prompt, reply, own in zip(PROMPTS, REPLIES, batched, strict=True):
        torch.testing.assert_close(
            own.double(), full_logprobs(model, prompt, reply), atol=1e-5, rtol=0
        )


def test_a_disabled_adapter_scores_as_the_base(tiny_model: PreTrainedModel) -> None:
    base = torch.cat(reply_logprobs(tiny_model, PROMPTS, REPLIES))
    peft_model = noisy_adapter(tiny_model)
    assert (torch.cat(reply_logprobs(peft_model, PROMPTS, REPLIES)) - base).abs().max() > 0.1
    with peft_model.disable_adapter():
        assert torch.equal(torch.cat(reply_logprobs(peft_model, PROMPTS, REPLIES)), base)


@pytest.mark.parametrize("trained_head", [False, True])
def test_gradients_equal_those_through_full_logits(
    tiny_model: PreTrainedModel, trained_head: bool
) -> None:
    # In float64, so that the order in which threads add up does not show.
    model = noisy_adapter(tiny_model.double())
    head = tiny_model.get_output_embeddings().weight.requires_grad_(trained_head)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert any(parameter is head for parameter in trained) == trained_head
    weights = torch.linspace(-1, 3, sum(map(len, REPLIES)))
    ours = torch.cat(reply_logprobs(model, PROMPTS, REPLIES, chunk=3))
    full = torch.cat(
        [
            full_logprobs(model, prompt, reply)
            for prompt, reply in zip(PROMPTS, REPLIES, strict=True)
        ]
    )
    for got, expected in zip(
        torch.autograd.grad((weights * ours).sum(), trained),
        torch.autograd.grad((weights * full).sum(), trained),
        strict=True,
    ):
        torch.testing.assert_close(got, expected, atol=1e-9, rtol=1e-7)


def test_no_batch_no_logprobs(tiny_model: PreTrainedModel) -> None:
    assert reply_logprobs(tiny_model, [], []) == []


def test_only_reply_positions_reach_the_output_layer(tiny_model: PreTrainedModel) -> None:
    shapes: list[torch.Size] = []
    linear = torch.nn.functional.linear
    head = tiny_model.get_output_embeddings().weight

    class Watching(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN204
            if func is linear and args[1] is head:
                shapes.append(args[0].shape)
            return func(*args, **(kwargs or {}))

    with Watching(), torch.no_grad():
        reply_logprobs(tiny_model, PROMPTS, REPLIES, chunk=4)
    assert shapes == [(4, 32), (4, 32), (2, 32)]


def test_perce_with_unit_clips_equals_cross_entropy(tiny_model: PreTrainedModel) -> None:
    logprobs = torch.cat(reply_logprobs(tiny_model, PROMPTS, REPLIES))
    without = logprobs - torch.linspace(-3, 3, len(logprobs))
    logits = [
        tiny_model(input_ids=torch.tensor([[*p, *r]])).logits[0, len(p) - 1 : -1]
        for p, r in zip(PROMPTS, REPLIES, strict=True)
    ]
    expected = torch.nn.functional.cross_entropy(
        torch.cat(logits), torch.tensor([token for reply in REPLIES for token in reply])
    )
    weights = perce_weights(logprobs, without, 1.0, 1.0)
    loss = weighted_nll(logprobs, weights) / loss_divisor(weights)
    assert loss.item() == pytest.approx(expected.item(), abs=1e-6)


def test_weights_equal_a_numpy_computation(tiny_model: PreTrainedModel) -> None:
    model = noisy_adapter(tiny_model)
    without_prompts = [[3], [4, 5], [6]]
    with torch.no_grad():
        weights = perce_weights(
            torch.cat(reply_logprobs(model, PROMPTS, REPLIES)),
            torch.cat(reply_logprobs(model, without_prompts, REPLIES)),
            0.8,
            5.0,
        )
    expected = []
    for prompt, without, reply in zip(PROMPTS, without_prompts, REPLIES, strict=True):
        pir = numpy_logprobs(model, prompt, reply) - numpy_logprobs(model, without, reply)
        expected.extend(np.minimum(np.maximum(pir, 0.8), 5.0))
    assert 0.8 < np.mean(expected) < 5.0
    np.testing.assert_allclose(weights.numpy(), expected, atol=1e-4)
    assert len({round(weight, 3) for weight in expected}) > 2


def test_the_loss_is_eq_4_under_both_normalizations() -> None:
    logprobs, weights = torch.tensor([-1.0, -2.0, -3.0]), torch.tensor([0.8, 2.0, 5.0])
    nll = weighted_nll(logprobs, weights).item()
    assert nll == pytest.approx(0.8 + 4 + 15)
    assert nll / loss_divisor(weights) == pytest.approx(19.8 / 3)
    assert nll / loss_divisor(weights, "weights") == pytest.approx(19.8 / 7.8)


def test_the_gradient_is_that_of_fixed_weights_by_finite_differences(
    tiny_model: PreTrainedModel,
) -> None:
    model = noisy_adapter(tiny_model.double())
    without_prompts = [[3], [4, 5], [6]]

    def loss(fixed: Tensor | None = None) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            without = torch.cat(reply_logprobs(model, without_prompts, REPLIES))
        logprobs = torch.cat(reply_logprobs(model, PROMPTS, REPLIES))
        weights = perce_weights(logprobs, without, 0.8, 5.0) if fixed is None else fixed
        return weighted_nll(logprobs, weights) / loss_divisor(weights), weights

    value, weights = loss()
    assert not weights.requires_grad
    value.backward()  # type: ignore[no-untyped-call]  # torch
    checked = 0
    for name, parameter in model.named_parameters():
        if "layers.1" not in name or parameter.grad is None:
            continue
        place = int(parameter.grad.abs().argmax())
        flat = parameter.data.view(-1)
        kept, step = flat[place].item(), 1e-3
        flat[place] = kept + step
        above = loss(weights)[0].item()
        flat[place] = kept - step
        below = loss(weights)[0].item()
        flat[place] = kept
        slope = parameter.grad.view(-1)[place].item()
        assert slope == pytest.approx(
            (above - below) / (2 * step), rel=2e-3
        )  # its norms compute in float32
        checked += 1
    assert checked == 14


def test_a_bfloat16_output_layer_rounds_neither_logprobs_nor_small_gradients() -> None:
    draw = torch.Generator().manual_seed(0)
    head = torch.nn.Linear(32, 200).bfloat16().requires_grad_(False)
    head.weight.normal_(0, 1, generator=draw)
    targets = torch.arange(6)
    # Each target is likely, the last ones almost certain.
    scale = torch.tensor([0.1, 0.2, 0.25, 0.3, 0.35, 0.4])
    hidden = (head.weight[targets].float() * scale[:, None]).bfloat16().requires_grad_()
    found = target_logprobs(hidden, head, targets, chunk=4)
    (slopes,) = torch.autograd.grad(found.sum(), hidden)

    exact = hidden.detach().double().requires_grad_()
    logits = torch.nn.functional.linear(exact, head.weight.double(), head.bias.double())
    expected = logits.log_softmax(-1)[range(6), targets]
    (expected_slopes,) = torch.autograd.grad(expected.sum(), exact)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-3)
    errors = (slopes.double() - expected_slopes).norm(dim=1) / expected_slopes.norm(dim=1)
    assert errors.max() < 0.02
