import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scripted_engine import WordEncoder
from transformers import PreTrainedModel
from users_bench import DOG, SEA, SETTINGS, WRITERS, quiet, writer

from adapt.dataset import ContextBudget
from perce.adapter import loaded_adapter
from perce.datasets.writers import Writer
from perce.model import load_model
from perce.tokens import ChatTokenizer
from scripts.attune.bench.base import Base
from scripts.attune.bench.kept import Kept
from scripts.attune.bench.users.comparison import compare
from scripts.attune.bench.users.measure import adapted, loss_on_tests
from scripts.attune.bench.users.population import Populations
from scripts.attune.bench.users.rates import Rates
from scripts.attune.bench.users.settings import BadChoice, Method, Settings
from scripts.attune.bench.users.subject import prepare


@pytest.fixture
def base(tiny_model: PreTrainedModel, chat_tokenizer: ChatTokenizer) -> Base:
    return Base(tiny_model, chat_tokenizer, WordEncoder())


@pytest.fixture
def settings() -> Settings:
    return SETTINGS


def test_only_training_users_decide_rates_and_the_population_adapter(
    base: Base, settings: Settings, tmp_path: Path
) -> None:
    # Without context, an evaluated user's past can only come in through training.
    blind = replace(settings, budget=ContextBudget(0, 0), rates=(1e-3, 1e-2))
    other_past = replace(WRITERS[0], train=writer("sea", [*DOG, *DOG]).train)
    other_training = replace(WRITERS[1], train=writer("dog", [*SEA, *SEA]).train)

    def compared(*writers: Writer) -> tuple[dict[Method, float], object]:
        found = compare(writers, base, blind, tmp_path, quiet)
        return {m: own["sea"].loss for m, own in found.figures.items()}, found.trials

    losses, trials = compared(*WRITERS[:2])
    evaluated_changed, same_trials = compared(other_past, WRITERS[1])
    assert same_trials == trials
    changed = {m for m in losses if losses[m] != evaluated_changed[m]}
    assert changed == {"ce", "perce", "population_perce"}
    training_changed, other_trials = compared(WRITERS[0], other_training)
    assert other_trials != trials
    assert losses["population"] != training_changed["population"]


def test_the_rate_of_the_lowest_loss_is_taken_and_divergence_passed_over(
    base: Base, settings: Settings, tmp_path: Path
) -> None:
    training = [prepare(one, base, settings.recipe) for one in WRITERS[1:]]
    populations = Populations(base, Kept(tmp_path / "populations"), tmp_path)
    wide = replace(settings, rates=(1e-9, 1e-2, 1e30))
    rates = Rates(base, wide, training, populations, Kept(tmp_path / "rates"))
    for method in settings.trained:
        best, trials = rates.choose(method)
        losses = {trial.rate: trial.loss for trial in trials}
        assert set(losses) == set(wide.rates)
        assert losses[1e30] is None
        assert best == min((1e-9, 1e-2), key=lambda rate: losses[rate] or np.inf)
    with pytest.raises(BadChoice, match="--rates"):
        replace(rates, settings=replace(settings, rates=(1e30, 1e31))).choose("ce")


def test_an_adapter_that_goes_on_from_the_population_starts_at_its_weights(
    base: Base, settings: Settings, tmp_path: Path
) -> None:
    # At a rate of next to nothing, a user's own training leaves the population adapter as it is.
    near = replace(settings, rates=(1e-12,))
    figures = compare(WRITERS, base, near, tmp_path, quiet).figures
    start = compare(WRITERS, base, replace(near, methods=("rag",)), tmp_path, quiet).figures
    assert figures["population"]["sea"].loss == pytest.approx(start["rag"]["sea"].loss, rel=1e-6)
    learnt = replace(settings, rates=(1e-2,))
    [shown] = [prepare(WRITERS[1], base, learnt.recipe)]
    populations = Populations(base, Kept(tmp_path / "populations"), tmp_path)
    shared = populations.of([shown], learnt.hyper_for("population", 1e-2))
    with loaded_adapter(base.model, shared.folder) as model:
        expected = loss_on_tests(model, shown)
    still = learnt.hyper_for("population_perce", 1e-12)
    with adapted(base, shown.train, still, shared.folder) as own:
        assert loss_on_tests(own.model, shown) == pytest.approx(expected, rel=1e-6)
    with adapted(base, shown.train, still) as fresh:
        assert loss_on_tests(fresh.model, shown) != pytest.approx(expected, rel=1e-3)


def test_population_adapters_of_other_texts_and_models_lie_side_by_side(
    base: Base, settings: Settings, tiny_model_dir: Path, tmp_path: Path
) -> None:
    other_model = tmp_path / "model"
    shutil.copytree(tiny_model_dir, other_model)
    (other_model / "config.json").write_text((tiny_model_dir / "config.json").read_text() + "\n")
    hyper = settings.hyper_for("population", 1e-2)
    bare = replace(settings, budget=ContextBudget(0, 0))
    runs = [
        (base, WRITERS[1], settings),
        (base, WRITERS[1], bare),
        (base, replace(WRITERS[1], train=WRITERS[0].train), settings),
        (replace(base, model=load_model(str(other_model), "cpu")), WRITERS[1], settings),
    ]

    def folder(number: int, base: Base, writer: Writer, settings: Settings) -> Path:
        populations = Populations(base, Kept(tmp_path / f"run-{number}"), tmp_path)
        return populations.of([prepare(writer, base, settings.recipe)], hyper).folder

    folders = [folder(number, *run) for number, run in enumerate(runs)]
    assert len(set(folders)) == len(runs)
    assert folder(0, *runs[0]) == folders[0]
