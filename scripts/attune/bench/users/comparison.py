"""Comparing methods on the same users, with training users kept apart."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from peft import PeftModel
from transformers import PreTrainedModel

from perce.datasets.writers import Writer
from perce.errors import AttuneError
from perce.evaluate import Mask, personal_mask
from perce.hyperparameters import Hyperparameters
from scripts.attune.bench.base import Base
from scripts.attune.bench.users.measure import UserFigures, adapted, measure
from scripts.attune.bench.users.rates import Trial, choose_rate, past_of
from scripts.attune.bench.users.settings import Method, Settings
from scripts.attune.bench.users.subject import Subject, prepare


class NoTrainingUsers(AttuneError):
    """No user is left to choose learning rates or to train the population adapter on."""


@dataclass(frozen=True, slots=True)
class Group:
    """Users to evaluate, and other users for everything that is chosen or trained for all."""

    evaluated: tuple[Writer, ...]
    training: tuple[Writer, ...]


@dataclass(slots=True)
class Comparison:
    """Figures of each evaluated user under each method.

    Attributes:
        figures: By method, then by user.
        rates: The learning rate of each trained method, one for each group.
        trials: All rates that were tried.
        texts: Texts trained on and tested on, over the evaluated users.
        personal_share: Share of the tests' tokens that the base model calls personal.
    """

    figures: dict[Method, dict[str, UserFigures]] = field(default_factory=dict)
    rates: dict[Method, list[float]] = field(default_factory=dict)
    trials: list[Trial] = field(default_factory=list)
    texts: dict[str, int] = field(default_factory=lambda: {"train": 0, "test": 0})
    personal_share: float = 0.0


def groups(writers: Sequence[Writer], users: int, training_users: int) -> list[Group]:
    """Split a file's users, in their order.

    The first are evaluated and the next train. Where none is left, each user is evaluated by
    itself and the others train.
    """
    evaluated = tuple(writers[:users])
    others = tuple(writers[users : users + training_users])
    if others:
        return [Group(evaluated, others)]
    return [
        Group((one,), tuple(w for w in evaluated if w is not one)[:training_users])
        for one in evaluated
    ]


def compare(
    writers: Sequence[Writer], base: Base, settings: Settings, report: Callable[[str], None]
) -> Comparison:
    """Measure every method on every evaluated user.

    Args:
        writers: The users of a file; which of them are evaluated is decided by `groups`.
        base: The base model.
        settings: What is compared.
        report: Told what is being done.

    Raises:
        NoTrainingUsers: A method needs other users and there are none.
        TooFewTexts: A user cannot be split.
    """
    comparison = Comparison()
    masks: list[Mask] = []
    for group in groups(writers, settings.users, settings.training_users):
        run = _prepared(group, base, settings)
        masks += [mask for own in run.masks.values() for mask in own]
        for subject in run.evaluated:
            comparison.texts["train"] += len(subject.train)
            comparison.texts["test"] += len(subject.test)
        for method in settings.methods:
            rate = None
            if method in settings.trained:
                if len(settings.rates) > 1:
                    report(f"{method}: choosing the learning rate on {len(run.training)} users")
                rate, trials = choose_rate(base, method, run.training, settings)
                comparison.rates.setdefault(method, []).append(rate)
                comparison.trials += trials
            report(f"{method}: {', '.join(subject.name for subject in run.evaluated)}")
            comparison.figures.setdefault(method, {}).update(run.measure(method, rate))
    comparison.personal_share = float(np.concatenate(masks).mean())
    return comparison


@dataclass(frozen=True, slots=True)
class _Run:
    """One group, ready to be measured under any method."""

    base: Base
    settings: Settings
    evaluated: tuple[Subject, ...]
    training: tuple[Subject, ...]
    masks: Mapping[str, Sequence[Mask]]

    def measure(self, method: Method, rate: float | None) -> dict[str, UserFigures]:
        """Measure every user of the group; a method that trains does so at `rate`."""
        if rate is None:
            return {s.name: self._untrained(s, context=method == "rag") for s in self.evaluated}
        hyper = self.settings.hyper_for(method, rate)
        if method == "population":
            return self._population(hyper)
        return {s.name: self._own_adapter(s, hyper) for s in self.evaluated}

    def _untrained(self, subject: Subject, context: bool) -> UserFigures:
        asked = subject if context else subject.without_context()
        return self._figures(self.base.model, asked, seconds=0.0)

    def _own_adapter(self, subject: Subject, hyper: Hyperparameters) -> UserFigures:
        with adapted(self.base, subject.train, hyper) as own:
            return self._figures(own.model, subject, own.seconds)

    def _population(self, hyper: Hyperparameters) -> dict[str, UserFigures]:
        with adapted(self.base, past_of(self.training), hyper) as shared:
            seconds = shared.seconds / len(self.evaluated)
            return {s.name: self._figures(shared.model, s, seconds) for s in self.evaluated}

    def _figures(
        self, model: PreTrainedModel | PeftModel, subject: Subject, seconds: float
    ) -> UserFigures:
        masks, new_tokens = self.masks[subject.name], self.settings.new_tokens
        return measure(self.base, model, subject, masks, new_tokens, seconds)


def _prepared(group: Group, base: Base, settings: Settings) -> _Run:
    ready = partial(prepare, base=base, budget=settings.budget, longest=settings.hyper.max_length)
    evaluated = tuple(map(ready, group.evaluated))
    training: tuple[Subject, ...] = ()
    if "population" in settings.methods or (settings.trained and len(settings.rates) > 1):
        if not group.training:
            raise NoTrainingUsers(
                "No other user is left to choose learning rates or train the population "
                "adapter on. Give a file with more users, or one rate and no population."
            )
        training = tuple(map(ready, group.training))
    masks = {subject.name: personal_mask(base.model, subject.test) for subject in evaluated}
    return _Run(base, settings, evaluated, training, masks)
