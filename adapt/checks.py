"""What the gate compared, and what follows from it, in words and in numbers."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from adapt.membership import Membership
from adapt.thresholds import GateThresholds
from adapt.word_order import WordOrder
from perce.evaluate import Comparison


@dataclass(frozen=True, slots=True)
class HeldOut:
    """The candidate and one other, compared on the held-out texts.

    Attributes:
        overall: On all tokens.
        personal: On personal ones; None where there are none.
    """

    overall: Comparison
    personal: Comparison | None

    def is_anywhere(self, verdict: Literal["better", "worse"]) -> bool:
        """Whether the candidate is so on all tokens or on personal ones."""
        compared = (self.overall, self.personal)
        return any(one is not None and one.verdict == verdict for one in compared)

    def sentence(self, other: str) -> str:
        """Say how the candidate compares with the other, by what that one is called."""
        said = f"{_compared(self.overall)} than {other} on all tokens"
        if self.personal is not None:
            said += f" and {_compared(self.personal)} on personal tokens"
        return said


@dataclass(frozen=True, slots=True)
class Checks:
    """Everything that is compared to reach a verdict; None for what could not be.

    Attributes:
        rival: Candidate and what it would replace: the active version, or the base model.
        base: Candidate and base model, where that is not the rival.
        general: Candidate and base model on the general set.
        word_order: Whether the texts that were trained on have their words in an order.
        learnt: Whether the candidate was trained on the user's texts.
    """

    rival: HeldOut
    base: HeldOut | None
    general: Comparison | None
    word_order: WordOrder | None
    learnt: Membership | None

    def objections(self, thresholds: GateThresholds) -> list[str]:
        """Why the candidate is not to be published; empty if it is."""
        found = []
        if self.rival.is_anywhere("worse"):
            found.append("it is worse on the user's texts")
        elif not self.rival.is_anywhere("better"):
            found.append("it is not better beyond chance")
        if self.base is not None and self.base.is_anywhere("worse"):
            found.append("it is worse than the base model on the user's texts")
        if self.general is not None and self.general.verdict == "worse":
            found.append("it has forgotten how to write anything else")
        if self.word_order is not None and self.word_order.high < thresholds.word_order:
            found.append("the words of what it learnt from are in no order")
        if self.learnt is not None and not self.learnt.shown:
            found.append("nothing shows that it learnt from this user's texts")
        return found

    def sentence(self, rival: str, objections: Sequence[str]) -> str:
        """Say what was decided and why, with the intervals, in one sentence."""
        held_out = self.rival.sentence(rival)
        if self.base is not None:
            held_out += f", {self.base.sentence('the base model')}"
        if self.rival.personal is None:
            held_out += "; no token was personal"
        parts = [f"On held-out texts the candidate is {held_out}"]
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
            "held_out": self.rival.overall,
            "personal": self.rival.personal,
            "base": self.base,
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
