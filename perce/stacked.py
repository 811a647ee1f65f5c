"""The LoRA adapters of several users on one frozen model at once.

Each adapted layer adds, to the rows of each user, that user's own low-rank update: one batched
matrix product over the users' stacked A and one over their stacked B. The model itself stays
as it is: hooks on its linear layers add the updates for as long as `stacked_adapters` lasts.
A user's rows meet only that user's matrices, so that NaN in one user's does not reach another's.
What the users are scored on is `perce.stacked_logprobs`.

Shapes: K users, S rows of all users end to end, M rows of the user with the most, L tokens of
a row, B rows of T tokens as the model has them, R the rank, I and O what a layer takes and
gives, N adapted layers.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Self

import torch
from peft import LoraConfig, PeftModel, get_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers import PreTrainedModel

from perce.adapter import remove_adapter


@dataclass(frozen=True, slots=True)
class UserAdapter:
    """One user's trainable adapter, off the model.

    Attributes:
        config: PEFT's description of it.
        state: Its matrices, by their names in an adapter folder.
        scaling: What each adapted layer's update is multiplied by, by the layer's name.
    """

    config: LoraConfig
    state: Mapping[str, nn.Parameter]
    scaling: Mapping[str, float]

    @classmethod
    def taken_off(cls, peft_model: PeftModel) -> Self:
        """Take a model's one adapter off it; the base model is as it was before."""
        name = peft_model.active_adapter
        config = peft_model.peft_config[name]
        state = get_peft_model_state_dict(peft_model, save_embedding_layers=False)
        scaling = {
            layer_name: layer.scaling[name]
            for layer_name, layer in peft_model.get_base_model().named_modules()
            if isinstance(layer, LoraLayer)
        }
        remove_adapter(peft_model)
        return cls(config, {key: nn.Parameter(matrix) for key, matrix in state.items()}, scaling)

    def matrices(self, layer_name: str, layer: nn.Linear) -> tuple[Tensor, Tensor]:
        """A layer's A [R, I] and transposed B [R, O]; R is 0 where the layer is not adapted."""
        if layer_name not in self.scaling:
            like = next(iter(self.state.values()))
            return like.new_zeros(0, layer.in_features), like.new_zeros(0, layer.out_features)
        prefix = f"base_model.model.{layer_name}"
        return self.state[f"{prefix}.lora_A.weight"], self.state[f"{prefix}.lora_B.weight"].mT


@contextmanager
def stacked_adapters(
    model: PreTrainedModel, adapters: Sequence[UserAdapter], rows: Sequence[int]
) -> Iterator[None]:
    """Let each user's rows go through the model with that user's own adapter.

    With gradient checkpointing the backward pass goes through the layers again and belongs
    inside too.

    Args:
        model: The base model, without PEFT's wrapper or layers.
        adapters: K users' adapters, of any ranks.
        rows: How many rows of the batch are each user's, in the same order; together all. In a
            batch that is one packed row, how many of its tokens.
    """
    present = [(adapter, own) for adapter, own in zip(adapters, rows, strict=True) if own]
    stack = _Stack([adapter for adapter, _ in present], [own for _, own in present], model)
    handles = [
        layer.register_forward_hook(partial(stack.add_updates, name))
        for name, layer in stack.layers
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Stack:
    """The users of one pass: their matrices, and which rows are theirs."""

    def __init__(
        self, adapters: Sequence[UserAdapter], rows: Sequence[int], model: PreTrainedModel
    ) -> None:
        adapted = {name for adapter in adapters for name in adapter.scaling}
        self.layers = [(name, one) for name, one in model.named_modules() if name in adapted]
        self._adapters = adapters
        self._seats = _Seats.of(rows, model.device)
        # Made here at once, because every copy to a GPU waits for it.
        names = [name for name, _ in self.layers]
        scaling = [[one.scaling.get(name, 0.0) for one in adapters] for name in names]
        scaling_NK = torch.tensor(scaling, device=model.device)
        self._scaling = dict(zip(names, scaling_NK[..., None, None], strict=True))
        rates = [adapter.config.lora_dropout for adapter in adapters]
        self._rate_K11 = (
            torch.tensor(rates, device=model.device)[:, None, None] if any(rates) else None
        )

    def add_updates(
        self, name: str, layer: nn.Linear, args: tuple[Tensor], output_BTO: Tensor
    ) -> Tensor:
        """A forward hook: the layer's output with each user's own update `s B A x` added."""
        pairs = [adapter.matrices(name, layer) for adapter in self._adapters]
        down_KRI = _stack([down_RI for down_RI, _ in pairs])
        up_KRO = _stack([up_RO for _, up_RO in pairs])
        # As PEFT: the adapter computes in its own precision, the layer gives what it gave before.
        input_KMI = self._seats.split(args[0]).to(down_KRI.dtype)
        if layer.training and self._rate_K11 is not None:
            kept_KMI = torch.rand_like(input_KMI) >= self._rate_K11
            input_KMI = input_KMI * kept_KMI / (1 - self._rate_K11)
        hidden_KMR = torch.bmm(input_KMI, down_KRI.mT) * self._scaling[name].to(down_KRI.dtype)
        update_BTO = self._seats.join(torch.bmm(hidden_KMR, up_KRO), output_BTO.shape)
        return (output_BTO + update_BTO).to(output_BTO.dtype)


@dataclass(frozen=True, slots=True)
class _Seats:
    """Which rows are whose.

    Attributes:
        users: K.
        rows: S.
        ragged: Where users have different numbers of rows: row_KM, each user's rows, flattened,
            whose padding repeats the user's own last one; and kept_S, which of these places
            holds each row. None where all have as many, so that nothing needs copying.
    """

    users: int
    rows: int
    ragged: tuple[Tensor, Tensor] | None

    @classmethod
    def of(cls, rows: Sequence[int], device: torch.device) -> Self:
        if len(set(rows)) <= 1:
            return cls(len(rows), sum(rows), None)
        length_K = torch.tensor(rows)
        first_K = length_K.cumsum(0) - length_K
        place_M = torch.arange(max(rows))
        row_KM = first_K[:, None] + torch.minimum(place_M, length_K[:, None] - 1)
        kept_S = (place_M < length_K[:, None]).flatten().nonzero()[:, 0]
        return cls(len(rows), sum(rows), (row_KM.flatten().to(device), kept_S.to(device)))

    def split(self, states_BTI: Tensor) -> Tensor:
        """The tokens of each user, [K, M * L, I]."""
        states_SLI = states_BTI.reshape(self.rows, -1, states_BTI.shape[-1])
        if self.ragged is not None:
            row_KM, _ = self.ragged
            states_SLI = states_SLI.index_select(0, row_KM)
        return states_SLI.reshape(self.users, -1, states_BTI.shape[-1])

    def join(self, states_KMO: Tensor, shape: torch.Size) -> Tensor:
        """The tokens of all users in the batch's order and shape, [B, T, O]."""
        if self.ragged is None:
            return states_KMO.reshape(shape)
        row_KM, kept_S = self.ragged
        states_KMLO = states_KMO.reshape(len(row_KM), -1, shape[-1])
        return states_KMLO.index_select(0, kept_S).reshape(shape)


def _stack(matrices: Sequence[Tensor]) -> Tensor:
    """Stack matrices; one of lower rank is filled up with zeros, which add nothing."""
    if len({matrix.shape for matrix in matrices}) == 1:
        return torch.stack(list(matrices))
    return nn.utils.rnn.pad_sequence(list(matrices), batch_first=True)
