"""LoRA adapters on a base model: make one, load one, save one, take one off.

Folders are plain PEFT folders, which `peft` and vLLM load; what a folder must fulfil is
`perce.adapter_files`.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel

from perce.adapter_files import (
    FINGERPRINT_KEY,
    TARGET_MODULES,
    WEIGHTS_FILE,
    OtherBaseModel,
    check_adapter,
    model_fingerprint,
)
from perce.hyperparameters import Hyperparameters


def new_adapter(model: PreTrainedModel, hyper: Hyperparameters) -> PeftModel:
    """Put a fresh, trainable LoRA adapter on a base model, which changes in place.

    Its B matrices are zero, so the model's outputs are unchanged; its A matrices depend on
    `hyper.seed` alone.
    """
    config = LoraConfig(
        r=hyper.rank,
        lora_alpha=hyper.alpha,
        lora_dropout=hyper.dropout,
        target_modules=list(TARGET_MODULES),
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng():
        torch.manual_seed(hyper.seed)
        return get_peft_model(model, config).eval()


def load_adapter(model: PreTrainedModel, folder: Path | str, trainable: bool = True) -> PeftModel:
    """Put a saved adapter on a base model, which changes in place.

    Args:
        model: The base model that the adapter was trained on.
        folder: A PEFT adapter folder.
        trainable: Whether to train it further.

    Raises:
        perce.adapter_files.AdapterError: The folder is broken or is for another base model.
        torch.OutOfMemoryError: The device is too full; the model is as before.
    """
    check_adapter(folder, base_model=model.name_or_path or None)
    try:
        return PeftModel.from_pretrained(model, str(folder), is_trainable=trainable).eval()
    except (RuntimeError, ValueError) as error:
        # PEFT puts its layers in first and loads the tensors afterwards.
        for name, layer in list(model.named_modules()):
            if isinstance(layer, LoraLayer):
                model.set_submodule(name, layer.get_base_layer())
        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise OtherBaseModel(
            f"The adapter in {folder} does not fit this base model: its tensors are of other "
            "shapes. Roll back to another version or train it anew."
        ) from error


def start_adapter(
    model: PreTrainedModel, hyper: Hyperparameters, start: Path | str | None
) -> PeftModel:
    """Put the adapter that training begins with on a base model, which changes in place.

    Args:
        model: The base model.
        hyper: Of a fresh adapter.
        start: The folder of the adapter to go on from; None for a fresh one.

    Raises:
        perce.adapter_files.AdapterError: See `load_adapter`.
    """
    return new_adapter(model, hyper) if start is None else load_adapter(model, start)


@contextmanager
def started_adapter(
    model: PreTrainedModel, hyper: Hyperparameters, start: Path | str | None
) -> Iterator[PeftModel]:
    """The same for a while: at the end the adapter is taken off again."""
    started = start_adapter(model, hyper, start)
    try:
        yield started
    finally:
        remove_adapter(started)


@contextmanager
def loaded_adapter(model: PreTrainedModel, folder: Path | str) -> Iterator[PeftModel]:
    """A base model with a saved adapter that is not trained, taken off again at the end.

    Raises:
        perce.adapter_files.AdapterError: See `load_adapter`.
    """
    loaded = load_adapter(model, folder, trainable=False)
    try:
        yield loaded
    finally:
        remove_adapter(loaded)


def save_adapter(peft_model: PeftModel, folder: Path | str) -> None:
    """Write the adapter as a PEFT folder that names its base model and that model's hash.

    Raises:
        perce.adapter_files.BrokenWeights: A weight is NaN or infinite; the folder is written,
            but must not be used.
    """
    write_adapter(
        peft_model.peft_config[peft_model.active_adapter],
        get_peft_model_state_dict(peft_model, save_embedding_layers=False),
        folder,
    )


def write_adapter(config: LoraConfig, state: Mapping[str, Tensor], folder: Path | str) -> None:
    """Write an adapter's config and tensors, by their names in the file, as `save_adapter` does.

    Raises:
        perce.adapter_files.BrokenWeights: See `save_adapter`.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    config = copy(config)
    config.inference_mode = True
    config.save_pretrained(str(folder))
    save_file(
        {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()},
        folder / WEIGHTS_FILE,
        metadata={
            "format": "pt",
            FINGERPRINT_KEY: model_fingerprint(config.base_model_name_or_path or ""),
        },
    )
    check_adapter(folder)


def remove_adapter(peft_model: PeftModel) -> PreTrainedModel:
    """Take the adapter off again; the base model is as it was before."""
    return peft_model.unload()
