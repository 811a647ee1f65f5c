"""`attune bench step` and `attune bench refresh`, on the tiny model."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from perce.adapter import new_adapter
from perce.hyperparameters import Hyperparameters
from perce.model import load_model
from perce.train import train_adapter
from scripts.attune.bench.plain import plain_refresh
from scripts.attune.bench.refresh import ceilings
from scripts.attune.bench.speed import (
    BadDevice,
    BadLengths,
    Lengths,
    Machine,
    open_model,
    user_examples,
)
from scripts.attune.main import app
from scripts.attune.up.errors import BadModelError

SHORT = Lengths(prompt=60, without=12, reply=9)
LENGTHS = ["--prompt", "60", "--without", "12", "--reply", "9"]


def figures(*arguments: str) -> dict[str, Any]:
    ran = CliRunner().invoke(app, ["bench", *arguments, *LENGTHS, "--json"])
    assert ran.exit_code == 0, ran.output
    result: dict[str, Any] = json.loads(ran.stdout)
    return result


def test_step_prints_times_and_the_floor_of_their_ratio(tiny_model_dir: Path) -> None:
    result = figures("step", "--model", str(tiny_model_dir), "--pairs", "2", "--batch", "2")
    assert {"ce_s", "perce_s", "ratio", "floor"} <= set(result)
    assert result["ce_s"] > 0
    assert result["perce_s"] > 0
    # Without persona a pass has 21 of 69 tokens, and those go forward only.
    assert 1.03 < result["floor"] < 1 + 21 / 69


def test_step_takes_a_config_for_a_model_of_random_weights(tiny_model_dir: Path) -> None:
    config = str(tiny_model_dir / "config.json")
    arguments = ("--pairs", "1", "--batch", "2", "--group-size", "2", "--dtype", "bfloat16")
    alone = figures("step", "--config", config, "--pairs", "1", "--batch", "2")
    shared = figures("step", "--config", config, *arguments)
    assert shared["ce_tflops"] < alone["ce_tflops"]
    assert shared["floor"] > alone["floor"]


def test_refresh_counts_users_and_the_adapters_of_both_ways_agree(tiny_model_dir: Path) -> None:
    options = ("--users", "1", "--texts", "6", "--batch", "4", "--group-size", "4", "--epochs", "2")
    result = figures("refresh", "--model", str(tiny_model_dir), "--plain-batch", "2", *options)
    assert {"users", "plain_users_per_hour", "users_per_hour", "ratio", "ceiling"} <= set(result)
    assert result["users"] == 1
    assert result["users_per_hour"] == pytest.approx(3600 / result["seconds"])
    assert result["cosine"] > 0.999
    assert result["difference"] < 0.02
    # Groups of 4 and of 2: 414 tokens with persona twice and 126 without, against 318 twice.
    assert result["ceiling"] == pytest.approx((2 * 6 * 69 + 6 * 21) / (2 * (6 * 69 - 4 * 48) + 126))


def test_the_tables_name_the_machine(tiny_model_dir: Path) -> None:
    short = ["--model", str(tiny_model_dir), *LENGTHS, "--batch", "2"]
    step = CliRunner().invoke(app, ["bench", "step", *short, "--pairs", "1"])
    refresh = CliRunner().invoke(
        app,
        ["bench", "refresh", *short, "--group-size", "2", "--users", "1", "--texts", "2"],
    )
    for ran in (step, refresh):
        assert ran.exit_code == 0, ran.output
        assert "float32" in ran.stdout
        assert "Ratio" in ran.stdout


def test_plain_and_ours_differ_where_the_loss_does(tiny_model_dir: Path) -> None:
    """The agreement can fail: cross-entropy ends up elsewhere than PerCE."""
    hyper = Hyperparameters(rank=4, epochs=1, batch_size=2, group_size=2, clip_max=1.5)
    examples = user_examples(SHORT, 4, 2, 384)
    ends = []
    for way in ("plain", "ours", "ce"):
        model = new_adapter(load_model(str(tiny_model_dir), "cpu"), hyper)
        before = torch.cat([p.detach().flatten() for p in model.parameters() if p.requires_grad])
        if way == "plain":
            plain_refresh(model, examples, hyper, at_once=1)
        else:
            train_adapter(model, examples, hyper if way == "ours" else hyper.plain_ce())
        after = torch.cat([p.detach().flatten() for p in model.parameters() if p.requires_grad])
        ends.append(after - before)
    plain, ours, ce = ends
    assert (ours - plain).norm() < 0.02 * plain.norm()
    assert (ce - plain).norm() > 0.05 * plain.norm()


def test_groups_share_their_persona_and_nothing_else() -> None:
    examples = user_examples(SHORT, 5, 2, 384, seed=3)
    assert examples == user_examples(SHORT, 5, 2, 384, seed=3)
    assert [len(e.prompt_ids) for e in examples] == [60] * 5
    assert [len(e.prompt_ids_without) for e in examples] == [12] * 5
    personas = [example.prompt_ids[:48] for example in examples]
    assert personas[0] == personas[1] != personas[2] == personas[3] != personas[4]
    assert len({example.prompt_ids_without for example in examples}) == 5


def test_time_groups_ramp_up_as_in_a_refresh() -> None:
    examples = user_examples(SHORT, 8, 4, 384, alone=0.0)
    personas = [example.prompt_ids[:48] for example in examples]
    assert [personas.count(persona) for persona in dict.fromkeys(personas)] == [1, 1, 2, 4]


def test_nothing_shared_leaves_nothing_to_gain(tiny_model_dir: Path) -> None:
    model = load_model(str(tiny_model_dir), "cpu")
    examples = user_examples(SHORT, 4, 1, 384)
    alone = Hyperparameters(rank=4, batch_size=4, group_size=1)
    assert ceilings(model, examples, alone) == (1.0, 1.0)


@pytest.mark.parametrize("lengths", [(10, 11, 5), (10, 0, 5), (10, 5, 0)])
def test_lengths_that_contradict_each_other_are_one_sentence(lengths: tuple[int, ...]) -> None:
    with pytest.raises(BadLengths, match="do not go together"):
        Lengths(*lengths)


def test_a_config_that_is_none_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(BadModelError):
        open_model("", tmp_path / "config.json", Machine.named("cpu", None))


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "meta"])
def test_a_device_that_is_not_there_is_one_sentence(device: str) -> None:
    ran = CliRunner().invoke(app, ["bench", "step", "--device", device])
    assert isinstance(ran.exception, BadDevice), repr(ran.exception)
    assert f"cannot use the device {device!r}" in str(ran.exception)
    assert "\n" not in str(ran.exception)


@pytest.mark.parametrize("autocast", [False, True])
def test_the_plain_loop_heeds_autocast_in_both_passes(tiny_model_dir: Path, autocast: bool) -> None:
    hyper = Hyperparameters(rank=4, epochs=1, batch_size=2, clip_max=1.5, autocast=autocast)
    model = new_adapter(load_model(str(tiny_model_dir), "cpu"), hyper)
    products: list[tuple[bool, torch.dtype]] = []

    def note(_: object, __: object, output: torch.Tensor) -> None:
        products.append((torch.is_grad_enabled(), output.dtype))

    layer = model.get_submodule("base_model.model.model.layers.0.mlp.down_proj")
    layer.get_submodule("base_layer").register_forward_hook(note)
    plain_refresh(model, user_examples(SHORT, 2, 1, 384), hyper)
    dtype = torch.bfloat16 if autocast else torch.float32
    assert products == [(False, dtype), (True, dtype)]
    trained = [p for p in model.parameters() if p.requires_grad]
    assert all(p.dtype == torch.float32 for p in trained)
    assert layer.get_parameter("lora_B.default.weight").any(), "the adapter has learnt nothing"


def test_under_autocast_both_ways_agree_as_far_as_bfloat16_goes(tiny_model_dir: Path) -> None:
    options = ("--users", "1", "--texts", "4", "--batch", "4", "--group-size", "1", "--epochs", "1")
    result = figures("refresh", "--model", str(tiny_model_dir), "--autocast", *options)
    assert result["cosine"] > 0.95


def test_the_tables_name_the_arithmetic() -> None:
    exact, rounded = (str(Machine.named("cpu", "float32", autocast)) for autocast in (False, True))
    assert exact.endswith("threads, float32")
    assert rounded == f"{exact}, products in bfloat16"
