"""What the gate says of adapters that deserve it, and of adapters that do not.

Each user's texts are split by order as a refresh splits them. Judged are, through the code
that refreshes use: an adapter trained on the user's own past; with that as the incumbent,
adapters trained on another user's texts, both gone on from the incumbent and from scratch;
and adapters trained on the user's own past with the words of each text shuffled, from
scratch and gone on from the incumbent.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from transformers import PreTrainedModel

from adapt.dataset import ContextBudget, Dataset, build_dataset
from adapt.errors import CandidateRefusedError
from adapt.gate import Verdict, judge
from adapt.past import past_texts
from adapt.replay import MIN_HELD_OUT
from adapt.thresholds import GateThresholds
from adapt.trainer import Trainer
from adapt.word_order import shuffle_words
from perce.datasets.writers import Writer
from perce.errors import AttuneError
from perce.example import Example
from perce.hyperparameters import Hyperparameters
from perce.retrieval import Encoder
from perce.tokens import ChatTokenizer
from perce.train import TrainingDiverged
from scripts.attune.bench.base import blaming, load_named
from scripts.attune.bench.kept import Kept, name_of
from scripts.attune.bench.users.subject import TooFewTexts

Kind = Literal["own", "other", "other_afresh", "shuffled", "shuffled_over_own"]
KINDS: tuple[Kind, ...] = get_args(Kind)
SHUFFLED: tuple[Kind, ...] = ("shuffled", "shuffled_over_own")
OVER_OWN: tuple[Kind, ...] = ("other", "other_afresh", "shuffled_over_own")
"""Those judged against the user's own adapter, so only where that one was published."""


class TooFewUsersError(AttuneError):
    """Nobody else's texts are there."""

    def __init__(self, users: int) -> None:
        super().__init__(
            f"The gate is measured on adapters of another user's texts, too, and here is {users} "
            "user: give a file with two users at least."
        )


@dataclass(frozen=True, slots=True)
class GateSettings:
    """How the adapters are trained and judged.

    Attributes:
        texts: Newest texts taken of each user.
        budget: Size of each persona context.
        hyper: Of every training.
        thresholds: The gate's.
    """

    texts: int
    budget: ContextBudget
    hyper: Hyperparameters
    thresholds: GateThresholds


@dataclass(frozen=True, slots=True)
class Outcome:
    """The verdict on one adapter."""

    user: str
    kind: Kind
    decision: Literal["publish", "reject"]
    reason: str
    checks: dict[str, Any]


