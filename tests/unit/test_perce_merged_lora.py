"""Merged LoRA layers compute what PEFT's do."""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pytest
import torch
from noisy_adapter import noisy_adapter
from peft import PeftModel
from torch import Tensor

from perce.adapter import new_adapter
from perce.hyperparameters import Hyperparameters
from perce.merged_lora import merged_lora
from perce.model import load_model

HYPER = Hyperparameters(rank=4, alpha=12)
IDS_BT = torch.arange(3, 43).view(2, 20)


@pytest.fixture
def model(tiny_model_dir: Path) -> PeftModel:
    return noisy_adapter(load_model(str(tiny_model_dir), "cpu").double(), HYPER).double()


def trained(model: PeftModel) -> list[torch.nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def logits_and_gradients(
    model: PeftModel, within: Callable[[PeftModel], AbstractContextManager[None]]
) -> list[Tensor]:
    with within(model):
        logits_BTV = model(input_ids=IDS_BT).logits
        loss = (logits_BTV * torch.linspace(-1, 1, logits_BTV.shape[-1])).pow(2).mean()
        return [logits_BTV.detach(), *torch.autograd.grad(loss, trained(model))]


def test_logits_and_gradients_equal_those_of_peft(model: PeftModel) -> None:
    expected = logits_and_gradients(model, lambda _: nullcontext())
    merged = logits_and_gradients(model, merged_lora)
    assert len(merged) == 1 + 2 * 7 * 2
    for got, want in zip(merged, expected, strict=True):
        assert want.norm() > 0
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-12)


def test_a_gradient_equals_finite_differences(model: PeftModel) -> None:
    layer = model.get_base_model().get_decoder().layers[0].mlp.down_proj
    input_TI = torch.randn(5, 48, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def output(input_TI: Tensor, *weights: Tensor) -> Tensor:
        with merged_lora(model):
            result: Tensor = layer(input_TI).sin().sum()
            return result

    weights = (layer.lora_A["default"].weight, layer.lora_B["default"].weight)
    gradients = torch.autograd.grad(output(input_TI.requires_grad_()), (input_TI, *weights))
    for variable, gradient in zip((input_TI, *weights), gradients, strict=True):
        for place in (0, variable.numel() // 2, variable.numel() - 1):
            flat, step = variable.data.view(-1), 1e-6
            flat[place] += step
            above = output(input_TI).item()
            flat[place] -= 2 * step
            below = output(input_TI).item()
            flat[place] += step
            assert gradient.flatten()[place].item() == pytest.approx(
                (above - below) / (2 * step), rel=1e-5, abs=1e-8
            )


def test_without_adapter_the_base_answers(model: PeftModel) -> None:
    with torch.no_grad():
        with model.disable_adapter():
            base = model(input_ids=IDS_BT).logits
            with merged_lora(model):
                off = model(input_ids=IDS_BT).logits
        adapted = model(input_ids=IDS_BT).logits
    assert torch.equal(off, base)
    assert (adapted - base).abs().max() > 0.1


def test_layers_come_back_also_after_an_error(model: PeftModel) -> None:
    before = model(input_ids=IDS_BT).logits
    with pytest.raises(ZeroDivisionError), merged_lora(model):
        raise ZeroDivisionError
    layers = [m for m in model.modules() if "forward" in vars(m)]
    assert layers == []
    assert torch.equal(model(input_ids=IDS_BT).logits, before)


@pytest.mark.parametrize("kept", ["dropout", "bfloat16"])
def test_where_merging_is_not_exact_peft_computes(tiny_model_dir: Path, kept: str) -> None:
    base = load_model(str(tiny_model_dir), "cpu")
    if kept == "bfloat16":
        base = base.bfloat16()
    model = new_adapter(base, Hyperparameters(rank=4, dropout=0.1 if kept == "dropout" else 0.0))
    with merged_lora(model):
        assert [m for m in model.modules() if "forward" in vars(m)] == []


def test_under_autocast_results_are_near(tiny_model_dir: Path) -> None:
    model = noisy_adapter(load_model(str(tiny_model_dir), "cpu"), HYPER, 0.05)

    def autocast(model: PeftModel) -> AbstractContextManager[None]:
        return merged_lora(model)

    expected = logits_and_gradients(model, autocast)
    with torch.autocast("cpu", torch.bfloat16):
        near = logits_and_gradients(model, autocast)
    for got, want in zip(near, expected, strict=True):
        assert got.dtype in (torch.float32, torch.bfloat16)
        apart = (got.float() - want).norm() / want.norm()
        assert math.isfinite(apart)
        assert 0 < apart < 0.1
