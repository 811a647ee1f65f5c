"""The bootstrap interval of a mean over users.

A user's texts are alike, so the user and not the text is what is drawn. The paired interval
of two models' losses on one user's texts is `perce.evaluate`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from perce.errors import AttuneError


class NoUsers(AttuneError):
    """There is no user to take a mean over; evaluate one at least."""


@dataclass(frozen=True, slots=True)
class Mean:
    """A mean over users and the ends of its confidence interval."""

    mean: float
    low: float
    high: float


def bootstrap_mean(
    values: Sequence[float], *, confidence: float = 0.95, n: int = 10_000, seed: int = 0
) -> Mean:
    """The mean of one value a user, with Efron's percentile bootstrap interval.

    For a paired comparison of two methods give each user's difference.

    Args:
        values: U values, one a user.
        confidence: Coverage of the interval.
        n: Resamples, each of U users drawn with replacement.
        seed: Seeds the resampling.

    Raises:
        NoUsers: There are no values.
    """
    if not values:
        raise NoUsers("There is no user to take a mean over. Evaluate at least one.")
    values_U = np.asarray(values, dtype=np.float64)
    draws_nU = np.random.default_rng(seed).integers(len(values_U), size=(n, len(values_U)))
    tail = (1 - confidence) / 2
    low, high = np.quantile(values_U[draws_nU].mean(1), [tail, 1 - tail])
    return Mean(float(values_U.mean()), float(low), float(high))
