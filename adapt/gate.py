"""The gate: is a candidate adapter better for its user than what answers now?

Judged on the user's newest texts, which nothing was trained on, by loss per token and by
loss on personal tokens; on the same tokens for base, incumbent and candidate. A rejection
is a result, not an error.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from perce.evaluate import (
    Comparison,
    ExampleLoss,
    Mask,
    mean_loss,
    mean_personal_loss,
    paired_bootstrap,
)

TOLERANCE = 0.02
"""Rise of the mean loss, in nats per token, that still counts as no worse."""


@dataclass(frozen=True, slots=True)
class HeldOutLosses:
    """Losses of base, incumbent (where there is one) and candidate on the held-out texts."""

    base: Sequence[ExampleLoss]
    incumbent: Sequence[ExampleLoss] | None
    candidate: Sequence[ExampleLoss]
    personal: Sequence[Mask]


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
        held_out_loss: Mean loss on all held-out tokens.
        personal_loss: Mean loss on personal ones: PIR > 1 under the base model. None where
            there are none.
        tokens: Held-out tokens.
        personal_tokens: Personal ones among them.
    """

    decision: Literal["publish", "reject"]
    reason: str
    held_out_loss: Losses
    personal_loss: Losses | None
    tokens: int
    personal_tokens: int


def judge(losses: HeldOutLosses) -> Verdict:
    """Compare a candidate with the version that answers now, or with the base model.

    Published is what is better on all tokens and no worse on personal ones, or better on
    personal tokens and no worse on all, by paired bootstrap over the held-out texts.
    """
    rival = losses.base if losses.incumbent is None else losses.incumbent
    overall = paired_bootstrap(losses.candidate, rival, tolerance=TOLERANCE)
    personal_tokens = int(sum(mask.sum() for mask in losses.personal))
    personal = None
    if personal_tokens:
        personal = paired_bootstrap(losses.candidate, rival, losses.personal, tolerance=TOLERANCE)
    verdicts = {one.verdict for one in (overall, personal) if one is not None}
    publish = "better" in verdicts and "worse" not in verdicts
    name = "the base model" if losses.incumbent is None else "the active version"
    return Verdict(
        decision="publish" if publish else "reject",
        reason=_reason(publish, name, overall, personal),
        held_out_loss=_means(losses, None),
        personal_loss=_means(losses, losses.personal) if personal_tokens else None,
        tokens=sum(mask.size for mask in losses.personal),
        personal_tokens=personal_tokens,
    )


def _means(losses: HeldOutLosses, masks: Sequence[Mask] | None) -> Losses:
    def mean(of: Sequence[ExampleLoss]) -> float:
        return mean_loss(of) if masks is None else mean_personal_loss(of, masks)

    incumbent = None if losses.incumbent is None else mean(losses.incumbent)
    return Losses(mean(losses.base), incumbent, mean(losses.candidate))


def _reason(publish: bool, rival: str, overall: Comparison, personal: Comparison | None) -> str:
    said = f"On held-out texts the candidate is {_compared(overall)} than {rival} on all tokens"
    if personal is None:
        said += "; no token was personal"
    else:
        said += f" and {_compared(personal)} on personal tokens"
    return f"{said}: {'published' if publish else 'rejected'}."


def _compared(comparison: Comparison) -> str:
    """Put a comparison into words, with its 95 % interval in nats per token."""
    interval = f"[{comparison.low:+.3f}, {comparison.high:+.3f}]"
    return f"{comparison.verdict} ({comparison.difference:+.3f} nats {interval})"
