"""Whoever fails, is cancelled or does not fit leaves a fleet with the error and spoils nobody."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from fleet_members import (
    HISTORIES,
    HYPER,
    assert_equal_alone,
    bobs_start,
    finished,
    history,
    members,
    weights,
)
from noisy_adapter import noisy_adapter
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel

from perce.adapter import load_adapter, new_adapter, remove_adapter, save_adapter
from perce.adapter_files import WEIGHTS_FILE, MissingAdapterFile, OtherBaseModel
from perce.example import Example
from perce.fleet import FleetSize, Member, train_fleet
from perce.fleet_step import BrokenExample
from perce.model import load_model
from perce.run import NothingToTrain, Step, TrainingDiverged, TrainResult


def broken_adapter(model: PreTrainedModel, folder: Path) -> Path:
    """An adapter of finite weights that overflows as soon as it is used."""
    adapted = noisy_adapter(model, HYPER, 1e30)
    save_adapter(adapted, folder)
    remove_adapter(adapted)
    return folder


@pytest.mark.parametrize("group_size", [1, 2])
@pytest.mark.parametrize("users", [2, 5])
def test_broken_users_end_with_their_error_and_spoil_nobody(
    tiny_model: PreTrainedModel, tmp_path: Path, users: int, group_size: int
) -> None:
    hyper = replace(HYPER, group_size=group_size)
    overflowing = broken_adapter(tiny_model, tmp_path / "overflowing")
    sound = members(tmp_path, {}, hyper)
    first = HISTORIES["ann"][0]
    broken = {
        "none": Member([], hyper, tmp_path / "none"),
        "nan": Member(HISTORIES["eve"], hyper, tmp_path / "nan", overflowing),
        "nan 2": Member(HISTORIES["bob"], hyper, tmp_path / "nan 2", overflowing),
        "lost": Member(HISTORIES["bob"], hyper, tmp_path / "lost", tmp_path / "nowhere"),
        "foreign": Member([replace(first, reply_ids=(384,))], hyper, tmp_path / "foreign"),
        "empty": Member([first, replace(first, reply_ids=())], hyper, tmp_path / "empty"),
    }
    outcomes = train_fleet(tiny_model, {**broken, **sound}, FleetSize(users))
    assert {user: type(outcomes[user]) for user in broken} == {
        "none": NothingToTrain,
        "nan": TrainingDiverged,
        "nan 2": TrainingDiverged,
        "lost": MissingAdapterFile,
        "foreign": BrokenExample,
        "empty": BrokenExample,
    }
    assert not any(member.folder.exists() for member in broken.values())
    assert_equal_alone(tiny_model, sound, tmp_path)


def test_an_adapter_of_another_width_leaves_the_model_as_it_was(
    tiny_model: PreTrainedModel, tmp_path: Path
) -> None:
    adapted = new_adapter(tiny_model, HYPER)
    save_adapter(adapted, tmp_path / "wide")
    remove_adapter(adapted)
    wider = {
        name: torch.cat([matrix, matrix], dim=1) if "lora_A" in name else matrix
        for name, matrix in weights(tmp_path / "wide").items()
    }
    save_file(wider, tmp_path / "wide" / WEIGHTS_FILE, metadata={"format": "pt"})
    modules = dict(tiny_model.named_modules())
    with pytest.raises(OtherBaseModel, match=r"does not fit.*train it anew"):
        load_adapter(tiny_model, tmp_path / "wide")
    assert dict(tiny_model.named_modules()) == modules


def test_a_device_too_full_to_load_an_adapter_is_no_other_base_model(
    tiny_model: PreTrainedModel, tmp_path: Path
) -> None:
    adapted = new_adapter(tiny_model, HYPER)
    save_adapter(adapted, tmp_path / "adapter")
    remove_adapter(adapted)

    def fill(*_: object) -> None:
        raise torch.OutOfMemoryError("injected")

    handle = tiny_model.register_load_state_dict_pre_hook(fill)
    modules = dict(tiny_model.named_modules())
    with pytest.raises(torch.OutOfMemoryError, match="injected"):
        load_adapter(tiny_model, tmp_path / "adapter")
    handle.remove()
    assert dict(tiny_model.named_modules()) == modules


def test_whatever_on_step_raises_cancels_that_user_alone(
    tiny_model: PreTrainedModel, tmp_path: Path
) -> None:
    class Cancelled(Exception):
        pass

    taken: dict[str, list[int]] = {user: [] for user in HISTORIES}

    def cancel(user: str, step: Step) -> None:
        taken[user].append(step.step)
        if user == "ann" and step.step == 2:
            raise Cancelled

    fleet = members(tmp_path, {})
    outcomes = train_fleet(tiny_model, fleet, FleetSize(3), cancel)
    assert isinstance(outcomes.pop("ann"), Cancelled)
    assert not fleet.pop("ann").folder.exists()
    assert taken == {"ann": [1, 2], "bob": [1, 2], "eve": [1, 2, 3, 4, 5, 6]}
    assert_equal_alone(tiny_model, fleet, tmp_path)


def fail_when(
    model: PreTrainedModel, error: Exception, too_much: Callable[[Tensor], bool]
) -> list[bool]:
    """Raise in the middle of any pass over such tokens; grows by one entry a pass: raised?"""
    passes: list[bool] = []

    def fail(module: object, args: object, options: dict[str, Tensor]) -> None:
        passes.append(too_much(options["input_ids"]))

    def fail_inside(*_: object) -> None:
        if passes[-1]:
            raise error

    model.get_decoder().register_forward_pre_hook(fail, with_kwargs=True)
    model.get_decoder().layers[1].register_forward_pre_hook(fail_inside)
    return passes


@pytest.mark.parametrize("rows", [4, 1])
def test_out_of_memory_takes_less_at_once_and_changes_no_result(
    tiny_model: PreTrainedModel, tiny_model_dir: Path, tmp_path: Path, rows: int
) -> None:
    passes = fail_when(
        tiny_model, torch.OutOfMemoryError("injected"), lambda ids_BT: len(ids_BT) > rows
    )
    fleet = members(tmp_path, bobs_start(tiny_model, tmp_path))
    outcomes = train_fleet(tiny_model, fleet, FleetSize(3))
    assert any(passes)
    assert [len(finished(outcome).steps) for outcome in outcomes.values()] == [6, 2, 6]
    assert_equal_alone(load_model(str(tiny_model_dir), "cpu"), fleet, tmp_path)


def test_a_user_who_alone_does_not_fit_ends_so_and_the_others_go_on(
    tiny_model: PreTrainedModel, tiny_model_dir: Path, tmp_path: Path
) -> None:
    longest = 120
    passes = fail_when(
        tiny_model, torch.OutOfMemoryError("injected"), lambda ids_BT: ids_BT.shape[1] > longest
    )
    fleet = members(tmp_path, {})
    huge = {"huge": Member(history(4, 300), HYPER, tmp_path / "huge")}
    outcomes = train_fleet(tiny_model, {**huge, **fleet}, FleetSize(4))
    assert isinstance(outcomes.pop("huge"), torch.OutOfMemoryError)
    assert all(isinstance(outcome, TrainResult) for outcome in outcomes.values())
    # Four users, two, one; then batches of 3, 1: four passes, and after them there is room again.
    assert sum(passes) <= 8
    assert_equal_alone(load_model(str(tiny_model_dir), "cpu"), fleet, tmp_path)


def test_an_error_of_one_users_pass_is_found_to_be_that_users(
    tiny_model: PreTrainedModel, tiny_model_dir: Path, tmp_path: Path
) -> None:
    cursed = 381
    passes = fail_when(
        tiny_model, RuntimeError("injected"), lambda ids_BT: bool((ids_BT == cursed).any())
    )
    fleet = members(tmp_path, {})
    bad = {"bad": Member([Example((5, cursed), (5,), (7,))], HYPER, tmp_path / "bad")}
    outcomes = train_fleet(tiny_model, {**fleet, **bad}, FleetSize(4))
    error = outcomes.pop("bad")
    assert isinstance(error, RuntimeError)
    assert str(error) == "injected"
    assert any(passes)
    assert all(isinstance(outcome, TrainResult) for outcome in outcomes.values())
    assert_equal_alone(load_model(str(tiny_model_dir), "cpu"), fleet, tmp_path)
