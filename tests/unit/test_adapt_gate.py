from collections.abc import Sequence

import numpy as np
import pytest

from adapt.gate import HeldOutLosses, judge
from perce.evaluate import ExampleLoss, Mask

TEXTS, TOKENS = 12, 30


def losses(mean: float, personal_mean: float | None = None, seed: int = 0) -> list[ExampleLoss]:
    """Losses around a mean; the first ten tokens of each text are the personal ones."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(TEXTS):
        tokens = rng.normal(mean, 0.1, TOKENS)
        if personal_mean is not None:
            tokens[:10] = rng.normal(personal_mean, 0.1, 10)
        made.append(ExampleLoss(tokens))
    return made


def masks(personal: int = 10) -> list[Mask]:
    return [np.arange(TOKENS) < personal for _ in range(TEXTS)]


def decide(
    base: Sequence[ExampleLoss],
    incumbent: Sequence[ExampleLoss] | None,
    candidate: Sequence[ExampleLoss],
    personal: int = 10,
) -> str:
    return judge(HeldOutLosses(base, incumbent, candidate, masks(personal))).decision


@pytest.mark.parametrize(
    ("incumbent", "candidate", "decision"),
    [
        (None, losses(2.0), "publish"),
        (None, losses(3.0), "reject"),
        (None, losses(4.0), "reject"),
        (losses(2.0), losses(2.0), "reject"),
        (losses(2.0), losses(1.5), "publish"),
        (losses(2.0), losses(2.5), "reject"),
        # Better on personal tokens, as good on all others.
        (losses(2.0, 2.0), losses(2.0, 1.0), "publish"),
        # Better on personal tokens, and far worse on all.
        (losses(2.0, 2.0), losses(4.0, 1.0), "reject"),
        # Better on all tokens, worse on personal ones.
        (losses(2.0, 2.0), losses(1.0, 3.0), "reject"),
    ],
)
def test_the_rival_is_the_incumbent_where_there_is_one(
    incumbent: list[ExampleLoss] | None, candidate: list[ExampleLoss], decision: str
) -> None:
    assert decide(losses(3.0), incumbent, candidate) == decision


def test_the_numbers_are_plain_means_over_tokens() -> None:
    base, candidate = losses(3.0, 4.0, seed=1), losses(2.0, 2.5, seed=2)
    verdict = judge(HeldOutLosses(base, None, candidate, masks()))
    everything = np.concatenate([loss.token_losses for loss in base])
    personal = np.concatenate([loss.token_losses[:10] for loss in candidate])
    assert verdict.held_out_loss.base == pytest.approx(everything.mean())
    assert verdict.held_out_loss.incumbent is None
    assert verdict.personal_loss is not None
    assert verdict.personal_loss.candidate == pytest.approx(personal.mean())
    assert (verdict.tokens, verdict.personal_tokens) == (TEXTS * TOKENS, TEXTS * 10)


def test_without_personal_tokens_all_tokens_decide() -> None:
    verdict = judge(HeldOutLosses(losses(3.0), None, losses(2.0), masks(personal=0)))
    assert verdict.decision == "publish"
    assert verdict.personal_loss is None
    assert "no token was personal" in verdict.reason


def test_the_reason_is_a_sentence_with_the_numbers() -> None:
    reason = judge(HeldOutLosses(losses(3.0), losses(3.0), losses(2.0), masks())).reason
    assert reason.startswith("On held-out texts the candidate is better (-1.0")
    assert "the active version" in reason and reason.endswith("published.")


def test_chance_does_not_publish() -> None:
    """Candidates that differ from the incumbent by noise alone are published rarely."""
    published = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        incumbent = [ExampleLoss(rng.normal(2, 1, TOKENS)) for _ in range(TEXTS)]
        candidate = [ExampleLoss(rng.normal(2, 1, TOKENS)) for _ in range(TEXTS)]
        published += decide(losses(3.0), incumbent, candidate) == "publish"
    assert published <= 8
