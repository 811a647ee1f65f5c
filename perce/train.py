"""Training one LoRA adapter with PerCE.

At every step the trained model itself scores the reply without persona, without gradient,
and the difference to its score with persona weighs the tokens (PerContrast, section 3.2, a
bootstrap in the manner of EM). With m = M this pass is skipped, so that plain cross-entropy
costs what it costs. What the examples are and whether the result is any good are not
covered here; see `perce.example` and `perce.evaluate`.
"""

import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from peft import PeftModel
from torch import Tensor
from torch.optim import AdamW

from perce.errors import AttuneError
from perce.example import Example
from perce.hyperparameters import Hyperparameters
from perce.logprobs import reply_logprobs
from perce.loss import perce_loss, perce_weights
from perce.pir import PERSONAL_THRESHOLD

_BUCKET = 16
"""Batches whose examples are sorted by length together, so that batches need little padding."""


class NothingToTrain(AttuneError):
    """There are no examples to train on; collect some history first."""


class TrainingDiverged(AttuneError):
    """The loss or its gradient is not finite; lower the learning rate or check the adapter."""


@dataclass(frozen=True, slots=True)
class Step:
    """One optimizer step, as told to `on_step`.

    Attributes:
        step: Its number, from 1.
        steps: How many there are in all.
        loss: The PerCE loss of the batch before the step, in nats per token.
        mean_weight: Mean token weight; most tokens sit at m.
        personal_share: Share of reply tokens with PIR > 1; None where PIR is not computed,
            that is for plain cross-entropy.
        tokens: Tokens of the batch, prompts with persona and replies, without padding.
        seconds: What the step took.
    """

    step: int
    steps: int
    loss: float
    mean_weight: float
    personal_share: float | None
    tokens: int
    seconds: float


@dataclass(frozen=True, slots=True)
class TrainResult:
    """A finished training run.

    Attributes:
        steps: Every step, in order.
        seconds: What the run took.
    """

    steps: tuple[Step, ...]
    seconds: float

    @property
    def tokens(self) -> int:
        """Tokens trained on, prompts and replies, over all epochs."""
        return sum(step.tokens for step in self.steps)


def train_adapter(
    peft_model: PeftModel,
    examples: Sequence[Example],
    hyper: Hyperparameters,
    on_step: Callable[[Step], None] | None = None,
) -> TrainResult:
    """Train a model's adapter on one user's examples, in place.

    Args:
        peft_model: A base model with one trainable adapter; in evaluation mode afterwards.
        examples: What the user wrote or endorsed, each with its own persona context.
        hyper: Everything that can be chosen; the same seed gives the same adapter.
        on_step: Called after each step; whatever it raises cancels the training.

    Raises:
        NothingToTrain: `examples` is empty.
        TrainingDiverged: A loss or gradient is NaN or infinite. The adapter is as after the
            last good step.
    """
    if not examples:
        raise NothingToTrain("There are no examples to train on. Collect some history first.")
    batches = list(length_batches(examples, hyper))
    parameters = [p for p in peft_model.parameters() if p.requires_grad]
    optimizer = AdamW(
        parameters, lr=hyper.learning_rate, betas=hyper.betas, weight_decay=hyper.weight_decay
    )
    steps: list[Step] = []
    started = time.perf_counter()
    peft_model.train()
    try:
        with torch.random.fork_rng():
            torch.manual_seed(hyper.seed)
            for number, batch in enumerate(batches):
                step_started = time.perf_counter()
                for group in optimizer.param_groups:
                    group["lr"] = hyper.learning_rate * rate_factor(
                        number, len(batches), hyper.warmup
                    )
                logprobs_N, without_N = _both_logprobs(peft_model, batch, hyper.weighs_tokens)
                weights_N = perce_weights(logprobs_N, without_N, hyper.clip_min, hyper.clip_max)
                loss = perce_loss(logprobs_N, weights_N)
                _update(optimizer, loss, hyper.max_grad_norm)
                step = Step(
                    step=number + 1,
                    steps=len(batches),
                    loss=loss.item(),
                    mean_weight=weights_N.mean().item(),
                    personal_share=_personal_share(logprobs_N, without_N)
                    if hyper.weighs_tokens
                    else None,
                    tokens=sum(example.length for example in batch),
                    seconds=time.perf_counter() - step_started,
                )
                steps.append(step)
                if on_step is not None:
                    on_step(step)
    finally:
        peft_model.eval()
    return TrainResult(tuple(steps), time.perf_counter() - started)


def rate_factor(done: int, steps: int, warmup: float) -> float:
    """The learning rate's share of its peak: a linear warm-up, then a cosine to zero.

    Args:
        done: Steps already taken.
        steps: Steps of the whole run.
        warmup: Share of the steps over which it rises.
    """
    rising = math.ceil(warmup * steps)
    if done < rising:
        return (done + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * (done - rising) / max(1, steps - rising)))


def length_batches(examples: Sequence[Example], hyper: Hyperparameters) -> Iterator[list[Example]]:
    """Batches of all epochs, of examples of like length, in an order that the seed decides.

    Each epoch shuffles the examples, sorts runs of `_BUCKET` batches by length, cuts the
    batches and shuffles those, so that an example's company changes between epochs.
    """
    order = random.Random(hyper.seed)
    run = hyper.batch_size * _BUCKET
    for _ in range(hyper.epochs):
        shuffled = order.sample(examples, len(examples))
        batches = []
        for start in range(0, len(shuffled), run):
            alike = sorted(shuffled[start : start + run], key=lambda example: example.length)
            batches += [
                alike[first : first + hyper.batch_size]
                for first in range(0, len(alike), hyper.batch_size)
            ]
        order.shuffle(batches)
        yield from batches


def _both_logprobs(
    model: PeftModel, batch: Sequence[Example], contrast: bool
) -> tuple[Tensor, Tensor]:
    """Logprobs of the batch's N reply tokens with persona, with gradient, and without persona.

    An example without persona has the same prompt twice and is scored once, as are all of
    them where no contrast is wanted.
    """
    contrasted = [example for example in batch if contrast and example.has_persona]
    # First, so that its activations are gone before those that backward needs are made.
    with torch.no_grad():
        scored = iter(
            reply_logprobs(
                model,
                [example.prompt_ids_without for example in contrasted],
                [example.reply_ids for example in contrasted],
            )
        )
    logprobs = reply_logprobs(
        model,
        [example.prompt_ids for example in batch],
        [example.reply_ids for example in batch],
    )
    without = [
        next(scored) if contrast and example.has_persona else own.detach()
        for example, own in zip(batch, logprobs, strict=True)
    ]
    return torch.cat(logprobs), torch.cat(without)


def _update(optimizer: AdamW, loss: Tensor, max_grad_norm: float) -> None:
    parameters = optimizer.param_groups[0]["params"]
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    norm = torch.nn.utils.clip_grad_norm_(parameters, max_grad_norm)
    if not (loss.isfinite() and norm.isfinite()):
        raise TrainingDiverged(
            f"Training diverged: loss {loss.item()}, gradient norm {norm.item()}. "
            "Lower the learning rate, or check the adapter that training started from."
        )
    optimizer.step()


def _personal_share(logprobs_N: Tensor, without_N: Tensor) -> float:
    return (logprobs_N.detach() - without_N > PERSONAL_THRESHOLD).float().mean().item()
