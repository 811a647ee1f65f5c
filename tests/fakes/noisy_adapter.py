"""An adapter that does something, as a fresh one does not."""

from pathlib import Path

import torch
from peft import PeftModel
from transformers import PreTrainedModel

from perce.adapter import new_adapter, remove_adapter, save_adapter
from perce.hyperparameters import Hyperparameters
from perce.model import load_model
from server.settings import REFERENCE_MODEL

RANK_4 = Hyperparameters(rank=4)


def noisy_adapter(
    model: PreTrainedModel, hyper: Hyperparameters = RANK_4, scale: float = 0.5, seed: int = 1
) -> PeftModel:
    """The model with an adapter whose B matrices are not zero, so that it changes outputs."""
    peft_model = new_adapter(model, hyper)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in peft_model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(0, scale, generator=generator)
    return peft_model


def save_noisy_adapters(folder: Path, count: int, scale: float) -> list[Path]:
    """Folders of adapters of the reference model, each with other weights; none was trained."""
    model = load_model(str(REFERENCE_MODEL))
    folders = [folder / f"weights-{number}" for number in range(count)]
    for number, place in enumerate(folders):
        peft_model = noisy_adapter(model, scale=scale, seed=number)
        save_adapter(peft_model, place)
        remove_adapter(peft_model)
    return folders
