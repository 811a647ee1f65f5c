"""LoRA layers in training, with the adapter's product added to the weights for one step.

PEFT computes `x W^T + s (x A^T) B^T` for every token. Within an optimizer step the adapter
does not change, so here `W' = W + s B A` is formed once and the layer is `x W'^T`: as many
products as without adapter, and none of the passes over memory that scaling and adding take.
Backward goes through W' too; only the gradients of A and B need the narrow products:

    dx = g W'        dB = s g^T (x A^T)        dA = s (g B)^T x

This is the same function up to rounding in float32. In bfloat16 W' would round the adapter's
part away, so there, and with dropout, layers compute as PEFT has them.

Shapes: T tokens, I inputs and O outputs of a layer, R the rank. `...` is the batch.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora import Linear
from torch import Tensor, nn
from torch.nn.functional import linear


@contextmanager
def merged_lora(model: PeftModel) -> Iterator[None]:
    """Let a model's LoRA layers compute with merged weights, and then as before.

    The adapter must not change inside; passes without adapter are computed as ever. A model
    for which merging is not exact (see the module) is left as it is. Costs memory of one more
    copy of the adapted weights.

    Args:
        model: A model with one active LoRA adapter. Backward belongs inside too where
            gradient checkpointing computes layers again.
    """
    layers = [module for module in model.modules() if isinstance(module, Linear)]
    merged = [layer for layer in layers if _merges_exactly(layer)]
    for layer in merged:
        layer.forward = _merged_forward(layer)  # shadows the class's
    try:
        yield
    finally:
        for layer in merged:
            del layer.forward


def _merges_exactly(layer: Linear) -> bool:
    (name,) = layer.active_adapters
    parts = (layer.base_layer, layer.lora_A[name], layer.lora_B[name])
    return (
        all(part.weight.dtype in (torch.float32, torch.float64) for part in parts)
        and isinstance(layer.base_layer, nn.Linear)
        and isinstance(layer.lora_dropout[name], nn.Identity)
        and name not in layer.lora_variant
        and not layer.lora_bias[name]
    )


def _merged_forward(layer: Linear) -> Callable[[Tensor], Tensor]:
    (name,) = layer.active_adapters
    base, scaling = layer.base_layer, layer.scaling[name]
    a_RI, b_OR = layer.lora_A[name].weight, layer.lora_B[name].weight
    with torch.no_grad():
        merged_OI = torch.addmm(base.weight, b_OR, a_RI, alpha=scaling)

    def forward(input: Tensor) -> Tensor:
        if layer.disable_adapters:
            return linear(input, base.weight, base.bias)
        output: Tensor = _MergedLinear.apply(  # type: ignore[no-untyped-call]  # torch
            input, merged_OI, base.bias, a_RI, b_OR, scaling
        )
        return output

    return forward


class _MergedLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 (torch gives the context no type)
        input: Tensor,
        merged_OI: Tensor,
        bias_O: Tensor | None,
        a_RI: Tensor,
        b_OR: Tensor,
        scaling: float,
    ) -> Tensor:
        device = input.device.type
        if torch.is_autocast_enabled(device):
            input = input.to(torch.get_autocast_dtype(device))
        ctx.save_for_backward(input, merged_OI, a_RI, b_OR)
        ctx.scaling = scaling
        return linear(input, merged_OI, bias_O)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        input, *weights = ctx.saved_tensors
        merged_OI, a_RI, b_OR = (weight.to(grad.dtype) for weight in weights)
        input_TI, grad_TO = input.flatten(0, -2), grad.flatten(0, -2)
        grad_input = grad @ merged_OI if ctx.needs_input_grad[0] else None
        grad_a_RI = (grad_TO @ (ctx.scaling * b_OR)).T @ input_TI
        grad_b_OR = grad_TO.T @ (input_TI @ (ctx.scaling * a_RI).T)
        return grad_input, None, None, grad_a_RI, grad_b_OR, None
