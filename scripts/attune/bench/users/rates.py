"""Choosing a method's learning rate on users who are not evaluated."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import inf
from pathlib import Path
from statistics import fmean

from perce.adapter import loaded_adapter
from perce.hyperparameters import Hyperparameters
from perce.train import TrainingDiverged
from scripts.attune.bench.base import Base
from scripts.attune.bench.kept import Kept
from scripts.attune.bench.users.measure import adapted, loss_on_tests
from scripts.attune.bench.users.population import Populations
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


@dataclass(frozen=True, slots=True)
class Rates:
    """Tries learning rates on training users.

    Attributes:
        base: The base model.
        settings: The rates to try, and all other hyperparameters.
        training: The users.
        populations: Trains their population adapters.
        kept: What was tried before.
    """

    base: Base
    settings: Settings
    training: Sequence[Subject]
    populations: Populations
    kept: Kept

    def choose(self, method: Method) -> tuple[float, list[Trial]]:
        """Try each rate and take the one of the lowest test loss; a single one untried.

        `ce` and `perce` train on each user's past and are judged on that user's newest texts;
        `population` trains on every other user and is judged on the rest, so on users it has
        not seen; `population_perce` goes on from that one with the rest's pasts.

        Raises:
            BadChoice: Training diverged at every rate.
        """
        rates = self.settings.rates
        if len(rates) == 1:
            return rates[0], []
        trials = [self._trial(method, rate) for rate in rates]
        best = min(trials, key=lambda trial: inf if trial.loss is None else trial.loss)
        if best.loss is None:
            raise BadChoice(
                f"{method} diverged at every learning rate. Give lower ones with --rates."
            )
        return best.rate, trials

    def _trial(self, method: Method, rate: float) -> Trial:
        rates = [rate]
        if method == "population_perce":
            rates.append(self.choose("population")[0])
        key = ["rate", method, *rates, [subject.name for subject in self.training]]
        return Trial(method, rate, self.kept.recall(key, lambda: self._loss(method, rate)))

    def _loss(self, method: Method, rate: float) -> float | None:
        hyper = self.settings.hyper_for(method, rate)
        try:
            match method:
                case "population":
                    return self._population_loss(hyper)
                case "population_perce":
                    return self._loss_over_population(hyper)
                case _:
                    return self._own_loss(hyper)
        except TrainingDiverged:
            return None

    def _own_loss(self, hyper: Hyperparameters) -> float:
        return fmean(self._loss_of(subject, hyper) for subject in self.training)

    def _loss_over_population(self, hyper: Hyperparameters) -> float:
        rate, _ = self.choose("population")
        shared = self.populations.of(self._shown, self.settings.hyper_for("population", rate))
        return fmean(self._loss_of(subject, hyper, shared.folder) for subject in self._unseen)

    def _loss_of(
        self, subject: Subject, hyper: Hyperparameters, start: Path | None = None
    ) -> float:
        """A user's test loss under an own adapter; users may train for several groups."""

        def loss() -> float:
            with adapted(self.base, subject.train, hyper, start) as own:
                return loss_on_tests(own.model, subject)

        key = ["own loss", subject.name, asdict(hyper), start and start.name]
        kept: float = self.kept.recall(key, loss)
        return kept

    def _population_loss(self, hyper: Hyperparameters) -> float:
        with loaded_adapter(
            self.base.model, self.populations.of(self._shown, hyper).folder
        ) as model:
            return fmean(loss_on_tests(model, subject) for subject in self._unseen)

    @property
    def _shown(self) -> Sequence[Subject]:
        """Those whose pasts make the population adapter that is tried."""
        return self.training[::2]

    @property
    def _unseen(self) -> Sequence[Subject]:
        """Those whom it is judged on; a single user for want of others."""
        return self.training[1::2] or self.training
