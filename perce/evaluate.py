"""Held-out evaluation: is a candidate adapter better than the incumbent for this user?

Losses are negative log-likelihoods in nats per reply token, given the persona prompt.
Personal tokens are chosen once, by the base model, so that base, incumbent and candidate
are compared on the same tokens. Metrics of generated text are not covered here.

Shapes: N reply tokens of one example, K held-out texts.
"""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from peft import PeftModel
from transformers import PreTrainedModel

from perce.bootstrap import percentile_interval, resampled_ratio
from perce.errors import AttuneError
from perce.example import Example
from perce.logprobs import reply_logprobs
from perce.pir import PERSONAL_THRESHOLD

Mask = NDArray[np.bool_]


class NothingHeldOut(AttuneError):
    """There are no held-out tokens to compare on; collect more history first."""


@dataclass(frozen=True, slots=True)
class ExampleLoss:
    """The loss of each token of one held-out reply.

    Attributes:
        token_losses: losses_N, -log P with persona, in nats.
    """

    token_losses: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Comparison:
    """How a candidate's loss differs from an incumbent's on the same held-out texts.

    Attributes:
        difference: Candidate minus incumbent, in nats per token; below zero is better.
        low: Lower end of the difference's confidence interval.
        high: Upper end.
        verdict: `better` if the whole interval is below zero; `worse` if the difference is
            above the tolerance; else `no worse`.
    """

    difference: float
    low: float
    high: float
    verdict: Literal["better", "no worse", "worse"]


def held_out_losses(
    model: PreTrainedModel | PeftModel, examples: Sequence[Example], batch_size: int = 8
) -> list[ExampleLoss]:
    """Loss per token of each held-out reply, given its prompt with persona."""
    prompts = [example.prompt_ids for example in examples]
    return [ExampleLoss(-logprobs) for logprobs in _score(model, prompts, examples, batch_size)]


def personal_mask(
    model: PreTrainedModel | PeftModel, examples: Sequence[Example], batch_size: int = 8
) -> list[Mask]:
    """Which reply tokens are personal: PIR > 1 under the base model, contrast `persona`.

    Args:
        model: The base model; adapters on it are disabled for the while.
        examples: K held-out examples.
        batch_size: Examples scored at once.

    Returns:
        K masks of N booleans.
    """
    base = model.disable_adapter() if isinstance(model, PeftModel) else nullcontext()
    with base:
        with_persona = _score(model, [e.prompt_ids for e in examples], examples, batch_size)
        without = _score(model, [e.prompt_ids_without for e in examples], examples, batch_size)
    return [a - b > PERSONAL_THRESHOLD for a, b in zip(with_persona, without, strict=True)]


def mean_loss(losses: Sequence[ExampleLoss]) -> float:
    """Mean loss over all tokens of all held-out replies.

    Raises:
        NothingHeldOut: There are no tokens.
    """
    return mean_personal_loss(losses, _all_tokens(losses))


def mean_personal_loss(losses: Sequence[ExampleLoss], masks: Sequence[Mask]) -> float:
    """Mean loss over the personal tokens of all held-out replies.

    Raises:
        NothingHeldOut: No token is personal.
    """
    sums, counts = _sums_and_counts(losses, masks)
    return float(sums.sum() / counts.sum())


def paired_bootstrap(
    candidate: Sequence[ExampleLoss],
    incumbent: Sequence[ExampleLoss],
    masks: Sequence[Mask] | None = None,
    *,
    tolerance: float = 0.0,
    confidence: float = 0.95,
    n: int = 2000,
    seed: int = 0,
) -> Comparison:
    """Compare two models' losses per token by resampling held-out texts, not tokens.

    Tokens of one text are alike, so the text is the unit: each of n resamples draws K texts
    with replacement and takes the difference of the mean losses over their tokens; the
    interval is between percentiles of those (Efron's percentile bootstrap).

    Args:
        candidate: Losses of K texts under the candidate.
        incumbent: Losses of the same texts under the incumbent.
        masks: Tokens to compare on, such as `personal_mask`; all by default.
        tolerance: How much worse, in nats per token, still counts as no worse.
        confidence: Coverage of the interval.
        n: Resamples.
        seed: Seeds the resampling.

    Raises:
        NothingHeldOut: No token to compare on.
    """
    masks = _all_tokens(candidate) if masks is None else masks
    candidate_K, count_K = _sums_and_counts(candidate, masks)
    incumbent_K, _ = _sums_and_counts(incumbent, masks)
    used = count_K > 0
    difference_K, count_K = (candidate_K - incumbent_K)[used], count_K[used]
    draws_nK = np.random.default_rng(seed).integers(len(count_K), size=(n, len(count_K)))
    low, high = percentile_interval(resampled_ratio(difference_K, count_K, draws_nK), confidence)
    difference = difference_K.sum() / count_K.sum()
    verdict: Literal["better", "no worse", "worse"] = "no worse"
    if high < 0:
        verdict = "better"
    elif difference > tolerance:
        verdict = "worse"
    return Comparison(float(difference), low, high, verdict)


def _score(
    model: PreTrainedModel | PeftModel,
    prompts: Sequence[Sequence[int]],
    examples: Sequence[Example],
    batch_size: int,
) -> list[NDArray[np.float64]]:
    """Reply logprobs, computed in batches of like length, returned in the given order."""
    order = sorted(range(len(examples)), key=lambda index: examples[index].length)
    scored: dict[int, NDArray[np.float64]] = {}
    with torch.no_grad():
        for batch in _chunks(order, batch_size):
            logprobs = reply_logprobs(
                model, [prompts[i] for i in batch], [examples[i].reply_ids for i in batch]
            )
            for index, own in zip(batch, logprobs, strict=True):
                scored[index] = own.double().cpu().numpy()
    return [scored[index] for index in range(len(examples))]


def _chunks(order: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    for start in range(0, len(order), size):
        yield order[start : start + size]


def _all_tokens(losses: Sequence[ExampleLoss]) -> list[Mask]:
    return [np.ones(len(loss.token_losses), dtype=np.bool_) for loss in losses]


def _sums_and_counts(
    losses: Sequence[ExampleLoss], masks: Sequence[Mask]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Loss summed over the masked tokens of each text, and how many those are."""
    sums = np.array(
        [loss.token_losses[mask].sum() for loss, mask in zip(losses, masks, strict=True)]
    )
    counts = np.array([mask.sum() for mask in masks])
    if counts.sum() == 0:
        raise NothingHeldOut(
            "There is no held-out token to compare on. Collect more history first."
        )
    return sums, counts
