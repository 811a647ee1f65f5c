import numpy as np
import pytest

from adapt.membership import LearntLosses, membership
from perce.evaluate import ExampleLoss


def gained(gains: list[float], tokens: list[int]) -> LearntLosses:
    """Texts on which the candidate gained so much a token."""
    before = [ExampleLoss(np.full(size, 3.0)) for size in tokens]
    after = [
        ExampleLoss(loss.token_losses - gain) for loss, gain in zip(before, gains, strict=True)
    ]
    return LearntLosses(before, after)


def test_the_gap_is_between_gains_per_token() -> None:
    found = membership(gained([0.4, 0.1], [10, 30]), gained([0.05] * 3, [7, 8, 9]))
    assert found.gap == pytest.approx((0.4 * 10 + 0.1 * 30) / 40 - 0.05)
    # Both draws of two may be of the one text, or of the other.
    assert [found.low, found.high] == pytest.approx([0.05, 0.35])
    assert found.shown


def test_like_gains_show_nothing_however_large() -> None:
    found = membership(gained([2.0] * 9, [20] * 9), gained([2.0] * 4, [20] * 4))
    assert found.gap == pytest.approx(0)
    assert not found.shown


def test_a_candidate_that_saw_neither_passes_as_rarely_as_was_asked() -> None:
    passed = 0
    for seed in range(300):
        draw = np.random.default_rng(seed)
        learnt, held_out = draw.normal(0.1, 0.05, 24), draw.normal(0.1, 0.05, 8)
        passed += membership(
            gained(list(learnt), [30] * 24), gained(list(held_out), [30] * 8), seed=seed
        ).shown
    assert 0 < passed <= 20


def test_what_was_learnt_shows_above_the_noise_of_eight_held_out_texts() -> None:
    draw = np.random.default_rng(0)
    learnt, held_out = draw.normal(0.2, 0.05, 24), draw.normal(0.1, 0.05, 8)
    assert membership(gained(list(learnt), [30] * 24), gained(list(held_out), [30] * 8)).shown
