"""One optimizer step of several users at once, over one frozen base model.

Each user keeps an adapter, an optimizer, a schedule and batches of their own (`perce.run`);
only the passes through the model are common. Who takes part in a step, and what happens when
one fails, is `perce.fleet`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Self

import torch
from torch import Tensor
from transformers import PreTrainedModel

from perce.adapter import start_adapter
from perce.errors import AttuneError
from perce.example import Example
from perce.hyperparameters import Hyperparameters
from perce.run import Run
from perce.stacked import UserAdapter
from perce.stacked_logprobs import UserBatch, stacked_logprobs
from perce.train import training_mode


class BrokenExample(AttuneError):
    """An example is empty, or has token ids that the model does not know; leave it out."""


@dataclass(frozen=True, slots=True)
class Trainee:
    """A user's adapter in training.

    Attributes:
        adapter: The adapter, which is on the model only while it is stacked.
        run: Its steps.
    """

    adapter: UserAdapter
    run: Run

    @classmethod
    def begin(
        cls,
        model: PreTrainedModel,
        examples: Sequence[Example],
        hyper: Hyperparameters,
        start: Path | str | None = None,
    ) -> Self:
        """Make or load the adapter that `perce.train.train_adapter` would begin with.

        Args:
            model: The base model; unchanged afterwards.
            examples: What the user wrote or endorsed.
            hyper: Everything that can be chosen.
            start: The adapter folder to go on from; None for a fresh adapter.

        Raises:
            NothingToTrain: `examples` is empty.
            BrokenExample: An example cannot be given to the model.
            perce.adapter_files.AdapterError: `start` is broken or is for another base model.
        """
        for example in examples:
            _check_example(example, model.config.get_text_config().vocab_size)
        adapted = start_adapter(model, hyper, start)
        adapter = UserAdapter.taken_off(adapted)
        return cls(adapter, Run(list(adapter.state.values()), examples, hyper))


def fleet_backward(
    model: PreTrainedModel, trainees: Sequence[Trainee], micro_batch: int | None = None
) -> None:
    """Leave, in each user's parameters, the gradient of that user's own loss of the next step.

    Each user's `run.update` then takes the step, or `run.abandon` drops it.

    Args:
        model: The base model.
        trainees: Users whose runs are not done.
        micro_batch: Most examples of one user that go forward and backward at once; None for
            all of the batch. It does not change the result.
    """
    longest = max(len(trainee.run.batch) for trainee in trainees)
    size = longest if micro_batch is None else micro_batch
    checkpointing = any(trainee.run.hyper.gradient_checkpointing for trainee in trainees)
    with training_mode(model, checkpointing):
        for start, autocast in product(range(0, longest, size), (False, True)):
            parts = [
                (trainee, trainee.run.batch[start : start + size])
                for trainee in trainees
                if trainee.run.hyper.autocast == autocast
            ]
            _backward_parts(model, [(trainee, part) for trainee, part in parts if part], autocast)


def _backward_parts(
    model: PreTrainedModel, parts: Sequence[tuple[Trainee, Sequence[Example]]], autocast: bool
) -> None:
    """Score a part of each user's batch, and add its loss's gradient to the user's."""
    if not parts:
        return
    share = any(trainee.run.hyper.group_size > 1 for trainee, _ in parts)
    contrasted = [trainee.run.contrasted(part) for trainee, part in parts]
    # First, so that its activations are gone before those that backward needs are made.
    without = _without_persona(
        model,
        [(trainee, part) for (trainee, _), part in zip(parts, contrasted, strict=True)],
        share,
        autocast,
    )
    batches = [
        UserBatch(
            trainee.adapter,
            [example.prompt_ids for example in part],
            [example.reply_ids for example in part],
        )
        for trainee, part in parts
    ]
    with stacked_logprobs(model, batches, share, autocast) as logprobs:
        losses = [
            trainee.run.loss(part, own, dict(zip(bare, scored, strict=True)))
            for (trainee, part), own, bare, scored in zip(
                parts, logprobs, contrasted, without, strict=True
            )
        ]
        # Adapters have no parameter in common, so each gets its own loss's gradient.
        torch.stack(losses).sum().backward()  # type: ignore[no-untyped-call]  # torch


@torch.no_grad()
def _without_persona(
    model: PreTrainedModel,
    parts: Sequence[tuple[Trainee, Sequence[Example]]],
    share: bool,
    autocast: bool,
) -> list[list[Tensor]]:
    """Logprobs of these examples' replies under the prompts without persona."""
    batches = [
        UserBatch(
            trainee.adapter,
            [example.prompt_ids_without for example in part],
            [example.reply_ids for example in part],
        )
        for trainee, part in parts
    ]
    with stacked_logprobs(model, batches, share, autocast) as logprobs:
        return logprobs


def _check_example(example: Example, vocabulary: int) -> None:
    """Make sure that the model can take an example: on a GPU a bad id ends the process."""
    for part, ids in (
        ("prompt", example.prompt_ids),
        ("prompt without persona", example.prompt_ids_without),
        ("reply", example.reply_ids),
    ):
        if not ids:
            raise BrokenExample(f"An example has an empty {part}. Leave this example out.")
        if not 0 <= min(ids) <= max(ids) < vocabulary:
            raise BrokenExample(
                f"The {part} of an example has the token id {max(ids, key=abs)}, but the model "
                f"knows 0 to {vocabulary - 1}. Encode it with the model's own tokenizer, or "
                "leave it out."
            )
