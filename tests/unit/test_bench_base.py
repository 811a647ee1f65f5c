"""Models that a benchmark cannot read, and the names by which they are given."""

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from perce.hyperparameters import Hyperparameters
from perce.model import hidden_size
from scripts.attune.bench.base import load_base, load_named
from scripts.attune.bench.gate import load_trainer
from scripts.attune.bench.speed import Machine, open_model
from scripts.attune.main import app
from scripts.attune.up.errors import BadModelError


@pytest.fixture
def unknown(tiny_model_dir: Path, tmp_path: Path) -> Path:
    """A model folder of a type that transformers does not know."""
    folder = tmp_path / "unknown"
    shutil.copytree(tiny_model_dir, folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "no-such-model"}))
    return folder


@pytest.mark.parametrize("command", ["users", "gate", "pir", "step", "refresh"])
def test_a_model_of_an_unknown_type_is_one_sentence(
    unknown: Path, tmp_path: Path, command: str
) -> None:
    file = tmp_path / "file.jsonl"
    texts = [{"user": "a", "order": n, "query": "q", "text": f"text {n}"} for n in range(6)]
    reply = {"id": "1", "persona": ["tea"], "question": "q", "answer": "I drink tea"}
    lines = [reply | {"personal": ["tea"]}] if command == "pir" else texts
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    files = [] if command in ("step", "refresh") else [str(file)]
    ran = CliRunner().invoke(app, ["bench", command, *files, "--model", str(unknown)])
    assert isinstance(ran.exception, BadModelError), repr(ran.exception)
    assert str(ran.exception).startswith(f"{unknown} can't be served: ")
    assert "\n" not in str(ran.exception)


@pytest.fixture
def damaged(tiny_model_dir: Path, tmp_path: Path) -> Path:
    """A model folder whose weights were cut off."""
    folder = tmp_path / "damaged"
    shutil.copytree(tiny_model_dir, folder)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    return folder


def test_damaged_weights_are_one_sentence(damaged: Path) -> None:
    with pytest.raises(BadModelError, match="damaged can't be served"):
        load_base(str(damaged))


def test_damaged_weights_are_one_sentence_at_the_gates_first_training(
    damaged: Path, tmp_path: Path
) -> None:
    trainer = load_trainer(str(damaged), threads=1)
    with pytest.raises(BadModelError, match="damaged can't be served"):
        trainer.train((), Hyperparameters(), None, tmp_path / "adapter", lambda step: None)


def test_a_model_in_the_home_folder_is_found(
    tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tiny_model_dir.parent))
    named = f"~/{tiny_model_dir.name}"
    assert load_named(named, hidden_size) == 32
    assert load_base(named).model.name_or_path == str(tiny_model_dir)
    assert load_trainer(named, threads=1).base_fingerprint.startswith("sha256:")
    opened = open_model(named, None, Machine.named("cpu", None))
    assert opened.config.hidden_size == 32
