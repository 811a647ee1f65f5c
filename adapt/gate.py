"""The gate: is a candidate adapter better for its user than what answers now?

Judged on the user's newest texts, which nothing was trained on, by loss per token and by
loss on personal tokens, on the same tokens for base, incumbent and candidate: better than the
incumbent, and not worse than the base model. Then on what else it must not do: forget the
general set, learn from words that are in no order, or replace a version of the user's with
one that learnt from something else. A rejection is a result, not an error. Whether an
adapter's files can be served at all is `perce.adapter_files`.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import chain
from typing import Any, Literal

import numpy as np

from adapt.checks import Checks, HeldOut
from adapt.membership import LearntLosses, membership
from adapt.thresholds import GateThresholds
from adapt.word_order import OrderLosses, word_order
from perce.evaluate import (
    Comparison,
    ExampleLoss,
    Mask,
    mean_loss,
    mean_personal_loss,
    paired_bootstrap,
)

MIN_TEXTS = 3
"""A comparison on fewer texts can speak against a candidate, but not for it."""


@dataclass(frozen=True, slots=True)
class GeneralLosses:
    """Losses of base and candidate on the general set."""

    base: Sequence[ExampleLoss]
    candidate: Sequence[ExampleLoss]


@dataclass(frozen=True, slots=True)
class HeldOutLosses:
    """Losses of base, incumbent (where there is one) and candidate, all on the same tokens.

    Attributes:
        base: On the held-out texts, as are incumbent and candidate.
        personal: Which of their tokens are personal.
        general: On the general set; None skips what is judged on it.
        order: The base model's, on texts that were trained on and on shuffled copies; None
            skips that.
        learnt: On texts that were trained on; None, or without incumbent, skips that.
    """

    base: Sequence[ExampleLoss]
    incumbent: Sequence[ExampleLoss] | None
    candidate: Sequence[ExampleLoss]
    personal: Sequence[Mask]
    general: GeneralLosses | None = None
    order: OrderLosses | None = None
    learnt: LearntLosses | None = None


@dataclass(frozen=True, slots=True)
class Losses:
    """A mean loss of each, in nats per token."""

    base: float
    incumbent: float | None
    candidate: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the gate decided, in one sentence, and the numbers behind it.

    Attributes:
        decision: Whether the candidate is published.
        reason: The sentence.
        held_out_loss: Mean loss on all held-out tokens; None if a loss was not finite.
        personal_loss: Mean loss on personal ones: PIR > 1 under the base model. None where
            there are none.
        tokens: Held-out tokens.
        personal_tokens: Personal ones among them.
        general_loss: Mean loss on the general set, where it was scored; no incumbent's.
        checks: Each comparison made, by its name, with its interval, and the thresholds.
    """

    decision: Literal["publish", "reject"]
    reason: str
    held_out_loss: Losses | None
    personal_loss: Losses | None
    tokens: int
    personal_tokens: int
    general_loss: Losses | None = None
    checks: dict[str, Any] = field(default_factory=dict)


def judge(losses: HeldOutLosses, thresholds: GateThresholds | None = None) -> Verdict:
    """Compare a candidate with the version that answers now, and with the base model.

    Published is what is better than the version, or where none answers than the base model,
    on all held-out tokens and no worse on personal ones, or better on personal tokens and no
    worse on all, by paired bootstrap over texts. Where a version answers, the candidate must
    be no worse than the base model on either as well: the version may be worse than that.
    Beside that it has neither forgotten the general set nor, where a version is replaced,
    learnt from something else than the user's texts. The last is no proof: how often a
    candidate that saw none of them passes is in `adapt.membership.membership`.
    """
    thresholds = thresholds or GateThresholds()
    if not _finite(losses):
        return _not_finite(losses)
    checks = _compare(losses, thresholds)
    objections = checks.objections(thresholds)
    rival = "the base model" if losses.incumbent is None else "the active version"
    general = losses.general
    return Verdict(
        decision="reject" if objections else "publish",
        reason=checks.sentence(rival, objections),
        held_out_loss=_means(losses, None),
        personal_loss=None if checks.rival.personal is None else _means(losses, losses.personal),
        tokens=_count(losses),
        personal_tokens=_personal_count(losses),
        general_loss=None
        if general is None
        else Losses(mean_loss(general.base), None, mean_loss(general.candidate)),
        checks={**checks.numbers(), "thresholds": asdict(thresholds)},
    )


