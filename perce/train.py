"""Training one LoRA adapter with PerCE.

At every step the trained model itself scores the reply without persona, without gradient,
and the difference to its score with persona weighs the tokens (PerContrast, section 3.2, a
bootstrap in the manner of EM). With m = M this pass is skipped, so that plain cross-entropy
costs what it costs. Both passes share the prefixes of their prompts where the hyperparameters
say so; the result is the same. What the examples are and whether the result is any good are
not covered here; see `perce.example` and `perce.evaluate`.

Shapes: N reply tokens, of one example or of a batch of examples end to end.
"""

import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch
from peft import PeftModel
from torch import Tensor
from torch.optim import AdamW

from perce.errors import AttuneError
from perce.example import Example
from perce.hyperparameters import Hyperparameters
from perce.logprobs import causal_lm_of, reply_logprobs
from perce.loss import perce_loss, perce_weights
from perce.pir import PERSONAL_THRESHOLD
from perce.shared_prefix import shared_logprobs
from perce.shared_prefix_attention import sharing_prefixes
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
        perce.shared_prefix_attention.UnsupportedAttention: `hyper.group_size` is above 1, and
            the model's attention cannot share prefixes.
    """
    if not examples:
        raise NothingToTrain("There are no examples to train on. Collect some history first.")
    batches = list((group_batches if hyper.group_size > 1 else length_batches)(examples, hyper))
    parameters = [p for p in peft_model.parameters() if p.requires_grad]
    optimizer = AdamW(
        parameters, lr=hyper.learning_rate, betas=hyper.betas, weight_decay=hyper.weight_decay
    )
    causal_lm = causal_lm_of(peft_model)
    estimates = _Estimates(hyper.reweigh_every)
    steps: list[Step] = []
    started = time.perf_counter()
    with _training(peft_model, hyper):
        for number, batch in enumerate(batches):
            step_started = time.perf_counter()
            for group in optimizer.param_groups:
                group["lr"] = hyper.learning_rate * rate_factor(number, len(batches), hyper.warmup)
            # Around both passes, because checkpointing attends again in the backward pass.
            with sharing_prefixes(causal_lm) if hyper.group_size > 1 else nullcontext():
                logprobs_N, estimate = _score(peft_model, batch, hyper, estimates, number)
                weights_N = perce_weights(
                    estimate.with_N, estimate.without_N, hyper.clip_min, hyper.clip_max
                )
                loss = perce_loss(logprobs_N, weights_N, hyper.normalize)
                _update(optimizer, loss, hyper.max_grad_norm)
            step = Step(
                step=number + 1,
                steps=len(batches),
                loss=loss.item(),
                mean_weight=weights_N.mean().item(),
                personal_share=estimate.personal_share if hyper.weighs_tokens else None,
                tokens=sum(example.length for example in batch),
                seconds=time.perf_counter() - step_started,
            )
            steps.append(step)
            if on_step is not None:
                on_step(step)
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


@dataclass(frozen=True, slots=True)
class _Estimate:
    """What weights are made from: both logprobs of the reply tokens, by the same parameters."""

    with_N: Tensor
    without_N: Tensor

    @property
    def personal_share(self) -> float:
        """Share of tokens with PIR > 1."""
        return (self.with_N - self.without_N > PERSONAL_THRESHOLD).float().mean().item()


class _Estimates:
    """The examples' latest estimates, each of use for some steps."""

    def __init__(self, steps: int) -> None:
        self._steps = steps
        self._made: dict[Example, tuple[int, _Estimate]] = {}

    def get(self, example: Example, step: int) -> _Estimate | None:
        """The example's estimate, if it may still be used at this step."""
        made, estimate = self._made.get(example, (step - self._steps, None))
        return estimate if step - made < self._steps else None

    def put(self, example: Example, step: int, estimate: _Estimate) -> None:
        """Keep what was estimated at this step."""
        self._made[example] = (step, estimate)


def _score(
    model: PeftModel,
    batch: Sequence[Example],
    hyper: Hyperparameters,
    estimates: _Estimates,
    step: int,
) -> tuple[Tensor, _Estimate]:
    """Logprobs of the batch's N reply tokens, with gradient, and what weighs those tokens.

    An example without persona has the same prompt twice and is scored once, as are all of
    them where no contrast is wanted, and those whose last estimate is still of use.
    """
    score = shared_logprobs if hyper.group_size > 1 else reply_logprobs
    contrasted = [
        example
        for example in batch
        if hyper.weighs_tokens and example.has_persona and estimates.get(example, step) is None
    ]
    # First, so that its activations are gone before those that backward needs are made.
    with torch.no_grad():
        scored = score(
            model,
            [example.prompt_ids_without for example in contrasted],
            [example.reply_ids for example in contrasted],
        )
    without = dict(zip(contrasted, scored, strict=True))
    logprobs = score(
        model,
        [example.prompt_ids for example in batch],
        [example.reply_ids for example in batch],
    )
    used = []
    for example, own_N in zip(batch, logprobs, strict=True):
        estimate = estimates.get(example, step)
        if estimate is None:
            with_N = own_N.detach()
            estimate = _Estimate(with_N, without.get(example, with_N))
            estimates.put(example, step, estimate)
        used.append(estimate)
    return torch.cat(logprobs), _Estimate(
        torch.cat([estimate.with_N for estimate in used]),
        torch.cat([estimate.without_N for estimate in used]),
    )


@contextmanager
def _training(model: PeftModel, hyper: Hyperparameters) -> Iterator[None]:
    """Training mode with the run's seed, and checkpointing if wanted; afterwards as before."""
    causal_lm = causal_lm_of(model)
    model.train()
    if hyper.gradient_checkpointing:
        causal_lm.gradient_checkpointing_enable({"use_reentrant": False})
        # Only checkpointing of the other kind needs inputs with gradient.
        causal_lm.disable_input_require_grads()
    try:
        with torch.random.fork_rng():
            torch.manual_seed(hyper.seed)
            yield
    finally:
        if hyper.gradient_checkpointing:
            causal_lm.gradient_checkpointing_disable()
        model.eval()


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
