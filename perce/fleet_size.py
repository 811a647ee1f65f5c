"""How many users to train at once: measured on the device, not guessed.

Where one user's step leaves a device idle, more users at once get more of them done; where it
does not, as on a CPU, they only cost memory. So a step is timed with 1, 2, 4, 8, ... users.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace

import torch
from transformers import PreTrainedModel

from perce.errors import AttuneError
from perce.example import Example
from perce.fleet import FleetSize
from perce.fleet_step import Trainee, fleet_backward
from perce.hyperparameters import Hyperparameters

MOST_USERS = 64
"""Where a trial ends at the latest."""


class DoesNotFit(AttuneError):
    """Not even one example fits into memory; shorten examples or recompute activations."""


def choose_fleet_size(
    model: PreTrainedModel,
    examples: Sequence[Example],
    hyper: Hyperparameters,
    most_users: int | None = None,
    steps: int = 2,
) -> FleetSize:
    """Time fleets of 1, 2, 4, 8, ... users and choose the one with most users per second.

    Args:
        model: The frozen base model, without adapters; the same afterwards.
        examples: A typical user's; every user of the trial trains on them.
        hyper: How the users will be trained.
        most_users: Where the trial ends; by default 1 on CPUs, which one user's step fills, so
            that nothing is timed, and `MOST_USERS` elsewhere.
        steps: Steps that are timed with each size, after a first one that is not.

    Raises:
        NothingToTrain: `examples` is empty.
        DoesNotFit: Memory does not suffice for one example.
    """
    if most_users is None:
        most_users = 1 if model.device.type == "cpu" else MOST_USERS

    def seconds(size: FleetSize) -> float:
        return _seconds_of_step(model, examples, hyper, size, steps)

    return best_size(seconds, min(hyper.batch_size, len(examples)), most_users)


def best_size(seconds: Callable[[FleetSize], float], batch_size: int, most_users: int) -> FleetSize:
    """Choose a fleet's size by what a step takes.

    Users are doubled until a step has fewer users per second than the best one had, or memory
    runs out. A user whose batch does not fit is trained alone, in parts of half the batch, or
    half of that.

    Args:
        seconds: What a step with this size takes; raises torch.OutOfMemoryError.
        batch_size: Examples of a user's whole batch.
        most_users: Most users to try.

    Raises:
        DoesNotFit: Memory does not suffice for one example.
    """
    if most_users == 1:
        return FleetSize()
    size = best = FleetSize()
    fastest = 0.0
    while size.users <= most_users:
        taken = _seconds_if_it_fits(seconds, size)
        if taken is None and size.users == 1:
            return _largest_part(seconds, batch_size)
        rate = 0.0 if taken is None else size.users / taken
        if rate < fastest:
            break
        best, fastest = size, rate
        size = FleetSize(2 * size.users)
    return best


def _largest_part(seconds: Callable[[FleetSize], float], batch_size: int) -> FleetSize:
    """The largest part of a lone user's batch that fits, by halves."""
    while batch_size > 1:
        batch_size //= 2
        size = FleetSize(1, batch_size)
        if _seconds_if_it_fits(seconds, size) is not None:
            return size
    raise DoesNotFit(
        "Memory does not suffice for one example forward and backward. "
        "Turn on gradient_checkpointing, lower max_length, or use a larger device."
    )


def _seconds_if_it_fits(seconds: Callable[[FleetSize], float], size: FleetSize) -> float | None:
    # As long as the error is handled, its frames hold the failed pass's memory.
    with suppress(torch.OutOfMemoryError):
        return seconds(size)
    return None


def _seconds_of_step(
    model: PreTrainedModel,
    examples: Sequence[Example],
    hyper: Hyperparameters,
    size: FleetSize,
    steps: int,
) -> float:
    # Enough epochs that no run ends within the trial.
    longer = replace(hyper, epochs=steps + 1)
    try:
        trainees = [Trainee.begin(model, examples, longer) for _ in range(size.users)]
        # The first step allocates memory and picks kernels.
        _step(model, trainees, size)
        started = time.perf_counter()
        for _ in range(steps):
            _step(model, trainees, size)
        return (time.perf_counter() - started) / steps
    finally:
        torch.cuda.empty_cache()


def _step(model: PreTrainedModel, trainees: Sequence[Trainee], size: FleetSize) -> None:
    started = time.perf_counter()
    fleet_backward(model, trainees, size.micro_batch)
    for trainee in trainees:
        # Reads the loss, so that a GPU is done with the step afterwards.
        trainee.run.update(started)
