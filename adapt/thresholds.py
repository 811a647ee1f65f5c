"""How much worse a candidate may be, and how sure the gate wants to be."""

from dataclasses import dataclass
from math import isfinite, sqrt
from statistics import NormalDist

from perce.errors import AttuneError


class BadThresholdError(AttuneError):
    """A threshold of the gate is out of its range; the message names it and the range."""


@dataclass(frozen=True, slots=True)
class GateThresholds:
    """What the gate lets through.

    Attributes:
        tolerance: Rise of the mean loss on held-out texts, in nats per token, that still
            counts as no worse.
        general_tolerance: The same on the general set, over the base model's loss.
        word_order: How much likelier than shuffled ones, in nats per token, the base model must
            find the words of what was learnt from; see `adapt.word_order`. Plain text is at
            1 to 4, shuffled words at 0.
        confidence: Coverage of the intervals that decide what is beyond chance.

    Raises:
        BadThresholdError: A value is out of its range.
    """

    tolerance: float = 0.02
    general_tolerance: float = 0.25
    word_order: float = 0.25
    confidence: float = 0.95

    def __post_init__(self) -> None:
        for name in ("tolerance", "general_tolerance", "word_order"):
            value = getattr(self, name)
            _require(name, value >= 0 and isfinite(value), "a finite number of at least 0", value)
        _require(
            "confidence",
            0.5 <= self.confidence < 1,
            "at least 0.5 and below 1",
            self.confidence,
        )

    def coverage(self, texts: int) -> float:
        """The coverage to ask of a percentile bootstrap over so many texts.

        With few texts its intervals are too short, by what separates Student's t from the
        normal distribution and by the missing n / (n - 1) in its variance; asking for more
        makes up for that (Hesterberg 2015, "What teachers should know about the bootstrap",
        the expanded percentile interval).
        """
        if texts < 2:
            return self.confidence
        normal = NormalDist()
        wide = _student(normal.inv_cdf((1 + self.confidence) / 2), texts - 1)
        return 2 * normal.cdf(wide * sqrt(texts / (texts - 1))) - 1


def _student(z: float, freedom: int) -> float:
    """The quantile of Student's t for that of the normal distribution, by Fisher's expansion.

    Within 3 % at two degrees of freedom and 0.1 % from five on, for 95 %. One has no variance
    to speak of, and is treated as two.
    """
    v = max(2, freedom)
    return (
        z
        + (z**3 + z) / (4 * v)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * v**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * v**3)
    )


def _require(name: str, holds: bool, condition: str, value: float) -> None:
    if not holds:
        raise BadThresholdError(
            f"The gate's {name} must be {condition}, not {value!r}. Change ATTUNE_GATE_"
            f"{name.upper()}."
        )
