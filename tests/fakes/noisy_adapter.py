"""An adapter that does something, as a fresh one does not."""

import torch
from peft import PeftModel
from transformers import PreTrainedModel

from perce.adapter import new_adapter
from perce.hyperparameters import Hyperparameters

RANK_4 = Hyperparameters(rank=4)


def noisy_adapter(
    model: PreTrainedModel, hyper: Hyperparameters = RANK_4, scale: float = 0.5
) -> PeftModel:
    """The model with an adapter whose B matrices are not zero, so that it changes outputs."""
    peft_model = new_adapter(model, hyper)
    generator = torch.Generator().manual_seed(1)
    for name, parameter in peft_model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(0, scale, generator=generator)
    return peft_model
