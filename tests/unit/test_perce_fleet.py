"""A fleet gives each user the adapter that training alone gives, whatever happens to others."""

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from noisy_adapter import noisy_adapter
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

from perce.adapter import load_adapter, new_adapter, remove_adapter, save_adapter
from perce.adapter_files import WEIGHTS_FILE, MissingAdapterFile, OtherBaseModel, check_adapter
from perce.example import Example
from perce.fleet import BadFleetSize, FleetSize, Member, Outcome, train_fleet
from perce.fleet_size import DoesNotFit, best_size, choose_fleet_size
from perce.fleet_step import BrokenExample
from perce.hyperparameters import Hyperparameters
from perce.logprobs import reply_logprobs
from perce.model import load_model
from perce.run import NothingToTrain, Step, TrainingDiverged, TrainResult
from perce.stacked import UserAdapter
from perce.stacked_logprobs import UserBatch, stacked_logprobs
from perce.train import train_adapter

RANDOM = random.Random(0)
HYPER = Hyperparameters(rank=4, alpha=8, epochs=2, learning_rate=1e-2, batch_size=3)


def ids(length: int) -> list[int]:
    return [RANDOM.randrange(3, 380) for _ in range(length)]


def history(texts: int, persona: int) -> list[Example]:
    """Texts of which two of three share a persona context, and one is without."""
    shared = ids(persona)
    asked = [ids(2 + 3 * (n % 4)) for n in range(texts)]
    return [
        Example((*(shared if n % 3 else ()), *query), tuple(query), tuple(ids(1 + 5 * (n % 3))))
        for n, query in enumerate(asked)
    ]


HISTORIES = {"ann": history(7, 60), "bob": history(2, 35), "eve": history(4, 90)}
"""Users of 3, 1 and 2 steps an epoch, of different lengths."""

Starts = dict[str, Path]


@pytest.fixture
def model(tiny_model_dir: Path) -> PreTrainedModel:
    return load_model(str(tiny_model_dir), "cpu")


@pytest.fixture
def starts(model: PreTrainedModel, tmp_path: Path) -> Starts:
    """Bob goes on from an adapter of another rank and scaling than the others'."""
    folder = tmp_path / "bob@v1"
    adapted = noisy_adapter(model, replace(HYPER, rank=8, alpha=12), 0.1)
    save_adapter(adapted, folder)
    remove_adapter(adapted)
    return {"bob": folder}


def hyper_of(user: str, hyper: Hyperparameters = HYPER) -> Hyperparameters:
    """Eve has settings of her own."""
    own = replace(hyper, seed=len(user) + ord(user[0]))
    return replace(own, epochs=3, learning_rate=3e-3, batch_size=2) if user == "eve" else own


def members(folder: Path, starts: Starts, hyper: Hyperparameters = HYPER) -> dict[str, Member]:
    return {
        user: Member(examples, hyper_of(user, hyper), folder / user, starts.get(user))
        for user, examples in HISTORIES.items()
    }


def alone(model: PreTrainedModel, member: Member, folder: Path) -> dict[str, Tensor]:
    """What `train_adapter` makes of the member."""
    adapted = (
        new_adapter(model, member.hyper)
        if member.start is None
        else load_adapter(model, member.start)
    )
    train_adapter(adapted, member.examples, member.hyper)
    save_adapter(adapted, folder)
    remove_adapter(adapted)
    return weights(folder)


def weights(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / WEIGHTS_FILE)


