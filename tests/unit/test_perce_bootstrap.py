from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perce.bootstrap import NoUsers, bootstrap_mean


def test_the_interval_is_that_of_all_possible_resamples() -> None:
    values = [0.0, 1.0, 5.0, 6.0]
    every = np.array([np.mean(draw) for draw in product(values, repeat=4)])
    found = bootstrap_mean(values, confidence=0.8, n=40_000)
    assert found.mean == 3.0
    assert (found.low, found.high) == tuple(np.quantile(every, [0.1, 0.9]))


def test_many_users_give_the_interval_of_the_normal_distribution() -> None:
    values = np.random.default_rng(3).normal(2.0, 0.5, size=400)
    found = bootstrap_mean(values.tolist())
    error = values.std() / np.sqrt(400)
    assert found.mean == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - 1.96 * error, abs=0.1 * error)
    assert found.high == pytest.approx(values.mean() + 1.96 * error, abs=0.1 * error)


def test_more_confidence_is_wider() -> None:
    values = [0.1, 0.5, 0.9, 0.3, 0.2]
    narrow, wide = (bootstrap_mean(values, confidence=c) for c in (0.5, 0.99))
    assert wide.low < narrow.low < narrow.mean < narrow.high < wide.high


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=6), st.floats(-5, 5))
def test_shifted_values_shift_the_interval(values: list[float], shift: float) -> None:
    first = bootstrap_mean(values, n=200)
    second = bootstrap_mean([value + shift for value in values], n=200)
    for name in ("mean", "low", "high"):
        assert getattr(second, name) == pytest.approx(getattr(first, name) + shift, abs=1e-9)


def test_one_user_has_no_width_and_none_is_an_error() -> None:
    alone = bootstrap_mean([0.25])
    assert (alone.mean, alone.low, alone.high) == (0.25, 0.25, 0.25)
    with pytest.raises(NoUsers):
        bootstrap_mean([])
