from math import sqrt
from statistics import NormalDist

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapt.thresholds import BadThresholdError, GateThresholds

# Student's t at 97.5 %, from a printed table, by degrees of freedom.
STUDENT = {2: 4.303, 3: 3.182, 4: 2.776, 7: 2.365, 11: 2.201, 30: 2.042}


@pytest.mark.parametrize("freedom", STUDENT)
def test_few_texts_ask_for_students_t(freedom: int) -> None:
    texts = freedom + 1
    asked = NormalDist().inv_cdf((1 + GateThresholds(confidence=0.95).coverage(texts)) / 2)
    wanted = STUDENT[freedom] * sqrt(texts / freedom)
    assert asked == pytest.approx(wanted, rel=0.04 if freedom == 2 else 0.01)


@settings(deadline=None)
@given(st.floats(0.5, 0.99), st.integers(2, 500))
def test_fewer_texts_ask_for_more(confidence: float, texts: int) -> None:
    thresholds = GateThresholds(confidence=confidence)
    more, fewer = thresholds.coverage(texts + 1), thresholds.coverage(texts)
    assert confidence < more <= fewer <= 1


def test_a_single_text_asks_for_no_more_than_it_can_give() -> None:
    assert GateThresholds().coverage(1) == 0.95


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tolerance", -0.1),
        ("tolerance", float("inf")),
        ("general_tolerance", float("nan")),
        ("word_order", -0.1),
        ("confidence", 1.0),
        ("confidence", 0.2),
    ],
)
def test_a_value_out_of_range_is_named_with_its_setting(name: str, value: float) -> None:
    with pytest.raises(BadThresholdError, match=f"{name} must be .*ATTUNE_GATE_{name.upper()}"):
        GateThresholds(**{name: value})
