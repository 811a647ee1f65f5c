"""The bootstrap: intervals of means over users, and of ratios of sums over texts.

A user's texts are alike, so the user and not the text is what is drawn for a mean over users.
What is compared on one user's texts is decided where it is compared, such as `perce.evaluate`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

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
    low, high = percentile_interval(values_U[draws_nU].mean(1), confidence)
    return Mean(float(values_U.mean()), low, high)


def resampled_ratio(
    sums_K: NDArray[np.float64], counts_K: NDArray[np.int64], draws_nK: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Sum over count of K texts, such as a loss per token, in each of n resamples [n]."""
    ratio_n: NDArray[np.float64] = sums_K[draws_nK].sum(1) / counts_K[draws_nK].sum(1)
    return ratio_n


def percentile_interval(resampled_n: NDArray[np.float64], confidence: float) -> tuple[float, float]:
    """Efron's percentile interval of what n resamples gave."""
    tail = (1 - confidence) / 2
    low, high = np.quantile(resampled_n, [tail, 1 - tail])
    return float(low), float(high)
