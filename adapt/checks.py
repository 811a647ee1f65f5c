"""What the gate compared, and what follows from it, in words and in numbers."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from adapt.membership import Membership
from adapt.thresholds import GateThresholds
from adapt.word_order import WordOrder
from perce.evaluate import Comparison


@dataclass(frozen=True, slots=True)
class Checks:
    """Everything that is compared to reach a verdict; None for what could not be.

    Attributes:
        overall: Candidate and rival on all held-out tokens.
        personal: The same on personal ones.
        general: Candidate and base model on the general set.
        word_order: Whether the texts that were trained on have their words in an order.
        learnt: Whether the candidate was trained on the user's texts.
    """

    overall: Comparison
    personal: Comparison | None
    general: Comparison | None
    word_order: WordOrder | None
    learnt: Membership | None

    def objections(self, thresholds: GateThresholds) -> list[str]:
        """Why the candidate is not to be published; empty if it is."""
        held_out = [one for one in (self.overall, self.personal) if one is not None]
        found = []
        if any(one.verdict == "worse" for one in held_out):
            found.append("it is worse on the user's texts")
        elif not any(one.verdict == "better" for one in held_out):
            found.append("it is not better beyond chance")
        if self.general is not None and self.general.verdict == "worse":
            found.append("it has forgotten how to write anything else")
        if self.word_order is not None and self.word_order.high < thresholds.word_order:
            found.append("the words of what it learnt from are in no order")
        if self.learnt is not None and not self.learnt.shown:
            found.append("nothing shows that it learnt from this user's texts")
        return found

    def sentence(self, rival: str, objections: Sequence[str]) -> str:
        """Say what was decided and why, with the intervals, in one sentence."""
        parts = [
            f"On held-out texts the candidate is {_compared(self.overall)} than {rival} "
            "on all tokens"
            + (
                "; no token was personal"
                if self.personal is None
                else f" and {_compared(self.personal)} on personal tokens"
            )
        ]
        if self.general is not None:
            parts.append(f"on general texts it is {_compared(self.general)} than the base model")
        if self.word_order is not None:
            order = self.word_order
            gap = _nats(order.gain, order.low, order.high)
            parts.append(f"what it learnt from is {gap} likelier than with its words shuffled")
        if self.learnt is not None:
            gap = _nats(self.learnt.gap, self.learnt.low, self.learnt.high)
            parts.append(f"gained {gap} more on the texts it learnt than on held-out ones")
        decided = f"rejected, since {' and '.join(objections)}" if objections else "published"
        return f"{', '.join(parts)}: {decided}."

    def numbers(self) -> dict[str, Any]:
        """Every comparison with its interval, as JSON."""
        compared = {
            "held_out": self.overall,
            "personal": self.personal,
            "general": self.general,
            "word_order": self.word_order,
            "learnt": self.learnt,
        }
        return {name: None if one is None else asdict(one) for name, one in compared.items()}


def _compared(comparison: Comparison) -> str:
    """Put a comparison into words, with its interval in nats per token."""
    difference = _nats(comparison.difference, comparison.low, comparison.high)
    return f"{comparison.verdict} ({difference})"


def _nats(value: float, low: float, high: float) -> str:
    return f"{value:+.3f} nats [{low:+.3f}, {high:+.3f}]"
