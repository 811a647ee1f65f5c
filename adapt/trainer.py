"""The base model in the worker's memory, and what a refresh does with it.

The model is loaded at the first refresh and kept: it is the same for all users, and only
adapters come and go. One refresh at a time uses it.
"""

import gc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Self

import torch
from transformers import PreTrainedModel

from adapt.errors import CandidateRefusedError
from adapt.gate import GeneralLosses, HeldOutLosses
from adapt.general import general_replies
from adapt.membership import LearntLosses
from adapt.word_order import OrderLosses, shuffle_words
from perce.adapter import loaded_adapter, save_adapter, started_adapter
from perce.adapter_files import AdapterError, BrokenWeights, check_adapter, model_fingerprint
from perce.evaluate import ExampleLoss, held_out_losses, personal_mask
from perce.example import Example
from perce.fleet import FleetSize, Member, train_fleet
from perce.fleet_size import choose_fleet_size
from perce.hyperparameters import Hyperparameters
from perce.model import load_model
from perce.tokens import ChatTokenizer
from perce.train import Step, TrainResult, train_adapter

# Enough for a difference to show; scoring a long history would take as long as training on it.
_MOST_LEARNT = 32


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

    @classmethod
    def of(cls, result: TrainResult) -> Self:
        """Sum a finished run up."""
        steps = result.steps
        return cls(
            steps=len(steps),
            tokens=result.tokens,
            seconds=result.seconds,
            first_loss=steps[0].loss,
            last_loss=steps[-1].loss,
            mean_weight=sum(step.mean_weight for step in steps) / len(steps),
        )


class Trainer:
    """Trains and judges adapters over one frozen base model.

    Args:
        model: A Hugging Face model name or a local folder.
        tokenizer: Its tokenizer.
        device: Where training runs, as PyTorch names it; chosen if None.
        max_rank: Largest rank that the engines serve; None for any.
    """

    def __init__(
        self,
        model: str,
        tokenizer: ChatTokenizer,
        device: str | None = None,
        max_rank: int | None = None,
    ) -> None:
        self._name = model
        self._device = device
        self._max_rank = max_rank
        self.tokenizer = tokenizer

    def release(self) -> None:
        """Give the device's memory back; the model is loaded again at the next use."""
        self.__dict__.pop("_base", None)
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

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
            CandidateRefusedError: The trained weights are not.
        """
        with started_adapter(self._base, hyper, start) as model:
            result = train_adapter(model, examples, hyper, on_step)
            try:
                save_adapter(model, folder)
            except BrokenWeights as error:
                raise _refused(error) from error
        return TrainingSummary.of(result)

    def train_fleet(
        self,
        members: Mapping[str, Member],
        size: FleetSize,
        on_step: Callable[[str, Step], None],
    ) -> dict[str, TrainingSummary | Exception]:
        """Train several users' adapters at once and write their folders.

        Args:
            members: The users, by any name.
            size: How many at once.
            on_step: Called with the name after each of a user's steps; what it raises ends
                that user's training.

        Returns:
            For each user how it went, or the error that ended it.
        """
        outcomes = train_fleet(self._base, members, size, on_step)
        return {
            name: outcome if isinstance(outcome, Exception) else TrainingSummary.of(outcome)
            for name, outcome in outcomes.items()
        }

    def fleet_size(self, examples: Sequence[Example], hyper: Hyperparameters) -> FleetSize:
        """Find out how many users like this one the device trains best at once."""
        return choose_fleet_size(self._base, examples, hyper)

    def held_out_losses(
        self,
        examples: Sequence[Example],
        incumbent: Path | None,
        candidate: Path,
        learnt: Sequence[Example] = (),
    ) -> HeldOutLosses:
        """Score base, incumbent and candidate on the same examples, and on the general set.

        Args:
            examples: Held out from training.
            incumbent: The adapter that answers now; None for the base model.
            candidate: The adapter that is to answer.
            learnt: What the candidate was trained on, oldest first; the newest are scored.

        Raises:
            CandidateRefusedError: The candidate could not be served, whatever its losses.
            AdapterError: The incumbent's files are broken, or are for another base model.
        """
        self.check(candidate)
        held_out, newest = list(examples), list(learnt[-_MOST_LEARNT:])
        known, general = newest if incumbent else [], self._general
        losses = iter(self._losses_with(candidate, [*held_out, *known, *general]))
        own, own_known, replies = (
            list(islice(losses, len(part))) for part in (held_out, known, general)
        )
        old, old_known = None, []
        if incumbent is not None:
            found = self._losses_with(incumbent, [*held_out, *known])
            old, old_known = found[: len(held_out)], found[len(held_out) :]
        return HeldOutLosses(
            base=held_out_losses(self._base, held_out),
            incumbent=old,
            candidate=own,
            personal=personal_mask(self._base, held_out),
            general=GeneralLosses(self._general_base, replies),
            order=self._order(newest) if newest else None,
            learnt=LearntLosses(old_known, own_known) if known else None,
        )

    def check(self, candidate: Path) -> None:
        """Refuse an adapter that no engine could serve on this base model.

        Raises:
            CandidateRefusedError: It touches the embeddings or the output layer, is broken,
                not finite, of a rank that is not served, or for another base model.
        """
        try:
            check_adapter(candidate, self._name, self._max_rank)
        except AdapterError as error:
            raise _refused(error) from error

    @cached_property
    def _general(self) -> tuple[Example, ...]:
        return general_replies(self.tokenizer)

    @cached_property
    def _general_base(self) -> list[ExampleLoss]:
        """The base model's losses on the general set: scored once."""
        return held_out_losses(self._base, self._general)

    def _order(self, texts: Sequence[Example]) -> OrderLosses:
        copies = [shuffle_words(one, self.tokenizer, seed) for seed, one in enumerate(texts)]
        losses = held_out_losses(self._base, [*texts, *copies])
        return OrderLosses(losses[: len(texts)], losses[len(texts) :])

    @cached_property
    def _base(self) -> PreTrainedModel:
        return load_model(self._name, self._device)

    def _losses_with(self, folder: Path, examples: Sequence[Example]) -> list[ExampleLoss]:
        with loaded_adapter(self._base, folder) as model:
            return held_out_losses(model, examples)


def _refused(error: AdapterError) -> CandidateRefusedError:
    return CandidateRefusedError(f"The candidate was refused before it was scored: {error}")
