"""Choosing a method's learning rate on users who are not evaluated."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, isfinite
from statistics import fmean

from perce.example import Example
from perce.train import TrainingDiverged
from scripts.attune.bench.base import Base
from scripts.attune.bench.users.measure import adapted, loss_on_tests
from scripts.attune.bench.users.settings import BadChoice, Method, Settings
from scripts.attune.bench.users.subject import Subject


@dataclass(frozen=True, slots=True)
class Trial:
    """A rate that was tried.

    Attributes:
        loss: Mean test loss of the training users, in nats per token; None if training
            diverged.
    """

    method: Method
    rate: float
    loss: float | None


def choose_rate(
    base: Base, method: Method, training: Sequence[Subject], settings: Settings
) -> tuple[float, list[Trial]]:
    """Try each rate on the training users and take the one of the lowest test loss.

    `ce` and `perce` train on each user's past and are judged on that user's newest texts;
    `population` trains on every other user and is judged on the rest, so on users it has
    not seen. A single rate is taken untried.

    Raises:
        BadChoice: Training diverged at every rate.
    """
    if len(settings.rates) == 1:
        return settings.rates[0], []
    judge = _population_loss if method == "population" else _own_loss
    losses = {rate: judge(base, method, rate, training, settings) for rate in settings.rates}
    best = min(losses, key=lambda rate: losses[rate])
    if not isfinite(losses[best]):
        raise BadChoice(f"{method} diverged at every learning rate. Give lower ones with --rates.")
    trials = [Trial(method, rate, x if isfinite(x) else None) for rate, x in losses.items()]
    return best, trials


def past_of(subjects: Sequence[Subject]) -> list[Example]:
    """The training examples of several users."""
    return [example for subject in subjects for example in subject.train]


def _own_loss(
    base: Base, method: Method, rate: float, training: Sequence[Subject], settings: Settings
) -> float:
    return fmean(_loss(base, s.train, [s], method, rate, settings) for s in training)


def _population_loss(
    base: Base, method: Method, rate: float, training: Sequence[Subject], settings: Settings
) -> float:
    unseen = training[1::2] or training
    return _loss(base, past_of(training[::2]), unseen, method, rate, settings)


def _loss(
    base: Base,
    examples: Sequence[Example],
    judged: Sequence[Subject],
    method: Method,
    rate: float,
    settings: Settings,
) -> float:
    try:
        with adapted(base, examples, settings.hyper_for(method, rate)) as trained:
            return fmean(loss_on_tests(trained.model, subject) for subject in judged)
    except TrainingDiverged:
        return inf
