"""What the speed benchmarks run on: a model, or the shape of one, and texts of given lengths."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from perce.errors import AttuneError
from perce.example import Example
from perce.model import load_model, pick_device
from perce.shared_prefix_groups import time_groups
from scripts.attune.bench.base import blaming, load_named

Dtype = Literal["float32", "bfloat16"]
_SPECIAL = 16
"""Ids below are not drawn: a model's special tokens are among them."""


class BadLengths(AttuneError):
    """The lengths contradict each other; change one of them."""


class BadDevice(AttuneError):
    """PyTorch cannot use a device of this name on this machine; name another one."""

    def __init__(self, device: str, reason: object) -> None:
        super().__init__(
            f"PyTorch cannot use the device {device!r} here ({' '.join(str(reason).split())}): "
            "give cpu, or a GPU of this machine such as cuda:0, with --device."
        )


@dataclass(frozen=True, slots=True)
class Lengths:
    """How long an example is, in tokens; by default as in LongLaMP.

    Attributes:
        prompt: The prompt with persona.
        without: The same without it.
        reply: The reply.

    Raises:
        BadLengths: The prompt without persona is not the shorter one.
    """

    prompt: int = 1364
    without: int = 96
    reply: int = 200

    def __post_init__(self) -> None:
        if not 1 <= self.without <= self.prompt or self.reply < 1:
            raise BadLengths(
                f"A prompt of {self.prompt} tokens, of {self.without} without persona, and a "
                f"reply of {self.reply} do not go together. Make each at least 1, and the one "
                "without persona not longer than the one with it."
            )


@dataclass(frozen=True, slots=True)
class Machine:
    """Where a benchmark runs, and in which precision.

    Attributes:
        device: Where.
        dtype: Of the base's weights.
        autocast: Whether the layers' products are in bfloat16 all the same.
    """

    device: torch.device
    dtype: Dtype
    autocast: bool = False

    @classmethod
    def named(cls, device: str, dtype: Dtype | None, autocast: bool = False) -> "Machine":
        """The device of this name, or the best there is; bfloat16 on CUDA unless asked.

        Raises:
            BadDevice: There is no such device, or PyTorch was built without it.
        """
        chosen = _usable(device) if device else pick_device()
        own: Dtype = "bfloat16" if chosen.type == "cuda" else "float32"
        return cls(chosen, dtype or own, autocast)

    def __str__(self) -> str:
        arithmetic = f"{self.dtype}, products in bfloat16" if self.autocast else self.dtype
        if self.device.type == "cuda":
            return f"{torch.cuda.get_device_name(self.device)}, {arithmetic}"
        return f"{self.device}, {torch.get_num_threads()} threads, {arithmetic}"


def _usable(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError) as error:  # a build without CUDA asserts that it has it
        raise BadDevice(name, error) from error
    return device


def open_model(model: str, config: Path | None, machine: Machine) -> PreTrainedModel:
    """Load a frozen model, or make one with random weights of a config's shape.

    Args:
        model: Name or folder; not used with a config.
        config: A Hugging Face config.json.
        machine: Where to, and in which precision.

    Raises:
        BadModelError: It cannot be loaded or made.
    """
    dtype = getattr(torch, machine.dtype)
    if config is None:
        return load_named(model, lambda source: load_model(source, machine.device)).to(dtype)
    with blaming(str(config)), machine.device, torch.random.fork_rng():
        torch.manual_seed(0)
        made = AutoModelForCausalLM.from_config(
            AutoConfig.from_pretrained(str(config)), dtype=dtype
        )
    return made.eval().requires_grad_(False)


def user_examples(
    lengths: Lengths,
    texts: int,
    group_size: int,
    vocabulary: int,
    *,
    alone: float | None = None,
    seed: int = 0,
) -> list[Example]:
    """Examples of one user from random tokens; only their lengths and what they share matter.

    Args:
        lengths: Of each example.
        texts: How many.
        group_size: Of how many consecutive ones the persona context is the same.
        vocabulary: Ids are drawn below this.
        alone: Cut the texts by time, with this share of them alone
            (`perce.shared_prefix_groups.time_groups`); None makes whole groups.
        seed: Draws the tokens.
    """
    draw = random.Random(seed)

    def ids(count: int) -> tuple[int, ...]:
        return tuple(draw.choices(range(min(_SPECIAL, vocabulary - 1), vocabulary), k=count))

    def examples() -> Iterator[Example]:
        for run in _runs(texts, group_size, alone, seed):
            persona = ids(lengths.prompt - lengths.without)
            for _ in run:
                query = ids(lengths.without)
                yield Example((*persona, *query), query, ids(lengths.reply))

    return list(examples())


def _runs(texts: int, group_size: int, alone: float | None, seed: int) -> Sequence[range]:
    if alone is not None:
        return time_groups(texts, group_size, alone, seed)
    return [range(start, min(start + group_size, texts)) for start in range(0, texts, group_size)]
