"""The base model that training and local scoring run on: a frozen causal language model."""

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from perce.errors import AttuneError

_LOGIT_RESCALING = {"final_logit_softcapping": None, "logit_scale": 1.0, "logits_scaling": 1.0}
"""Config fields by which a model changes its logits after the output layer; neutral values."""


class UnsupportedModel(AttuneError):
    """The model's log-probabilities cannot be computed from its output layer alone."""


def pick_device() -> torch.device:
    """CUDA where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def hidden_size(model: str) -> int:
    """Width of a model, read from its config alone.

    Raises:
        OSError: There is no such model; from transformers, which says where it looked.
    """
    width: int = AutoConfig.from_pretrained(model).get_text_config().hidden_size
    return width


def load_model(model: str, device: torch.device | str | None = None) -> PreTrainedModel:
    """Load a frozen base model in evaluation mode: float32 on CPUs, bfloat16 on CUDA.

    Args:
        model: A Hugging Face model name or a local folder.
        device: Where to put it; `pick_device()` by default.

    Raises:
        UnsupportedModel: The model rescales its logits after the output layer.
        OSError: There is no such model; from transformers, which says where it looked.
    """
    target = torch.device(device) if device is not None else pick_device()
    dtype = torch.bfloat16 if target.type == "cuda" else torch.float32
    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=dtype)
    for field, neutral in _LOGIT_RESCALING.items():
        if getattr(loaded.config, field, neutral) not in (None, neutral):
            raise UnsupportedModel(
                f"{model} sets {field}, which perce.logprobs does not apply. "
                "Choose a model without it, such as one of the Qwen3 family."
            )
    return loaded.to(target).eval().requires_grad_(False)