def difference(got: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Relative to the norm of the whole adapter."""
    assert got.keys() == expected.keys()
    apart = math.hypot(*((got[key] - expected[key]).norm().item() for key in expected))
    return apart / math.hypot(*(matrix.norm().item() for matrix in expected.values()))


def finished(outcome: Outcome) -> TrainResult:
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def assert_equal_alone(
    model: PreTrainedModel, fleet: dict[str, Member], tmp_path: Path, tolerance: float = 1e-4
) -> None:
    for user, member in fleet.items():
        expected = alone(model, member, tmp_path / "alone")
        assert difference(weights(member.folder), expected) <= tolerance, user


@pytest.mark.parametrize("group_size", [1, 2])
@pytest.mark.parametrize("users", [1, 2, 3])
def test_any_fleet_gives_what_training_alone_gives(
    model: PreTrainedModel, starts: Starts, tmp_path: Path, users: int, group_size: int
) -> None:
    fleet = members(tmp_path, starts, replace(HYPER, group_size=group_size))
    outcomes = train_fleet(model, fleet, FleetSize(users))
    assert list(outcomes) == list(HISTORIES)
    steps = {user: finished(outcome).steps for user, outcome in outcomes.items()}
    assert {user: len(taken) for user, taken in steps.items()} == {"ann": 6, "bob": 2, "eve": 6}
    assert not model.training
    for user, member in fleet.items():
        expected = alone(model, member, tmp_path / "alone")
        assert difference(weights(member.folder), expected) <= 1e-4
        if member.start is not None:
            assert difference(weights(member.start), expected) > 1e-2, "it hardly moved"
        assert finished(outcomes[user]).tokens == sum(step.tokens for step in steps[user])


@pytest.mark.parametrize(
    ("micro_batch", "changed"),
    [
        (1, {"normalize": "weights"}),
        (None, {"gradient_checkpointing": True}),
        (2, {"gradient_checkpointing": True, "group_size": 2}),
        (None, {"clip_min": 1.0, "clip_max": 1.0}),
        (2, {"reweigh_every": 3, "weight_decay": 0.1}),
    ],
)
def test_in_float64_next_to_nothing_differs_also_in_parts_of_batches(
    model: PreTrainedModel,
    tmp_path: Path,
    micro_batch: int | None,
    changed: dict[str, object],
) -> None:
    model = model.double()
    fleet = members(tmp_path, {}, replace(HYPER, **changed))  # type: ignore[arg-type]  # mixed
    outcomes = train_fleet(model, fleet, FleetSize(3, micro_batch))
    steps = finished(outcomes["ann"]).steps
    # Not 1e-12, because the model's norms compute in float32.
    assert_equal_alone(model, fleet, tmp_path, 1e-6)
    told: list[Step] = []
    ann = fleet["ann"]
    train_adapter(new_adapter(model, ann.hyper), ann.examples, ann.hyper, told.append)
    for one, other in zip(steps, told, strict=True):
        assert one.loss == pytest.approx(other.loss, rel=1e-6)
        assert one.mean_weight == pytest.approx(other.mean_weight, rel=1e-6)
        assert replace(one, loss=0, mean_weight=0, seconds=0) == replace(
            other, loss=0, mean_weight=0, seconds=0
        )


@settings(max_examples=15, deadline=None)
@given(
    sizes=st.lists(
        st.lists(st.tuples(st.integers(1, 9), st.integers(1, 5)), max_size=3), max_size=4
    ),
    share=st.booleans(),
)
def test_stacked_users_score_as_alone_for_any_shapes(
    tiny_model_dir: Path, sizes: Sequence[Sequence[tuple[int, int]]], share: bool
) -> None:
    model = load_model(str(tiny_model_dir), "cpu")
    batches, expected = [], []
    for user, texts in enumerate(sizes):
        prompts = [ids(prompt) for prompt, _ in texts]
        replies = [ids(reply) for _, reply in texts]
        adapted = noisy_adapter(model, replace(HYPER, rank=2 + user, seed=user), 0.3)
        with torch.no_grad():
            expected.append(reply_logprobs(adapted, prompts, replies))
        batches.append(UserBatch(UserAdapter.taken_off(adapted), prompts, replies))
    with torch.no_grad(), stacked_logprobs(model, batches, share) as scored:
        for own, one in zip(scored, expected, strict=True):
            assert len(own) == len(one)
            for got, reference in zip(own, one, strict=True):
                torch.testing.assert_close(got, reference, atol=1e-5, rtol=1e-5)


def test_plain_peft_loads_what_a_fleet_writes(
    model: PreTrainedModel, tiny_model_dir: Path, tmp_path: Path
) -> None:
    fleet = members(tmp_path, {})
    train_fleet(model, fleet, FleetSize(3))
    ann = fleet["ann"]
    assert check_adapter(ann.folder, str(tiny_model_dir)).rank == HYPER.rank
    assert check_adapter(ann.folder).fingerprint
    expected = new_adapter(load_model(str(tiny_model_dir), "cpu"), ann.hyper)
    train_adapter(expected, ann.examples, ann.hyper)
    loaded = PeftModel.from_pretrained(load_model(str(tiny_model_dir), "cpu"), ann.folder)
    prompt = torch.tensor([ann.examples[1].prompt_ids])
    with torch.no_grad():
        torch.testing.assert_close(
            loaded(input_ids=prompt).logits, expected(input_ids=prompt).logits, atol=1e-3, rtol=0
        )


def broken_adapter(model: PreTrainedModel, folder: Path) -> Path:
    """An adapter of finite weights that overflows as soon as it is used."""
    adapted = noisy_adapter(model, HYPER, 1e30)
    save_adapter(adapted, folder)
    remove_adapter(adapted)
    return folder


@pytest.mark.parametrize("group_size", [1, 2])
@pytest.mark.parametrize("users", [2, 5])
def test_broken_users_end_with_their_error_and_spoil_nobody(
    model: PreTrainedModel, tmp_path: Path, users: int, group_size: int
) -> None:
    hyper = replace(HYPER, group_size=group_size)
    overflowing = broken_adapter(model, tmp_path / "overflowing")
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
    outcomes = train_fleet(model, {**broken, **sound}, FleetSize(users))
    assert {user: type(outcomes[user]) for user in broken} == {
        "none": NothingToTrain,
        "nan": TrainingDiverged,
        "nan 2": TrainingDiverged,
        "lost": MissingAdapterFile,
        "foreign": BrokenExample,
        "empty": BrokenExample,
    }
    assert not any(member.folder.exists() for member in broken.values())
    assert_equal_alone(model, sound, tmp_path)


def test_an_adapter_of_another_width_leaves_the_model_as_it_was(
    model: PreTrainedModel, tmp_path: Path
) -> None:
    adapted = new_adapter(model, HYPER)
    save_adapter(adapted, tmp_path / "wide")
    remove_adapter(adapted)
    wider = {
        name: torch.cat([matrix, matrix], dim=1) if "lora_A" in name else matrix
        for name, matrix in weights(tmp_path / "wide").items()
    }
    save_file(wider, tmp_path / "wide" / WEIGHTS_FILE, metadata={"format": "pt"})
    modules = dict(model.named_modules())
    with pytest.raises(OtherBaseModel, match=r"does not fit.*train it anew"):
        load_adapter(model, tmp_path / "wide")
    assert dict(model.named_modules()) == modules


def test_whatever_on_step_raises_cancels_that_user_alone(
    model: PreTrainedModel, tmp_path: Path
) -> None:
    class Cancelled(Exception):
        pass

    taken: dict[str, list[int]] = {user: [] for user in HISTORIES}

    def cancel(user: str, step: Step) -> None:
        taken[user].append(step.step)
        if user == "ann" and step.step == 2:
            raise Cancelled

    fleet = members(tmp_path, {})
    outcomes = train_fleet(model, fleet, FleetSize(3), cancel)
    assert isinstance(outcomes.pop("ann"), Cancelled)
    assert not fleet.pop("ann").folder.exists()
    assert taken == {"ann": [1, 2], "bob": [1, 2], "eve": [1, 2, 3, 4, 5, 6]}
    assert_equal_alone(model, fleet, tmp_path)


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
    model: PreTrainedModel, starts: Starts, tiny_model_dir: Path, tmp_path: Path, rows: int
) -> None:
    passes = fail_when(model, torch.OutOfMemoryError("injected"), lambda ids_BT: len(ids_BT) > rows)
    fleet = members(tmp_path, starts)
    outcomes = train_fleet(model, fleet, FleetSize(3))
    assert any(passes)
    assert [len(finished(outcome).steps) for outcome in outcomes.values()] == [6, 2, 6]
    assert_equal_alone(load_model(str(tiny_model_dir), "cpu"), fleet, tmp_path)


def test_a_user_who_alone_does_not_fit_ends_so_and_the_others_go_on(
    model: PreTrainedModel, tiny_model_dir: Path, tmp_path: Path
) -> None:
    longest = 120
    passes = fail_when(
        model, torch.OutOfMemoryError("injected"), lambda ids_BT: ids_BT.shape[1] > longest
    )
    fleet = members(tmp_path, {})
    huge = {"huge": Member(history(4, 300), HYPER, tmp_path / "huge")}
    outcomes = train_fleet(model, {**huge, **fleet}, FleetSize(4))
    assert isinstance(outcomes.pop("huge"), torch.OutOfMemoryError)
    assert all(isinstance(outcome, TrainResult) for outcome in outcomes.values())
    # Four users, two, one; then batches of 3, 1: four passes, and after them there is room again.
    assert sum(passes) <= 8
    assert_equal_alone(load_model(str(tiny_model_dir), "cpu"), fleet, tmp_path)


def test_an_error_of_one_users_pass_is_found_to_be_that_users(
    model: PreTrainedModel, tiny_model_dir: Path, tmp_path: Path
) -> None:
    cursed = 381
    passes = fail_when(
        model, RuntimeError("injected"), lambda ids_BT: bool((ids_BT == cursed).any())
    )
    fleet = members(tmp_path, {})
    bad = {"bad": Member([Example((5, cursed), (5,), (7,))], HYPER, tmp_path / "bad")}
    outcomes = train_fleet(model, {**fleet, **bad}, FleetSize(4))
    error = outcomes.pop("bad")
    assert isinstance(error, RuntimeError)
    assert str(error) == "injected"
    assert any(passes)
    assert all(isinstance(outcome, TrainResult) for outcome in outcomes.values())
    assert_equal_alone(load_model(str(tiny_model_dir), "cpu"), fleet, tmp_path)


def test_users_who_are_done_leave_the_batch(model: PreTrainedModel, tmp_path: Path) -> None:
    rows: list[int] = []
    model.get_decoder().register_forward_pre_hook(
        lambda _, args, options: rows.append(len(options["input_ids"])), with_kwargs=True
    )
    hyper = replace(HYPER, epochs=1, batch_size=1).plain_ce()
    fleet = {
        user: Member(HISTORIES[user][:texts], hyper, tmp_path / user)
        for user, texts in {"ann": 3, "bob": 1, "eve": 2}.items()
    }
    train_fleet(model, fleet, FleetSize(3))
    assert rows == [3, 2, 1]


def test_dropout_and_autocast_train_in_a_fleet_too(model: PreTrainedModel, tmp_path: Path) -> None:
    hyper = replace(HYPER, batch_size=7, epochs=6).plain_ce()
    fleet = {
        "dropping": Member(HISTORIES["ann"], replace(hyper, dropout=0.1), tmp_path / "dropping"),
        "rounding": Member(HISTORIES["ann"], replace(hyper, autocast=True), tmp_path / "rounding"),
        "exact": Member(HISTORIES["ann"], hyper, tmp_path / "exact"),
    }
    outcomes = train_fleet(model, fleet, FleetSize(3))
    losses = {
        user: [step.loss for step in finished(outcome).steps] for user, outcome in outcomes.items()
    }
    for user in ("dropping", "rounding"):
        assert losses[user][0] == pytest.approx(losses["exact"][0], rel=0.02)
        assert losses[user][-1] < 0.9 * losses[user][0]
        assert losses[user][-1] == pytest.approx(losses["exact"][-1], rel=0.1)
        assert losses[user][-1] != losses["exact"][-1]


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


def test_a_trial_takes_steps_and_leaves_the_model_as_it_was(model: PreTrainedModel) -> None:
    rows: list[int] = []
    model.get_decoder().register_forward_pre_hook(
        lambda _, args, options: rows.append(len(options["input_ids"])), with_kwargs=True
    )
    hyper = replace(HYPER, batch_size=4).plain_ce()
    assert choose_fleet_size(model, HISTORIES["ann"][:4], hyper) == FleetSize(1)
    assert rows == []
    chosen = choose_fleet_size(model, HISTORIES["ann"][:4], hyper, most_users=2, steps=2)
    assert rows == [4] * 3 + [8] * 3
    assert chosen in (FleetSize(1), FleetSize(2))
    assert not any(parameter.requires_grad for parameter in model.parameters())
    with pytest.raises(NothingToTrain):
        choose_fleet_size(model, [], hyper, most_users=2)


@pytest.mark.parametrize("size", [(0, None), (1, 0)])
def test_an_empty_fleet_size_is_refused(size: tuple[int, int | None]) -> None:
    with pytest.raises(BadFleetSize, match="Change users or micro_batch"):
        FleetSize(*size)


def test_no_members_no_outcomes(model: PreTrainedModel) -> None:
    assert train_fleet(model, {}) == {}
