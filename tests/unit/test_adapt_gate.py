import json
from collections.abc import Sequence
from dataclasses import asdict, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapt.gate import GeneralLosses, HeldOutLosses, judge
from adapt.membership import LearntLosses
from adapt.thresholds import GateThresholds
from adapt.word_order import OrderLosses
from perce.evaluate import ExampleLoss, Mask, paired_bootstrap

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


def shifted(by: float, of: Sequence[ExampleLoss]) -> list[ExampleLoss]:
    return [ExampleLoss(loss.token_losses + by) for loss in of]


def scaled(by: float, of: Sequence[ExampleLoss]) -> list[ExampleLoss]:
    return [ExampleLoss(loss.token_losses * by) for loss in of]


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


@pytest.mark.parametrize(
    ("overall", "personal", "decision"),
    [
        (2.5, 2.5, "publish"),
        (3.01, 3.01, "publish"),
        (3.5, 3.5, "reject"),
        # Worse on personal tokens alone, and on the others alone.
        (2.5, 3.5, "reject"),
        (3.5, 2.5, "reject"),
    ],
)
def test_what_is_better_than_a_bad_incumbent_is_no_worse_than_the_base_model(
    overall: float, personal: float, decision: str
) -> None:
    candidate = losses(overall, personal)
    verdict = judge(HeldOutLosses(losses(3.0, 3.0), losses(4.0, 4.0), candidate, masks()))
    assert verdict.decision == decision, verdict.reason
    rejected = "rejected, since it is worse than the base model on the user's texts."
    assert verdict.reason.endswith(rejected if decision == "reject" else ": published.")
    mean = (20 * overall + 10 * personal) / 30
    assert verdict.checks["base"]["overall"]["difference"] == pytest.approx(mean - 3.0)
    assert verdict.checks["base"]["personal"]["difference"] == pytest.approx(personal - 3.0)
    assert "than the base model on all tokens" in verdict.reason


def test_the_numbers_are_plain_means_over_tokens() -> None:
    base, candidate = losses(3.0, 4.0, seed=1), losses(2.0, 2.5, seed=2)
    verdict = judge(HeldOutLosses(base, None, candidate, masks()))
    everything = np.concatenate([loss.token_losses for loss in base])
    personal = np.concatenate([loss.token_losses[:10] for loss in candidate])
    assert verdict.held_out_loss is not None
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


BETTER = HeldOutLosses(losses(3.0), losses(2.5), losses(2.0, seed=1), masks())
"""Published, as long as nothing else speaks against it."""


def general(rise: float = 0.0) -> GeneralLosses:
    base = losses(4.0)
    return GeneralLosses(base, shifted(rise, base))


def order(gain: float) -> OrderLosses:
    """Shuffled copies cost so much more, and have two tokens more."""
    ordered = losses(3.0)
    copies = (np.append(one.token_losses, one.token_losses[:2]) for one in ordered)
    mean = np.mean([one.token_losses.mean() for one in ordered])
    return OrderLosses(ordered, [ExampleLoss(copy - copy.mean() + mean + gain) for copy in copies])


@pytest.mark.parametrize(
    ("rise", "objection"),
    [
        (0.0, None),
        (-1.0, None),
        (0.09, None),
        (0.11, "forgotten how to write anything else"),
    ],
)
def test_what_is_forgotten_speaks_against_a_better_candidate(
    rise: float, objection: str | None
) -> None:
    thresholds = GateThresholds(general_tolerance=0.1)
    verdict = judge(replace(BETTER, general=general(rise)), thresholds)
    assert verdict.decision == ("reject" if objection else "publish"), verdict.reason
    assert (objection or ": published.") in verdict.reason
    assert verdict.checks["general"]["difference"] == pytest.approx(rise)
    assert verdict.general_loss is not None and verdict.general_loss.incumbent is None
    assert verdict.general_loss.candidate - verdict.general_loss.base == pytest.approx(rise)


@pytest.mark.parametrize(("gain", "decision"), [(1.0, "publish"), (0.0, "reject")])
def test_nothing_is_learnt_from_words_in_no_order(gain: float, decision: str) -> None:
    verdict = judge(replace(BETTER, order=order(gain)))
    assert verdict.decision == decision, verdict.reason
    assert ("in no order" in verdict.reason) == (decision == "reject")
    found = verdict.checks["word_order"]
    assert found["low"] <= found["gain"] <= found["high"]
    assert found["gain"] == pytest.approx(gain, abs=1e-6)


