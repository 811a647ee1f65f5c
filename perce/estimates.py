"""What token weights are made from, and for how long it may be used.

An estimate holds both logprobs of an example's reply tokens, with and without persona, by the
same parameters. What weights and loss are made of it is `perce.loss`.

Shapes: N reply tokens, of one example or of several end to end.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from perce.example import Example
from perce.pir import PERSONAL_THRESHOLD


@dataclass(frozen=True, slots=True)
class Estimate:
    """Both logprobs of reply tokens, by the same parameters and without gradient."""

    with_N: Tensor
    without_N: Tensor

    @classmethod
    def joined(cls, estimates: Sequence[Self]) -> Self:
        """The estimates of several examples, end to end."""
        return cls(
            torch.cat([estimate.with_N for estimate in estimates]),
            torch.cat([estimate.without_N for estimate in estimates]),
        )

    @property
    def personal_share(self) -> float:
        """Share of tokens with PIR > 1."""
        return (self.with_N - self.without_N > PERSONAL_THRESHOLD).float().mean().item()


class Estimates:
    """The examples' latest estimates, each of use for some steps."""

    def __init__(self, steps: int) -> None:
        self._steps = steps
        self._made: dict[Example, tuple[int, Estimate]] = {}

    def get(self, example: Example, step: int) -> Estimate | None:
        """The example's estimate, if it may still be used at this step."""
        made, estimate = self._made.get(example, (step - self._steps, None))
        return estimate if step - made < self._steps else None

    def put(self, made: Mapping[Example, Estimate], step: int) -> None:
        """Keep what was estimated at this step."""
        for example, estimate in made.items():
            self._made[example] = (step, estimate)
