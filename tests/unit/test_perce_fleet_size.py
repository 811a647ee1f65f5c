"""The size of a fleet: the most users per second that the device has room for."""

import weakref
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from fleet_members import HISTORIES, HYPER
from transformers import PreTrainedModel

from perce.fleet import BadFleetSize, FleetSize
from perce.fleet_size import DoesNotFit, best_size, choose_fleet_size
from perce.run import NothingToTrain


def memory(users: int, examples: int = 8, spoils: int = 10**9) -> Callable[[FleetSize], float]:
    """A device that takes so many users, or so many examples of one; slower from `spoils` on."""

    def seconds(size: FleetSize) -> float:
        if size.users > users or (size.micro_batch or 8) > examples:
            raise torch.OutOfMemoryError("injected")
        return 1.0 + (size.users if size.users >= spoils else 0)

    return seconds


@pytest.mark.parametrize(
    ("device", "most", "chosen"),
    [
        (memory(users=64), 64, FleetSize(64)),
        (memory(users=64), 20, FleetSize(16)),
        (memory(users=5), 64, FleetSize(4)),
        (memory(users=64, spoils=8), 64, FleetSize(4)),
        (memory(users=64, spoils=1), 64, FleetSize(64)),
        (memory(users=1), 64, FleetSize(1)),
        (memory(users=1, examples=3), 64, FleetSize(1, 2)),
        (memory(users=1, examples=0), 1, FleetSize(1)),
    ],
)
def test_the_most_users_per_second_are_chosen(
    device: Callable[[FleetSize], float], most: int, chosen: FleetSize
) -> None:
    assert best_size(device, 8, most) == chosen


def test_a_device_too_small_for_an_example_is_refused() -> None:
    with pytest.raises(DoesNotFit, match="gradient_checkpointing"):
        best_size(memory(users=1, examples=0), 8, 64)


def test_a_trial_that_failed_holds_no_memory_during_the_next() -> None:
    left: list[weakref.ref[torch.Tensor]] = []

    def seconds(size: FleetSize) -> float:
        assert not [tensor for tensor in left if tensor() is not None]
        activations = torch.zeros(4)
        left.append(weakref.ref(activations))
        if size.micro_batch != 1:
            raise torch.OutOfMemoryError("injected")
        return 1.0

    assert best_size(seconds, 8, 64) == FleetSize(1, 1)
    assert len(left) == 4


def test_a_trial_takes_steps_and_leaves_the_model_as_it_was(tiny_model: PreTrainedModel) -> None:
    rows: list[int] = []
    tiny_model.get_decoder().register_forward_pre_hook(
        lambda _, args, options: rows.append(len(options["input_ids"])), with_kwargs=True
    )
    hyper = replace(HYPER, batch_size=4).plain_ce()
    assert choose_fleet_size(tiny_model, HISTORIES["ann"][:4], hyper) == FleetSize(1)
    assert rows == []
    chosen = choose_fleet_size(tiny_model, HISTORIES["ann"][:4], hyper, most_users=2, steps=2)
    assert rows == [4] * 3 + [8] * 3
    assert chosen in (FleetSize(1), FleetSize(2))
    assert not any(parameter.requires_grad for parameter in tiny_model.parameters())
    with pytest.raises(NothingToTrain):
        choose_fleet_size(tiny_model, [], hyper, most_users=2)


@pytest.mark.parametrize("size", [(0, None), (1, 0)])
def test_an_empty_fleet_size_is_refused(size: tuple[int, int | None]) -> None:
    with pytest.raises(BadFleetSize, match="Change users or micro_batch"):
        FleetSize(*size)
