"""The base model in the worker's memory, and what a refresh does with it.

The model is loaded at the first refresh and kept: it is the same for all users, and only
adapters come and go. One refresh at a time uses it.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from peft import PeftModel
from transformers import PreTrainedModel

from adapt.gate import HeldOutLosses
from perce.adapter import load_adapter, new_adapter, remove_adapter, save_adapter
from perce.adapter_files import model_fingerprint
from perce.evaluate import ExampleLoss, held_out_losses, personal_mask
from perce.example import Example
from perce.hyperparameters import Hyperparameters
from perce.model import load_model
from perce.tokens import ChatTokenizer
from perce.train import Step, train_adapter


@dataclass(frozen=True, slots=True)
class TrainingSummary:
    """What a training run took and how it ended: kept with the version.

    Attributes:
        first_loss: Loss of the first step, in nats per token.
        last_loss: Loss of the last one.
        mean_weight: Mean PerCE weight of a token over the run; 1 for plain cross-entropy.
    """

    steps: int
    tokens: int
    seconds: float
    first_loss: float
    last_loss: float
    mean_weight: float


class Trainer:
    """Trains and judges adapters over one frozen base model."""

    def __init__(self, model: str, tokenizer: ChatTokenizer) -> None:
        self._name = model
        self.tokenizer = tokenizer

    @property
    def base_fingerprint(self) -> str:
        """What identifies the base model: an adapter fits no other."""
        return model_fingerprint(self._name)

    def train(
        self,
        examples: Sequence[Example],
        hyper: Hyperparameters,
        start: Path | None,
        folder: Path,
        on_step: Callable[[Step], None],
    ) -> TrainingSummary:
        """Train an adapter and write its folder.

        Args:
            examples: The user's training examples.
            hyper: Method and hyperparameters.
            start: The adapter to go on from; None for a fresh one.
            folder: Where the adapter is written.
            on_step: Called after each optimizer step.

        Raises:
            AdapterError: `start` is broken, or is for another base model.
            TrainingDiverged: The loss is not finite.
        """
        with self._adapted(hyper, start) as model:
            result = train_adapter(model, examples, hyper, on_step)
            save_adapter(model, folder)
        steps = result.steps
        return TrainingSummary(
            steps=len(steps),
            tokens=result.tokens,
            seconds=result.seconds,
            first_loss=steps[0].loss,
            last_loss=steps[-1].loss,
            mean_weight=sum(step.mean_weight for step in steps) / len(steps),
        )

    def held_out_losses(
        self, examples: Sequence[Example], incumbent: Path | None, candidate: Path
    ) -> HeldOutLosses:
        """Score base, incumbent and candidate on the same held-out examples.

        Raises:
            AdapterError: An adapter's files are broken, or are for another base model.
        """
        return HeldOutLosses(
            base=held_out_losses(self._base, examples),
            incumbent=None if incumbent is None else self._losses_with(incumbent, examples),
            candidate=self._losses_with(candidate, examples),
            personal=personal_mask(self._base, examples),
        )

    @cached_property
    def _base(self) -> PreTrainedModel:
        return load_model(self._name)

    def _losses_with(self, folder: Path, examples: Sequence[Example]) -> list[ExampleLoss]:
        model = load_adapter(self._base, folder, trainable=False)
        try:
            return held_out_losses(model, examples)
        finally:
            remove_adapter(model)

    @contextmanager
    def _adapted(self, hyper: Hyperparameters, start: Path | None) -> Iterator[PeftModel]:
        """The base model with a trainable adapter on it, taken off again at the end."""
        model = new_adapter(self._base, hyper) if start is None else load_adapter(self._base, start)
        try:
            yield model
        finally:
            remove_adapter(model)
