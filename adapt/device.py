"""Where training runs, and how it shares that with the engine.

Four ways: on the CPU, beside the engine, with fewer threads and a lower priority; on a GPU of
its own; on the engine's GPU within a share of its memory; on the engine's GPU while the
engine sleeps (`adapt.window`). What cannot work together is refused at the worker's start.
"""

import os
import re
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

import torch

from adapt.errors import PlacementError
from server.settings import Settings

Mode = Literal["cpu", "dedicated", "shared", "window"]
_DEVICE = re.compile(r"cpu|cuda(?::(\d+))?")
_LOOPBACK = {"127.0.0.1", "localhost", "::1"}


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a worker trains.

    Attributes:
        device: What PyTorch calls it, such as `cpu` or `cuda:1`.
        mode: How it is shared with the engine.
        threads: CPU threads of training.
        memory_share: Most of the GPU's memory that training takes; None for all there is.
        niceness: How much the worker steps back for the engine on a CPU (0…19).
    """

    device: str
    mode: Mode
    threads: int
    memory_share: float | None = None
    niceness: int = 0

    def apply(self) -> None:
        """Make this process keep to it."""
        torch.set_num_threads(self.threads)
        if self.niceness:
            os.nice(self.niceness)
        if self.memory_share is not None:
            torch.cuda.set_per_process_memory_fraction(self.memory_share, self.device)


def choose_placement(settings: Settings, gpus: int) -> Placement:
    """Choose where a worker trains.

    Args:
        settings: What was wished for.
        gpus: How many GPUs PyTorch finds.

    Raises:
        PlacementError: The wishes contradict each other, or the machine.
    """
    device = settings.train_device or ("cuda:0" if gpus else "cpu")
    match = _DEVICE.fullmatch(device)
    if match is None:
        raise PlacementError(
            f"ATTUNE_TRAIN_DEVICE is {device!r}: use 'cpu', 'cuda', or a GPU such as 'cuda:1'."
        )
    if device == "cpu":
        return _on_cpu(settings)
    index = int(match[1] or 0)
    if index >= gpus:
        raise PlacementError(
            f"ATTUNE_TRAIN_DEVICE is {device!r}, and PyTorch finds {gpus or 'no'} "
            f"GPU{'' if gpus == 1 else 's'}: name one that is there, or 'cpu'."
        )
    return _on_gpu(settings, index, gpus)


def _on_cpu(settings: Settings) -> Placement:
    if settings.train_gpu != "shared":
        raise PlacementError(
            f"ATTUNE_TRAIN_GPU is {settings.train_gpu!r}, and training runs on the CPU, where an "
            "engine's sleep frees nothing and no device is training's own: leave it out, or "
            "name a GPU with ATTUNE_TRAIN_DEVICE."
        )
    if settings.train_memory_share is not None:
        raise PlacementError(
            "ATTUNE_TRAIN_MEMORY_SHARE is a share of a GPU's memory, and training runs on the "
            "CPU: leave it out, or name a GPU with ATTUNE_TRAIN_DEVICE."
        )
    return Placement("cpu", "cpu", settings.train_threads, niceness=settings.train_niceness)


def _on_gpu(settings: Settings, index: int, gpus: int) -> Placement:
    mode, share = settings.train_gpu, settings.train_memory_share
    if mode == "shared":
        chosen = share if share is not None else round(0.9 - settings.engine_memory_share, 2)
        if chosen <= 0 or chosen + settings.engine_memory_share > 1:
            raise PlacementError(
                f"Training's share of the GPU's memory ({chosen:g}) and the engine's "
                f"({settings.engine_memory_share:g}) do not fit: lower "
                "ATTUNE_TRAIN_MEMORY_SHARE or ATTUNE_ENGINE_MEMORY_SHARE, or set "
                "ATTUNE_TRAIN_GPU=window."
            )
        return Placement(f"cuda:{index}", mode, settings.train_threads, memory_share=chosen)
    if share is not None:
        raise PlacementError(
            f"ATTUNE_TRAIN_MEMORY_SHARE belongs to ATTUNE_TRAIN_GPU=shared; with {mode!r} "
            "training has the GPU to itself: leave the share out."
        )
    if mode == "dedicated":
        if not settings.train_device.startswith("cuda:"):
            raise PlacementError(
                "ATTUNE_TRAIN_GPU is 'dedicated': name training's GPU, such as "
                "ATTUNE_TRAIN_DEVICE=cuda:1, so that it is not the engine's."
            )
        if gpus == 1 and any(_is_local(url) for url in settings.engine_urls):
            raise PlacementError(
                "ATTUNE_TRAIN_GPU is 'dedicated', and the only GPU of this machine is the "
                "engine's: use 'shared' or 'window'."
            )
    return Placement(f"cuda:{index}", mode, settings.train_threads)


def _is_local(url: str) -> bool:
    return urlsplit(url).hostname in _LOOPBACK
