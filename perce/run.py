"""One adapter's training run, apart from the model that scores its examples.

A `Run` knows the batches and their order, what weighs the tokens, the loss, the optimizer and
the learning rate. Whoever scores the replies, for one run (`perce.train`) or for several at
once (`perce.fleet`), hands it the logprobs and calls backward, so that both train alike.

Shapes: N reply tokens of a batch, or of a part of it, end to end.
"""

import math
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import AdamW

from perce.errors import AttuneError
from perce.estimates import Estimate, Estimates
from perce.example import Example
from perce.hyperparameters import Hyperparameters
from perce.loss import loss_divisor, perce_weights, weighted_nll
from perce.shared_prefix_groups import group_batches

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
        seconds: What the step took; in a fleet, what it took together with the other users'.
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


@dataclass(frozen=True, slots=True)
class _Part:
    """What is kept of a part of the batch until the step is taken.

    Attributes:
        nll: Its loss, summed over tokens.
        weights_N: Its tokens' weights.
        estimate: What these were made from.
        made: The estimates that are new.
    """

    nll: Tensor
    weights_N: Tensor
    estimate: Estimate
    made: dict[Example, Estimate]


class Run:
    """The steps of one adapter's training: `loss` for each part of a batch, then `update`.

    Args:
        parameters: The adapter's; `update` changes them in place.
        examples: What the user wrote or endorsed, each with its own persona context.
        hyper: Everything that can be chosen.

    Raises:
        NothingToTrain: `examples` is empty.
    """

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        examples: Sequence[Example],
        hyper: Hyperparameters,
    ) -> None:
        if not examples:
            raise NothingToTrain("There are no examples to train on. Collect some history first.")
        self.hyper = hyper
        self._batches = list(
            (group_batches if hyper.group_size > 1 else length_batches)(examples, hyper)
        )
        self._parameters = list(parameters)
        self._optimizer = AdamW(
            self._parameters,
            lr=hyper.learning_rate,
            betas=hyper.betas,
            weight_decay=hyper.weight_decay,
        )
        self._estimates = Estimates(hyper.reweigh_every)
        self._parts: list[_Part] = []
        self._steps: list[Step] = []
        self._started = time.perf_counter()
        self.abandon()

    @property
    def done(self) -> bool:
        """Whether all steps are taken."""
        return len(self._steps) == len(self._batches)

    @property
    def batch(self) -> list[Example]:
        """The examples of the next step."""
        return self._batches[len(self._steps)]

    @property
    def result(self) -> TrainResult:
        """The steps so far, and the time since the run was made."""
        return TrainResult(tuple(self._steps), time.perf_counter() - self._started)

    def contrasted(self, examples: Sequence[Example]) -> list[Example]:
        """Those whose replies are to be scored without persona too, before `loss`.

        An example without persona has the same prompt twice and needs one score, as do all of
        them where no contrast is wanted, and those whose last estimate is still of use.
        """
        return [
            example
            for example in examples
            if self.hyper.weighs_tokens
            and example.has_persona
            and self._estimates.get(example, len(self._steps)) is None
        ]

    def loss(
        self,
        examples: Sequence[Example],
        logprobs: Sequence[Tensor],
        without: Mapping[Example, Tensor],
    ) -> Tensor:
        """The weighted negative log-likelihood of a part of the batch, to call backward on.

        It is a sum over tokens, in nats; `update` divides its gradient.

        Args:
            examples: All of `batch`, or a part of it that was not given since the last step.
            logprobs: Of their reply tokens, in nats, with gradient.
            without: The same without persona, for those that are `contrasted`.
        """
        used, made = [], {}
        for example, own_N in zip(examples, logprobs, strict=True):
            estimate = self._estimates.get(example, len(self._steps))
            if estimate is None:
                with_N = own_N.detach()
                estimate = made[example] = Estimate(with_N, without.get(example, with_N))
            used.append(estimate)
        joined = Estimate.joined(used)
        weights_N = perce_weights(
            joined.with_N, joined.without_N, self.hyper.clip_min, self.hyper.clip_max
        )
        nll = weighted_nll(torch.cat(tuple(logprobs)), weights_N)
        self._parts.append(_Part(nll.detach(), weights_N, joined, made))
        return nll

    def update(self, started: float) -> Step:
        """Take the step, after backward was called on the loss of every part of the batch.

        Args:
            started: When the step began, by `time.perf_counter`.

        Raises:
            TrainingDiverged: The loss or its gradient is NaN or infinite. The parameters are
                as after the last good step.
        """
        weights_N = torch.cat([part.weights_N for part in self._parts])
        divisor = loss_divisor(weights_N, self.hyper.normalize)
        loss = torch.stack([part.nll for part in self._parts]).sum() / divisor
        for parameter in self._parameters:
            if parameter.grad is not None:
                parameter.grad /= divisor
        norm = nn.utils.clip_grad_norm_(self._parameters, self.hyper.max_grad_norm)
        if not (loss.isfinite() and norm.isfinite()):
            raise TrainingDiverged(
                f"Training diverged: loss {loss.item()}, gradient norm {norm.item()}. "
                "Lower the learning rate, or check the adapter that training started from."
            )
        factor = rate_factor(len(self._steps), len(self._batches), self.hyper.warmup)
        for group in self._optimizer.param_groups:
            group["lr"] = self.hyper.learning_rate * factor
        self._optimizer.step()
        for part in self._parts:
            self._estimates.put(part.made, len(self._steps))
        estimate = Estimate.joined([part.estimate for part in self._parts])
        step = Step(
            step=len(self._steps) + 1,
            steps=len(self._batches),
            loss=loss.item(),
            mean_weight=weights_N.mean().item(),
            personal_share=estimate.personal_share if self.hyper.weighs_tokens else None,
            tokens=sum(example.length for example in self.batch),
            seconds=time.perf_counter() - started,
        )
        self.abandon()
        self._steps.append(step)
        return step

    def abandon(self) -> None:
        """Drop what was computed since the last step, so that the step can be tried again."""
        self._parts.clear()
        self._optimizer.zero_grad()


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
