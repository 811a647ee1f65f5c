import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from scripted_engine import WordEncoder
from typer.testing import CliRunner

from adapt.dataset import ContextBudget
from adapt.gate import HeldOutLosses
from adapt.thresholds import GateThresholds
from adapt.trainer import Trainer, TrainingSummary
from perce.datasets.writers import Writer, split_by_order
from perce.datasets.writers import Written as Text
from perce.evaluate import ExampleLoss
from perce.example import Example
from perce.hyperparameters import Hyperparameters
from perce.tokens import ChatTokenizer
from perce.train import Step, TrainingDiverged
from scripts.attune.bench.gate import KINDS, GateBench, GateSettings, Outcome, TooFewUsersError
from scripts.attune.bench.gate_report import as_json, as_table, wilson
from scripts.attune.bench.users.subject import TooFewTexts
from scripts.attune.main import app

SEA = ["the sea is soft", "waves at Malibu", "I paddle out", "salt and sun", "the cafe", "I surf"]
DOG = ["my dog hates thunder", "so do I", "we hide", "the dog barks", "a walk", "good dog"]
SETTINGS = GateSettings(
    6, ContextBudget(64, 2), Hyperparameters(rank=4, epochs=1, max_length=400), GateThresholds()
)


def writer(name: str, texts: list[str]) -> Writer:
    return split_by_order(name, [Text(f"What about {n}?", text) for n, text in enumerate(texts)])


WRITERS = [writer("sea", SEA), writer("dog", DOG)]


class CountingTrainer(Trainer):
    """Notes each training: what it went on from and what it was to write."""

    def __init__(self, model: str, tokenizer: ChatTokenizer) -> None:
        super().__init__(model, tokenizer, device="cpu")
        self.trainings: list[tuple[bool, tuple[str, ...]]] = []
        self.diverges = False
        self.passes = False

    def train(
        self,
        examples: Sequence[Example],
        hyper: Hyperparameters,
        start: Path | None,
        folder: Path,
        on_step: Callable[[Step], None],
    ) -> TrainingSummary:
        replies = tuple(self.tokenizer.decode(one.reply_ids) for one in examples)
        self.trainings.append((start is not None, replies))
        if self.diverges:
            raise TrainingDiverged("Training diverged: lower the learning rate.")
        return super().train(examples, hyper, start, folder, on_step)

    def held_out_losses(
        self,
        examples: Sequence[Example],
        incumbent: Path | None,
        candidate: Path,
        learnt: Sequence[Example] = (),
    ) -> HeldOutLosses:
        assert learnt
        if not self.passes:
            return super().held_out_losses(examples, incumbent, candidate, learnt)
        self.check(candidate)
        rival, own = ([ExampleLoss(np.full(9, loss)) for _ in examples] for loss in (3.0, 2.0))
        return HeldOutLosses(rival, rival if incumbent else None, own, [np.ones(9, bool)] * 3)


@pytest.fixture
def trainer(tiny_model_dir: Path, chat_tokenizer: ChatTokenizer) -> CountingTrainer:
    return CountingTrainer(str(tiny_model_dir), chat_tokenizer)


def test_each_adapter_is_trained_once_on_what_its_name_says(
    trainer: CountingTrainer, tmp_path: Path
) -> None:
    trainer.passes = True
    said: list[str] = []
    outcomes = GateBench(WRITERS, WordEncoder(), trainer, SETTINGS, tmp_path).run(said.append)
    assert [(one.user, one.kind) for one in outcomes] == [
        (name, kind) for name in ("sea", "dog") for kind in KINDS
    ], outcomes
    assert len(said) == len(outcomes)
    assert all(one.checks["held_out"]["low"] is not None for one in outcomes)
    # The newest half of six texts is held out.
    own = [(False, tuple(texts[:3])) for texts in (SEA, DOG)]
    gone_on = [(True, replies) for _, replies in own]
    assert [one for one in trainer.trainings if one in own] in (own, own[::-1])
    assert sorted(one for one in trainer.trainings if one in gone_on) == sorted(gone_on)
    shuffled = [one for one in trainer.trainings if one not in own + gone_on]
    assert len(shuffled) == 4
    assert {tuple(sorted(" ".join(replies).split())) for _, replies in shuffled} == {
        tuple(sorted(" ".join(texts[:3]).split())) for texts in (SEA, DOG)
    }


