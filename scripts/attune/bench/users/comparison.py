"""Comparing methods on the same users, with training users kept apart."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache, partial
from pathlib import Path

import numpy as np
from peft import PeftModel
from transformers import PreTrainedModel

from perce.adapter import loaded_adapter
from perce.adapter_files import model_fingerprint
from perce.datasets.writers import Writer
from perce.errors import AttuneError
from perce.evaluate import Mask, personal_mask
from scripts.attune.bench.base import Base
from scripts.attune.bench.kept import Kept, name_of
from scripts.attune.bench.users.measure import UserFigures, adapted, measure
from scripts.attune.bench.users.population import Population, Populations
from scripts.attune.bench.users.rates import Rates, Trial
from scripts.attune.bench.users.settings import SHARING, Method, Settings
from scripts.attune.bench.users.subject import Subject, prepare


class NoTrainingUsers(AttuneError):
    """No user is left to choose learning rates or to train the population adapter on."""


@dataclass(frozen=True, slots=True)
class Group:
    """Users to evaluate, and other users for everything that is chosen or trained for all."""

    evaluated: tuple[Writer, ...]
    others: tuple[Writer, ...]


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


def groups(writers: Sequence[Writer], users: int) -> list[Group]:
    """Split a file's users, in their order.

    The first are evaluated, and the rest are the others. Where none is left, each user is
    evaluated by itself and the rest are the others.
    """
    evaluated, others = tuple(writers[:users]), tuple(writers[users:])
    if others:
        return [Group(evaluated, others)]
    return [Group((one,), tuple(w for w in evaluated if w is not one)) for one in evaluated]


def compare(
    writers: Sequence[Writer],
    base: Base,
    settings: Settings,
    work: Path,
    report: Callable[[str], None],
) -> Comparison:
    """Measure every method on every evaluated user.

    Args:
        writers: The users of a file; which of them are evaluated is decided by `groups`.
        base: The base model.
        settings: What is compared.
        work: Figures and population adapters are kept in it, and taken from it.
        report: Told what is being done.

    Raises:
        NoTrainingUsers: A method needs other users and there are none.
        TooFewTexts: A user cannot be split.
    """
    comparison = Comparison()
    kept = Kept(work / f"figures-{_name(writers, base, settings)}.jsonl")
    masks: list[Mask] = []
    for group in groups(writers, settings.users):
        run = _prepared(group, base, settings, kept, work)
        masks += [mask for own in run.masks.values() for mask in own]
        for subject in run.evaluated:
            comparison.texts["train"] += len(subject.train)
            comparison.texts["test"] += len(subject.test)
        for method in settings.methods:
            rate = None
            if method in settings.trained:
                if len(settings.rates) > 1:
                    report(f"{method}: choosing the learning rate on {len(run.training)} users")
                rate, trials = run.rates.choose(method)
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
    population: tuple[Subject, ...]
    masks: Mapping[str, Sequence[Mask]]
    kept: Kept
    work: Path

    @property
    def rates(self) -> Rates:
        """Chooses learning rates on the training users."""
        return Rates(self.base, self.settings, self.training, self._populations, self.kept)

    def measure(self, method: Method, rate: float | None) -> dict[str, UserFigures]:
        """Measure every user of the group; a method that trains does so at `rate`."""

        def figures(subject: Subject) -> UserFigures:
            key = ["figures", method, *self._rates(method, rate), subject.name]
            return UserFigures(
                **self.kept.recall(key, lambda: asdict(self._measure(method, rate, subject)))
            )

        return {subject.name: figures(subject) for subject in self.evaluated}

    def _measure(self, method: Method, rate: float | None, subject: Subject) -> UserFigures:
        if rate is None:
            asked = subject if method == "rag" else subject.without_context()
            return self._figures(self.base.model, asked, seconds=0.0)
        hyper = self.settings.hyper_for(method, rate)
        match method:
            case "population":
                shared = self._population(rate)
                with loaded_adapter(self.base.model, shared.folder) as model:
                    return self._figures(model, subject, self._share(shared))
            case "population_perce":
                shared = self._population(self._population_rate)
                with adapted(self.base, subject.train, hyper, shared.folder) as own:
                    return self._figures(own.model, subject, own.seconds + self._share(shared))
            case _:
                with adapted(self.base, subject.train, hyper) as own:
                    return self._figures(own.model, subject, own.seconds)

    def _rates(self, method: Method, rate: float | None) -> list[float | None]:
        """All learning rates that a method's figures come from."""
        return [rate, self._population_rate] if method == "population_perce" else [rate]

    @property
    def _population_rate(self) -> float:
        return self.rates.choose("population")[0]

    def _population(self, rate: float) -> Population:
        return self._populations.of(self.population, self.settings.hyper_for("population", rate))

    def _share(self, shared: Population) -> float:
        return shared.seconds / len(self.evaluated)

    @property
    def _populations(self) -> Populations:
        return Populations(self.base, self.kept, self.work)

    def _figures(
        self, model: PreTrainedModel | PeftModel, subject: Subject, seconds: float
    ) -> UserFigures:
        masks, new_tokens = self.masks[subject.name], self.settings.new_tokens
        return measure(self.base, model, subject, masks, new_tokens, seconds)


def _prepared(group: Group, base: Base, settings: Settings, kept: Kept, work: Path) -> _Run:
    ready = cache(partial(prepare, base=base, recipe=settings.recipe))
    sharing = any(method in SHARING for method in settings.methods)
    choosing = bool(settings.trained) and len(settings.rates) > 1
    if (sharing or choosing) and not group.others:
        raise NoTrainingUsers(
            "No other user is left to choose learning rates or train the population "
            "adapter on. Give a file with more users, or one rate and no population."
        )
    evaluated = tuple(map(ready, group.evaluated))
    training = tuple(map(ready, group.others[: settings.training_users])) if choosing else ()
    population = tuple(map(ready, group.others[: settings.population_users])) if sharing else ()
    masks = {subject.name: _masks(subject, base, kept) for subject in evaluated}
    return _Run(base, settings, evaluated, training, population, masks, kept, work)


def _masks(subject: Subject, base: Base, kept: Kept) -> list[Mask]:
    """Which tokens of a user's tests are personal."""

    def found() -> list[list[bool]]:
        return [mask.tolist() for mask in personal_mask(base.model, subject.test)]

    return [np.array(mask, np.bool_) for mask in kept.recall(["personal", subject.name], found)]


def _name(writers: Sequence[Writer], base: Base, settings: Settings) -> str:
    """Stands for all that figures depend on but methods and rates, which their keys have."""
    chosen = asdict(settings)
    del chosen["methods"], chosen["rates"]
    model = model_fingerprint(base.model.name_or_path)
    return name_of([asdict(writer) for writer in writers], model, chosen)
