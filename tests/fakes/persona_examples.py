"""Examples that share personas, and PerCE with each of them in a pass of its own."""

from collections.abc import Sequence
from pathlib import Path

import torch
from noisy_adapter import noisy_adapter
from paper_loss import perce_loss
from peft import PeftModel
from random_ids import random_ids
from torch import Tensor
from transformers import PreTrainedModel

import perce
from perce.example import Example
from perce.hyperparameters import Hyperparameters
from perce.logprobs import reply_logprobs
from perce.loss import perce_weights
from perce.model import load_model

REFERENCE = Path(perce.__path__[0]) / "reference"
ids = random_ids()
SYSTEM, PERSONAS = ids(40), [ids(150), ids(90)]
FULL = Hyperparameters(rank=4, alpha=8)


def example(persona: Sequence[int], query: int, reply: int) -> Example:
    asked = ids(query)
    return Example((*SYSTEM, *persona, *asked), (*SYSTEM, *asked), tuple(ids(reply)))


EXAMPLES = [
    *(example(PERSONAS[0], 3 + 7 * n, 1 + 9 * (4 - n)) for n in range(5)),
    *(example(PERSONAS[1], 12, 5 + n) for n in range(3)),
    example(ids(60), 9, 14),
    *(example((), 20 + n, 8) for n in range(2)),
]
"""Two shared personas, five and three times, uneven; one of its own; two examples without."""


def reference_adapter(hyper: Hyperparameters = FULL) -> PeftModel:
    """The reference model with LoRA on all projections, whose B matrices are not zero."""
    return noisy(load_model(str(REFERENCE), "cpu"), hyper)


def noisy(model: PreTrainedModel, hyper: Hyperparameters = FULL) -> PeftModel:
    return noisy_adapter(model, hyper, 0.05)


def trained(model: PeftModel) -> list[torch.nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def separate_perce_loss(
    model: PeftModel, examples: Sequence[Example], hyper: Hyperparameters
) -> Tensor:
    """PerCE with every example in a forward pass of its own."""
    logprobs, without = [], []
    for one in examples:
        logprobs += reply_logprobs(model, [one.prompt_ids], [one.reply_ids])
        with torch.no_grad():
            without += reply_logprobs(model, [one.prompt_ids_without], [one.reply_ids])
    logprobs_N, without_N = torch.cat(logprobs), torch.cat(without)
    weights_N = perce_weights(logprobs_N, without_N, hyper.clip_min, hyper.clip_max)
    return perce_loss(logprobs_N, weights_N)


def assert_same(got: Sequence[Tensor], expected: Sequence[Tensor], relative: float) -> None:
    """Each tensor differs by at most this share of its norm."""
    for one, other in zip(got, expected, strict=True):
        assert other.norm() > 0
        assert (one - other).norm() <= relative * other.norm()