@pytest.mark.parametrize(("gain", "decision"), [(0.8, "publish"), (0.5, "reject"), (0, "reject")])
def test_a_version_is_only_replaced_by_what_learnt_from_the_users_texts(
    gain: float, decision: str
) -> None:
    """BETTER gains half a nat on held-out texts: it must have gained more on learnt ones."""
    known = losses(2.5, seed=2)
    noisy = [
        ExampleLoss(loss.token_losses - gain + np.random.default_rng(n).normal(0, 0.1, TOKENS))
        for n, loss in enumerate(known)
    ]
    learnt = LearntLosses(known, noisy)
    verdict = judge(replace(BETTER, learnt=learnt))
    assert verdict.decision == decision, verdict.reason
    assert ("nothing shows that it learnt" in verdict.reason) == (decision == "reject")
    # The base model learnt nothing of the user's that could be lost.
    assert judge(replace(BETTER, incumbent=None, learnt=learnt)).decision == "publish"


@settings(deadline=None, max_examples=50)
@given(
    texts=st.integers(1, 30),
    rise=st.floats(0.001, 3.0),
    personal=st.integers(0, TOKENS),
    first=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_what_is_worse_on_every_text_is_never_published(
    texts: int, rise: float, personal: int, first: bool, seed: int
) -> None:
    draw = np.random.default_rng(seed)
    rival = [ExampleLoss(draw.gamma(2, 2, TOKENS)) for _ in range(texts)]
    worse = [ExampleLoss(one.token_losses + draw.uniform(rise / 2, rise, TOKENS)) for one in rival]
    mask = [np.arange(TOKENS) < personal] * texts
    base = rival if first else shifted(1.0, worse)
    assert judge(HeldOutLosses(base, None if first else rival, worse, mask)).decision == "reject"


@settings(deadline=None, max_examples=50)
@given(texts=st.integers(1, 30), personal=st.integers(0, TOKENS), seed=st.integers(0, 2**32 - 1))
def test_what_equals_the_incumbent_is_never_published(texts: int, personal: int, seed: int) -> None:
    draw = np.random.default_rng(seed)
    same = [ExampleLoss(draw.gamma(2, 2, TOKENS)) for _ in range(texts)]
    mask = [np.arange(TOKENS) < personal] * texts
    verdict = judge(HeldOutLosses(shifted(1.0, same), same, same, mask))
    assert verdict.decision == "reject"
    assert "not better beyond chance" in verdict.reason


def test_one_text_with_personal_tokens_cannot_publish_a_candidate() -> None:
    few = [np.arange(TOKENS) < (10 if text == 0 else 0) for text in range(TEXTS)]
    incumbent, candidate = losses(2.0, 2.0), losses(2.0, 2.0)
    candidate[0] = losses(2.0, 1.0)[0]
    verdict = judge(HeldOutLosses(losses(3.0), incumbent, candidate, few))
    assert verdict.checks["personal"]["difference"] == pytest.approx(-1.0, abs=0.1)
    assert verdict.decision == "reject"


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_a_loss_that_is_no_number_is_a_rejection(broken: float) -> None:
    candidate = losses(1.0)
    candidate[3].token_losses[5] = broken
    for scored in (
        HeldOutLosses(losses(3.0), losses(2.0), candidate, masks()),
        replace(BETTER, general=replace(general(), candidate=candidate)),
        replace(BETTER, learnt=LearntLosses(losses(2.0), candidate)),
    ):
        verdict = judge(scored)
        assert (verdict.decision, verdict.held_out_loss) == ("reject", None)
        assert "not a number" in verdict.reason


def test_every_number_is_stored_with_its_interval_and_the_thresholds() -> None:
    thresholds = GateThresholds(tolerance=0.01, confidence=0.9)
    known = losses(2.5, seed=2)
    learnt = LearntLosses(known, shifted(-1.0, known))
    verdict = judge(replace(BETTER, general=general(), order=order(1.0), learnt=learnt), thresholds)
    stored = json.loads(json.dumps(asdict(verdict), allow_nan=False))["checks"]
    assert BETTER.incumbent is not None
    expected = paired_bootstrap(
        BETTER.candidate, BETTER.incumbent, confidence=thresholds.coverage(TEXTS), tolerance=0.01
    )
    assert stored["held_out"] == asdict(expected)
    assert stored["thresholds"] == asdict(thresholds)
    assert stored["learnt"]["low"] < stored["learnt"]["gap"] < stored["learnt"]["high"]
    parts = {"held_out", "personal", "base", "general", "word_order", "learnt", "thresholds"}
    assert set(stored) == parts
    assert judge(replace(BETTER, incumbent=None)).checks["base"] is None


def test_few_texts_are_published_less_by_chance_than_the_confidence_allows() -> None:
    """Five held-out texts and a candidate that differs by noise: at most 2.5 % get through."""
    published = 0
    for seed in range(300):
        rng = np.random.default_rng(seed)
        incumbent = [ExampleLoss(np.full(TOKENS, level)) for level in rng.normal(2, 1, 5)]
        candidate = [ExampleLoss(loss.token_losses + rng.normal(0, 0.1)) for loss in incumbent]
        scored = HeldOutLosses(losses(3.0)[:5], incumbent, candidate, masks(personal=0)[:5])
        published += judge(scored).decision == "publish"
    assert 0 < published <= 14
