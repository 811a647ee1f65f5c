"""What the trainer refuses and scores for the gate, on a tiny random model."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from noisy_adapter import noisy_adapter
from safetensors.numpy import load_file, save_file
from transformers import PreTrainedModel

from adapt.errors import CandidateRefusedError
from adapt.trainer import Trainer
from perce.adapter import remove_adapter, save_adapter
from perce.evaluate import held_out_losses, mean_loss
from perce.example import Example, encode
from perce.hyperparameters import Hyperparameters
from perce.prompt import fact_items
from perce.tokens import ChatTokenizer

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
TEXTS = ("I paddle out at Malibu.", "My dog hates thunder.", "The waves are soft.", "So do I.")
HYPER = Hyperparameters(rank=4, epochs=1, max_length=400)


@pytest.fixture
def trainer(tiny_model_dir: Path, chat_tokenizer: ChatTokenizer) -> Trainer:
    return Trainer(str(tiny_model_dir), chat_tokenizer, device="cpu", max_rank=8)


@pytest.fixture
def examples(chat_tokenizer: ChatTokenizer) -> list[Example]:
    return [
        encode(
            chat_tokenizer,
            [{"role": "user", "content": f"What about {number}?"}],
            fact_items(["I surf."]),
            text,
            400,
        )
        for number, text in enumerate(TEXTS)
    ]


def save_noisy(model: PreTrainedModel, folder: Path, seed: int, rank: int = 4) -> Path:
    noisy = noisy_adapter(model, replace(HYPER, rank=rank), seed=seed)
    save_adapter(noisy, folder)
    remove_adapter(noisy)
    return folder


@pytest.fixture
def candidate(tiny_model: PreTrainedModel, tmp_path: Path) -> Path:
    return save_noisy(tiny_model, tmp_path / "candidate", seed=1)


def with_nan(folder: Path) -> None:
    weights = load_file(folder / WEIGHTS)
    next(iter(weights.values()))[0, 0] = np.nan
    save_file(weights, folder / WEIGHTS)


def with_lm_head(folder: Path) -> None:
    weights = load_file(folder / WEIGHTS)
    weights["base_model.model.lm_head.lora_A.weight"] = np.ones((4, 32), np.float32)
    save_file(weights, folder / WEIGHTS)


def with_embeddings(folder: Path) -> None:
    config = json.loads((folder / CONFIG).read_text())
    config["modules_to_save"] = ["embed_tokens"]
    (folder / CONFIG).write_text(json.dumps(config))


def with_another_rank(folder: Path) -> None:
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps({**config, "r": 2}))


def of_another_model(folder: Path) -> None:
    weights = load_file(folder / WEIGHTS)
    save_file(weights, folder / WEIGHTS, {"base_model_fingerprint": "sha256:other"})


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (with_nan, "NaN or infinity"),
        (with_lm_head, "lm_head"),
        (with_embeddings, "embed_tokens"),
        (with_another_rank, "has rank 4, but adapter_config.json says 2"),
        (of_another_model, "was trained on"),
    ],
)
def test_what_cannot_be_served_is_refused_before_it_is_scored(
    trainer: Trainer,
    examples: list[Example],
    candidate: Path,
    spoil: Callable[[Path], None],
    reason: str,
) -> None:
    trainer.check(candidate)
    spoil(candidate)
    with pytest.raises(CandidateRefusedError, match=f"before it was scored: .*{reason}"):
        trainer.held_out_losses(examples, None, candidate)


def test_a_rank_that_the_engines_do_not_serve_is_refused(
    trainer: Trainer, tiny_model: PreTrainedModel, tmp_path: Path
) -> None:
    wide = save_noisy(tiny_model, tmp_path / "wide", seed=1, rank=16)
    with pytest.raises(CandidateRefusedError, match="exceeds the engine's maximum 8"):
        trainer.check(wide)


def test_everything_is_scored_on_the_same_texts_in_their_order(
    trainer: Trainer,
    tiny_model: PreTrainedModel,
    examples: list[Example],
    candidate: Path,
    tmp_path: Path,
) -> None:
    incumbent = save_noisy(tiny_model, tmp_path / "incumbent", seed=2)
    losses = trainer.held_out_losses(examples[2:], incumbent, candidate, examples[:2])

    def expected(seed: int | None, scored: list[Example]) -> float:
        model = tiny_model if seed is None else noisy_adapter(tiny_model, HYPER, seed=seed)
        mean = mean_loss(held_out_losses(model, scored, batch_size=1))
        if seed is not None:
            remove_adapter(model)
        return mean

    assert losses.incumbent is not None and losses.learnt is not None
    assert losses.general is not None
    found = {
        (None, "held out"): losses.base,
        (1, "held out"): losses.candidate,
        (2, "held out"): losses.incumbent,
        (1, "learnt"): losses.learnt.candidate,
        (2, "learnt"): losses.learnt.incumbent,
    }
    parts = {"held out": examples[2:], "learnt": examples[:2]}
    for (seed, part), own in found.items():
        assert mean_loss(own) == pytest.approx(expected(seed, parts[part]), abs=1e-4)
        sizes = [len(loss.token_losses) for loss in own]
        assert sizes == [len(one.reply_ids) for one in parts[part]]
    assert mean_loss(losses.general.base) != mean_loss(losses.general.candidate)
    assert losses.order is not None
    assert mean_loss(losses.order.ordered) == pytest.approx(expected(None, examples[:2]), abs=1e-4)
    assert mean_loss(losses.order.ordered) != mean_loss(losses.order.shuffled)


def test_the_base_models_general_losses_are_scored_once(
    trainer: Trainer, examples: list[Example], candidate: Path
) -> None:
    first = trainer.held_out_losses(examples, None, candidate)
    trainer.release()
    again = trainer.held_out_losses(examples, None, candidate)
    assert first.general is not None and again.general is not None
    assert first.general.base is again.general.base
    assert first.learnt is None


def test_trained_weights_that_are_not_finite_are_a_refusal(
    trainer: Trainer,
    examples: list[Example],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def spoil(model: PreTrainedModel, *_: object) -> None:
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.data.fill_(float("inf"))

    monkeypatch.setattr("adapt.trainer.train_adapter", spoil)
    with pytest.raises(CandidateRefusedError, match="NaN or infinity"):
        trainer.train(examples, HYPER, None, tmp_path / "new", lambda step: None)