def _compare(losses: HeldOutLosses, thresholds: GateThresholds) -> Checks:
    rival = losses.base if losses.incumbent is None else losses.incumbent
    learnt = None
    if losses.learnt is not None and losses.learnt.candidate and losses.incumbent is not None:
        learnt = membership(
            losses.learnt,
            LearntLosses(losses.incumbent, losses.candidate),
            confidence=thresholds.coverage(len(losses.learnt.candidate) + len(rival)),
        )
    general = losses.general
    return Checks(
        rival=_held_out(losses, rival, thresholds),
        base=None if losses.incumbent is None else _held_out(losses, losses.base, thresholds),
        general=None
        if general is None
        else paired_bootstrap(
            general.candidate,
            general.base,
            tolerance=thresholds.general_tolerance,
            confidence=thresholds.coverage(len(general.base)),
        ),
        word_order=None
        if losses.order is None
        else word_order(losses.order, confidence=thresholds.coverage(len(losses.order.ordered))),
        learnt=learnt,
    )


def _held_out(
    losses: HeldOutLosses, other: Sequence[ExampleLoss], thresholds: GateThresholds
) -> HeldOut:
    return HeldOut(
        overall=_compare_on(None, losses.candidate, other, thresholds),
        personal=_compare_on(losses.personal, losses.candidate, other, thresholds)
        if _personal_count(losses)
        else None,
    )


def _compare_on(
    masks: Sequence[Mask] | None,
    candidate: Sequence[ExampleLoss],
    other: Sequence[ExampleLoss],
    thresholds: GateThresholds,
) -> Comparison:
    """Compare on held-out texts; on too few, no difference is beyond chance."""
    texts = len(candidate) if masks is None else sum(bool(mask.any()) for mask in masks)
    found = paired_bootstrap(
        candidate,
        other,
        masks,
        tolerance=thresholds.tolerance,
        confidence=thresholds.coverage(texts),
    )
    if found.verdict == "better" and texts < MIN_TEXTS:
        return Comparison(found.difference, found.low, found.high, "no worse")
    return found


def _finite(losses: HeldOutLosses) -> bool:
    scored = [losses.candidate]
    if losses.general is not None:
        scored.append(losses.general.candidate)
    if losses.learnt is not None:
        scored.append(losses.learnt.candidate)
    return all(np.isfinite(loss.token_losses).all() for loss in chain.from_iterable(scored))


def _not_finite(losses: HeldOutLosses) -> Verdict:
    return Verdict(
        decision="reject",
        reason="With the candidate a text's loss is infinite or not a number: rejected.",
        held_out_loss=None,
        personal_loss=None,
        tokens=_count(losses),
        personal_tokens=_personal_count(losses),
    )


def _count(losses: HeldOutLosses) -> int:
    return sum(mask.size for mask in losses.personal)


def _personal_count(losses: HeldOutLosses) -> int:
    return int(sum(mask.sum() for mask in losses.personal))


def _means(losses: HeldOutLosses, masks: Sequence[Mask] | None) -> Losses:
    def mean(of: Sequence[ExampleLoss]) -> float:
        return mean_loss(of) if masks is None else mean_personal_loss(of, masks)

    incumbent = None if losses.incumbent is None else mean(losses.incumbent)
    return Losses(mean(losses.base), incumbent, mean(losses.candidate))