def test_a_second_run_goes_on_where_the_first_was_cut_off(
    trainer: CountingTrainer, tmp_path: Path
) -> None:
    def bench() -> GateBench:
        return GateBench(WRITERS, WordEncoder(), trainer, SETTINGS, tmp_path)

    first = bench().run(lambda said: None)
    [verdicts] = tmp_path.glob("verdicts-*.jsonl")
    lines = verdicts.read_text().splitlines(keepends=True)
    assert len(lines) == len(first)
    trained = len(trainer.trainings)
    assert bench().run(lambda said: None) == first
    verdicts.write_text("".join(lines[:-1]) + lines[-1][:20])
    assert bench().run(lambda said: None) == first
    assert len(trainer.trainings) == trained


def test_what_diverges_is_rejected_and_has_nothing_to_replace(
    trainer: CountingTrainer, tmp_path: Path
) -> None:
    trainer.diverges = True
    outcomes = GateBench(WRITERS, WordEncoder(), trainer, SETTINGS, tmp_path).run(lambda said: None)
    assert [(one.kind, one.decision) for one in outcomes] == [
        ("own", "reject"),
        ("shuffled", "reject"),
    ] * 2
    assert "diverged" in outcomes[0].reason


def test_one_user_has_no_other_user(trainer: CountingTrainer, tmp_path: Path) -> None:
    with pytest.raises(TooFewUsersError, match="here is 1 user: give a file with two users"):
        GateBench(WRITERS[:1], WordEncoder(), trainer, SETTINGS, tmp_path)


def test_a_user_with_too_few_texts_is_named_before_anything_is_trained(
    trainer: CountingTrainer, tmp_path: Path
) -> None:
    few = [*WRITERS, writer("cat", [*SEA[:3], "word " * 400])]
    with pytest.raises(TooFewTexts, match=r"^cat: 3 of 4 texts fit .*--max-length"):
        GateBench(few, WordEncoder(), trainer, SETTINGS, tmp_path).run(lambda said: None)
    assert trainer.trainings == []


# From the formula's published examples: 0 of 10, 19 of 20 and 20 of 20 at 95 %.
@pytest.mark.parametrize(
    ("count", "of", "low", "high"),
    [(0, 10, 0.0, 0.2775), (19, 20, 0.7639, 0.9911), (20, 20, 0.8389, 1.0), (0, 0, 0.0, 1.0)],
)
def test_wilsons_interval(count: int, of: int, low: float, high: float) -> None:
    assert list(wilson(count, of)) == pytest.approx([low, high], abs=1e-4)


def test_the_report_counts_each_kind() -> None:
    outcomes = [
        Outcome("a", "own", "publish", "Better.", {}),
        Outcome("b", "own", "reject", "Worse.", {}),
        Outcome("a", "other", "reject", "Worse.", {}),
    ]
    result = json.loads(as_json(outcomes, SETTINGS))
    assert result["users"] == 2
    assert list(result["adapters"]) == list(KINDS)
    own = result["adapters"]["own"]
    assert (own["judged"], own["published"], own["rejected"]) == (2, 1, 1)
    assert own["publish_rate"] == 0.5 and own["publish_rate_ci"] == list(wilson(1, 2))
    assert result["adapters"]["shuffled"]["publish_rate"] is None
    assert as_table(outcomes).row_count == len(KINDS)


def test_the_command_judges_users_of_any_name_with_a_model_of_its_own(
    tiny_model_dir: Path, tmp_path: Path
) -> None:
    file = tmp_path / "users.jsonl"
    with file.open("w") as lines:
        for name, texts in (("[/sea]", SEA), ("dog", DOG)):
            for order, text in enumerate(texts):
                record = {"user": name, "order": order, "query": f"And {order}?", "text": text}
                lines.write(json.dumps(record) + "\n")
    options = ["--users", "2", "--model", str(tiny_model_dir), "--epochs", "1", "--json"]
    ran = CliRunner().invoke(app, ["bench", "gate", str(file), *options])
    assert ran.exit_code == 0, ran.output + repr(ran.exception)
    assert "[/sea], own:" in ran.stderr
    result = json.loads(ran.stdout)
    assert result["users"] == 2
    assert result["adapters"]["own"]["judged"] == 2
    assert result["settings"]["thresholds"] == {
        "tolerance": 0.02,
        "general_tolerance": 0.25,
        "word_order": 0.25,
        "confidence": 0.95,
    }
