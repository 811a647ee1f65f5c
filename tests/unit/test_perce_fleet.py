"""A fleet gives each user the adapter that training alone gives."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from fleet_members import (
    HISTORIES,
    HYPER,
    alone,
    assert_equal_alone,
    bobs_start,
    difference,
    finished,
    members,
    weights,
)
from peft import PeftModel
from transformers import PreTrainedModel

from perce.adapter import new_adapter
from perce.adapter_files import check_adapter
from perce.fleet import FleetSize, Member, train_fleet
from perce.model import load_model
from perce.run import Step
from perce.train import train_adapter


@pytest.mark.parametrize("group_size", [1, 2])
@pytest.mark.parametrize("users", [1, 2, 3])
def test_any_fleet_gives_what_training_alone_gives(
    tiny_model: PreTrainedModel, tmp_path: Path, users: int, group_size: int
) -> None:
    fleet = members(
        tmp_path, bobs_start(tiny_model, tmp_path), replace(HYPER, group_size=group_size)
    )
    outcomes = train_fleet(tiny_model, fleet, FleetSize(users))
    assert list(outcomes) == list(HISTORIES)
    steps = {user: finished(outcome).steps for user, outcome in outcomes.items()}
    assert {user: len(taken) for user, taken in steps.items()} == {"ann": 6, "bob": 2, "eve": 6}
    assert not tiny_model.training
    for user, member in fleet.items():
        expected = alone(tiny_model, member, tmp_path / "alone")
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
    tiny_model: PreTrainedModel,
    tmp_path: Path,
    micro_batch: int | None,
    changed: dict[str, object],
) -> None:
    model = tiny_model.double()
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


def test_plain_peft_loads_what_a_fleet_writes(
    tiny_model: PreTrainedModel, tiny_model_dir: Path, tmp_path: Path
) -> None:
    fleet = members(tmp_path, {})
    train_fleet(tiny_model, fleet, FleetSize(3))
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


def test_users_who_are_done_leave_the_batch(tiny_model: PreTrainedModel, tmp_path: Path) -> None:
    rows: list[int] = []
    tiny_model.get_decoder().register_forward_pre_hook(
        lambda _, args, options: rows.append(len(options["input_ids"])), with_kwargs=True
    )
    hyper = replace(HYPER, epochs=1, batch_size=1).plain_ce()
    fleet = {
        user: Member(HISTORIES[user][:texts], hyper, tmp_path / user)
        for user, texts in {"ann": 3, "bob": 1, "eve": 2}.items()
    }
    train_fleet(tiny_model, fleet, FleetSize(3))
    assert rows == [3, 2, 1]


def test_dropout_and_autocast_train_in_a_fleet_too(
    tiny_model: PreTrainedModel, tmp_path: Path
) -> None:
    hyper = replace(HYPER, batch_size=7, epochs=6).plain_ce()
    fleet = {
        "dropping": Member(HISTORIES["ann"], replace(hyper, dropout=0.1), tmp_path / "dropping"),
        "rounding": Member(HISTORIES["ann"], replace(hyper, autocast=True), tmp_path / "rounding"),
        "exact": Member(HISTORIES["ann"], hyper, tmp_path / "exact"),
    }
    outcomes = train_fleet(tiny_model, fleet, FleetSize(3))
    losses = {
        user: [step.loss for step in finished(outcome).steps] for user, outcome in outcomes.items()
    }
    for user in ("dropping", "rounding"):
        assert losses[user][0] == pytest.approx(losses["exact"][0], rel=0.02)
        assert losses[user][-1] < 0.9 * losses[user][0]
        assert losses[user][-1] == pytest.approx(losses["exact"][-1], rel=0.1)
        assert losses[user][-1] != losses["exact"][-1]


def test_no_members_no_outcomes(tiny_model: PreTrainedModel) -> None:
    assert train_fleet(tiny_model, {}) == {}