class GateBench:
    """Trains and judges adapters; what is done stays in a folder, and is not done again.

    Args:
        writers: The users, each of whom is the next one's other user.
        encoder: Finds each example's context.
        trainer: Over the base model.
        settings: What is done.
        work: The folder. Adapters of other settings, and verdicts by other thresholds, lie in
            it side by side.

    Raises:
        TooFewUsersError: There is one user alone.
    """

    def __init__(
        self,
        writers: Sequence[Writer],
        encoder: Encoder,
        trainer: Trainer,
        settings: GateSettings,
        work: Path,
    ) -> None:
        if len(writers) < 2:
            raise TooFewUsersError(len(writers))
        self._writers = writers
        self._encoder = encoder
        self._trainer = trainer
        self._settings = settings
        self._adapters = work / self._key(trained_only=True)
        self._kept = Kept(work / f"verdicts-{self._key(trained_only=False)}.jsonl")
        self._datasets: dict[str, Dataset] = {}

    def run(self, report: Callable[[str], None]) -> list[Outcome]:
        """Judge every adapter of every user; return the verdicts, in the users' order.

        Raises:
            TooFewTexts: A user's texts cannot be split. Nothing was trained then.
            BadModelError: The base model's weights cannot be read.
        """
        # Before hours of training: a user whose texts are too few is found at once.
        self._datasets = {writer.name: self._dataset(writer) for writer in self._writers}
        outcomes = []
        for number, writer in enumerate(self._writers):
            other = self._writers[(number + 1) % len(self._writers)]
            own = None
            for kind in KINDS:
                if kind in OVER_OWN and own is not None and own.decision == "reject":
                    continue
                outcome = self._judge(writer, other, kind)
                own = outcome if kind == "own" else own
                outcomes.append(outcome)
                report(f"{writer.name}, {kind}: {outcome.reason}")
        return outcomes

    def _judge(self, writer: Writer, other: Writer, kind: Kind) -> Outcome:
        def judged() -> dict[str, Any]:
            verdict = self._judge_anew(writer, other, kind)
            return {
                "decision": verdict.decision,
                "reason": verdict.reason,
                "checks": verdict.checks,
            }

        return Outcome(writer.name, kind, **self._kept.recall([writer.name, kind], judged))

    def _judge_anew(self, writer: Writer, other: Writer, kind: Kind) -> Verdict:
        dataset = self._datasets[writer.name]
        if kind in SHUFFLED:
            dataset = replace(dataset, train=self._shuffled(dataset.train))
        incumbent = self._adapter(writer, "own", None) if kind in OVER_OWN else None
        return self._verdict(dataset, incumbent, lambda: self._candidate(writer, other, kind))

    def _verdict(
        self, dataset: Dataset, incumbent: Path | None, candidate: Callable[[], Path]
    ) -> Verdict:
        """Train a candidate and judge it; one that cannot be served is rejected."""
        try:
            losses = self._trainer.held_out_losses(
                dataset.held_out, incumbent, candidate(), dataset.train
            )
        except (TrainingDiverged, CandidateRefusedError) as error:
            return Verdict("reject", str(error), None, None, 0, 0)
        return judge(losses, self._settings.thresholds)

    def _candidate(self, writer: Writer, other: Writer, kind: Kind) -> Path:
        match kind:
            case "own":
                return self._adapter(writer, kind, None)
            case "other":
                return self._adapter(other, f"over {writer.name}", self._own(writer))
            case "other_afresh":
                return self._own(other)
            case "shuffled":
                return self._adapter(writer, kind, None, shuffled=True)
            case "shuffled_over_own":
                return self._adapter(writer, kind, self._own(writer), shuffled=True)

    def _own(self, writer: Writer) -> Path:
        return self._adapter(writer, "own", None)

    def _adapter(
        self, writer: Writer, name: str, start: Path | None, shuffled: bool = False
    ) -> Path:
        """The folder of an adapter trained on a user's texts, trained if it is not there."""
        folder = self._adapters / name_of(writer.name, name)
        if not folder.exists():
            examples = self._datasets[writer.name].train
            if shuffled:
                examples = self._shuffled(examples)
            unfinished = folder.with_suffix(".unfinished")
            self._trainer.train(
                examples, self._settings.hyper, start, unfinished, lambda step: None
            )
            unfinished.rename(folder)
        return folder

    def _shuffled(self, examples: Sequence[Example]) -> tuple[Example, ...]:
        tokenizer = self._trainer.tokenizer
        return tuple(shuffle_words(one, tokenizer, 1000 + n) for n, one in enumerate(examples))

    def _dataset(self, writer: Writer) -> Dataset:
        written = enumerate((*writer.train, *writer.test))
        rows = ((number, one.query, one.text, float(number)) for number, one in written)
        longest = self._settings.hyper.max_length
        past = past_texts(rows, self._encoder)
        dataset = build_dataset(past, (), self._trainer.tokenizer, self._settings.budget, longest)
        if not dataset.train:
            raise TooFewTexts(
                f"{writer.name}: {len(dataset.held_out)} of {writer.size} texts fit into {longest} "
                f"tokens, and the gate holds out {MIN_HELD_OUT}, so that none is left to train on. "
                "Raise --max-length or take the user out."
            )
        return dataset

    def _key(self, trained_only: bool) -> str:
        """Names what was done: by the users, the base model and the settings."""
        settings = asdict(self._settings)
        if trained_only:
            del settings["thresholds"]
        users = [asdict(writer) for writer in self._writers]
        return name_of(users, self._trainer.base_fingerprint, settings)


class NamingTrainer(Trainer):
    """A trainer that names its base model where the weights cannot be read."""

    @cached_property
    def _base(self) -> PreTrainedModel:
        with blaming(self._name):
            return super()._base


def load_trainer(model: str, threads: int) -> Trainer:
    """A trainer over a base model, by its folder or name, on so many CPU threads.

    Its weights are loaded at the first training, which raises BadModelError where they cannot be.

    Raises:
        BadModelError: There is no such model, or its tokenizer cannot be read.
    """
    torch.set_num_threads(threads)
    return load_named(model, lambda source: NamingTrainer(source, ChatTokenizer.load(source)))
