import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scripted_engine import WordEncoder
from transformers import PreTrainedModel
from typer.testing import CliRunner
from users_bench import DOG, SEA, SETTINGS, WRITERS, quiet, writer

from adapt.dataset import ContextBudget
from perce.datasets.records import UnreadableDataset
from perce.hyperparameters import BadHyperparameter
from perce.tokens import ChatTokenizer
from scripts.attune.bench.base import Base
from scripts.attune.bench.users.comparison import Comparison, NoTrainingUsers, compare, groups
from scripts.attune.bench.users.measure import UserFigures
from scripts.attune.bench.users.report import as_json, as_table
from scripts.attune.bench.users.settings import (
    BadChoice,
    Method,
    Settings,
    methods_of,
    rates_of,
)
from scripts.attune.bench.users.subject import TooFewTexts, prepare, read_writers
from scripts.attune.main import app

MEASURES = {"loss", "personal_loss", "rouge1", "rougeL", "meteor", "seconds_per_user"}
NUMBERS = {f"{measure}{end}" for measure in MEASURES for end in ("", "_ci", "_users")}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "users.jsonl"
    with path.open("w") as lines:
        for name, texts in (("sea", SEA), ("dog", DOG)):
            for order, text in enumerate(texts):
                record = {"user": name, "order": order, "query": f"And {order}?", "text": text}
                lines.write(json.dumps(record) + "\n")
    return path


@pytest.fixture
def base(tiny_model: PreTrainedModel, chat_tokenizer: ChatTokenizer) -> Base:
    return Base(tiny_model, chat_tokenizer, WordEncoder())


@pytest.fixture
def settings() -> Settings:
    return SETTINGS


def bench(file: Path, *options: str) -> Any:  # noqa: ANN401 - JSON
    ran = CliRunner().invoke(app, ["bench", "users", str(file), "--json", *options])
    assert ran.exit_code == 0, ran.output + repr(ran.exception)
    return json.loads(ran.stdout)


def test_the_command_compares_all_methods_with_the_reference_model(file: Path) -> None:
    methods = "base,rag,ce,perce,population,population_perce"
    small = ["--users", "2", "--epochs", "1", "--new-tokens", "8", "--rates", "1e-3,2e-3"]
    result = bench(file, "--methods", methods, *small)
    assert result["users"] == 2
    assert result["texts"] == {"train": 10, "test": 2}
    assert 0 <= result["personal_share"] <= 1
    assert list(result["methods"]) == methods.split(",")
    for name, figures in result["methods"].items():
        assert set(figures) == NUMBERS | {"learning_rates"}
        assert 0 < figures["loss_ci"][0] <= figures["loss"] <= figures["loss_ci"][1]
        trained = name not in ("base", "rag")
        assert (figures["seconds_per_user"] > 0) == trained
        assert bool(figures["learning_rates"]) == trained
        assert set(figures["learning_rates"]) <= {1e-3, 2e-3}
        assert set(result["per_user"][name]) == {"sea", "dog"}
    # Both users are evaluated, so each one's rates are tried on the other alone.
    assert len(result["rate_trials"]) == 2 * 4 * 2
    assert set(result["perce_minus_ce"]) == NUMBERS


def test_losses_are_those_of_transformers_logits(
    base: Base, settings: Settings, tmp_path: Path
) -> None:
    subject = prepare(WRITERS[0], base, settings.recipe)
    untrained = replace(settings, methods=("base", "rag"))
    figures = compare(WRITERS, base, untrained, tmp_path, quiet).figures

    def losses(prompt: tuple[int, ...]) -> torch.Tensor:
        ids = subject.test[0].reply_ids
        with torch.no_grad():
            logits_TV = base.model(input_ids=torch.tensor([[*prompt, *ids]])).logits[0]
        logprobs_NV: torch.Tensor = logits_TV[len(prompt) - 1 : -1].log_softmax(-1)
        return -logprobs_NV[range(len(ids)), ids]

    bare, full = losses(subject.test[0].prompt_ids_without), losses(subject.test[0].prompt_ids)
    personal = bare - full > 1
    assert 0 < personal.sum() < len(personal)
    expected: dict[Method, torch.Tensor] = {"base": bare, "rag": full}
    for method, own in expected.items():
        found = figures[method]["sea"]
        assert found.loss == pytest.approx(own.mean().item(), rel=1e-5)
        assert found.personal_loss == pytest.approx(own[personal].mean().item(), rel=1e-5)


def test_each_context_holds_only_older_texts(base: Base, settings: Settings) -> None:
    subject = prepare(WRITERS[0], base, settings.recipe)
    examples = (*subject.train, *subject.test)
    for number, example in enumerate(examples):
        prompt = base.tokenizer.decode(example.prompt_ids)
        shown = {n for n, text in enumerate(SEA) if text in prompt}
        assert shown <= set(range(number))
        assert len(shown) == min(number, settings.budget.texts)
    assert subject.references == (SEA[-1],)
    assert not any(
        text in base.tokenizer.decode(subject.without_context().test[0].prompt_ids) for text in SEA
    )


def test_texts_share_a_context_in_training_only(base: Base, settings: Settings) -> None:
    shared = replace(settings, hyper=replace(settings.hyper, group_size=4))
    long = writer("both", SEA + DOG + SEA[::-1] + DOG[::-1])
    together, alone = (prepare(long, base, one.recipe) for one in (shared, settings))
    assert together.test == alone.test
    assert together.references == alone.references
    assert [one.reply_ids for one in together.train] == [one.reply_ids for one in alone.train]
    assert together.train != alone.train


def test_evaluated_users_never_train_for_others() -> None:
    shared = groups(WRITERS, users=2)
    assert [[w.name for w in g.evaluated] for g in shared] == [["sea", "dog"]]
    assert [[w.name for w in g.others] for g in shared] == [["both"]]
    alone = groups(WRITERS, users=3)
    assert [[w.name for w in g.evaluated] for g in alone] == [["sea"], ["dog"], ["both"]]
    assert [[w.name for w in g.others] for g in alone] == [
        ["dog", "both"],
        ["sea", "both"],
        ["sea", "dog"],
    ]


def test_adapters_change_the_figures_and_leave_the_base_model_alone(
    base: Base, settings: Settings, tmp_path: Path
) -> None:
    before = {name: w.clone() for name, w in base.model.state_dict().items()}
    figures = compare(WRITERS, base, settings, tmp_path, quiet).figures
    losses = {method: figures[method]["sea"].loss for method in settings.methods}
    assert len(set(losses.values())) == len(losses), losses
    after = base.model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], w) for name, w in before.items())


def test_a_comparison_goes_on_from_what_was_kept(
    base: Base, settings: Settings, tmp_path: Path
) -> None:
    two = replace(settings, users=2, rates=(1e-3, 1e-2))
    first = compare(WRITERS, base, replace(two, methods=("ce", "population")), tmp_path, quiet)
    again = compare(WRITERS, base, two, tmp_path, quiet)
    # Seconds are never twice the same, so equal figures were not measured anew.
    assert {m: again.figures[m] for m in first.figures} == first.figures
    assert set(again.figures) == set(two.methods)
    other = replace(two, methods=("ce",), new_tokens=7)
    assert compare(WRITERS, base, other, tmp_path, quiet).figures["ce"] != first.figures["ce"]


def test_other_users_are_asked_for_only_where_needed(
    base: Base, settings: Settings, tmp_path: Path
) -> None:
    own = replace(settings, methods=("ce",))
    assert compare(WRITERS[:1], base, own, tmp_path, quiet).rates == {"ce": [1e-3]}
    for asking in (replace(own, rates=(1e-3, 1e-2)), replace(own, methods=("population",))):
        with pytest.raises(NoTrainingUsers):
            compare(WRITERS[:1], base, asking, tmp_path, quiet)


def test_a_user_whose_texts_do_not_fit_is_named(base: Base, settings: Settings) -> None:
    short = replace(settings, hyper=replace(settings.hyper, max_length=8))
    with pytest.raises(TooFewTexts, match=r"sea .*--max-length"):
        prepare(WRITERS[0], base, short.recipe)


def test_a_text_that_does_not_fit_is_left_out_of_its_own_part(
    base: Base, settings: Settings
) -> None:
    short = replace(settings, hyper=replace(settings.hyper, max_length=60))
    long = writer("a", [*SEA[:2], "word " * 80, *SEA[3:]])
    subject = prepare(long, base, short.recipe)
    assert (len(subject.train), len(subject.test)) == (4, 1)
    assert base.tokenizer.decode(subject.test[0].reply_ids).strip() == SEA[-1]


def test_means_are_over_users_and_the_table_shows_them(
    base: Base, settings: Settings, tmp_path: Path
) -> None:
    two = replace(settings, methods=("base", "ce", "perce"), users=2)
    compared = compare(WRITERS, base, two, tmp_path, quiet)
    result = json.loads(as_json(compared, two))
    each = result["per_user"]
    for measure in MEASURES - {"personal_loss"}:
        own = [each["ce"][name][measure] for name in ("sea", "dog")]
        assert result["methods"]["ce"][measure] == pytest.approx(np.mean(own))
        gaps = [each["perce"][n][measure] - each["ce"][n][measure] for n in ("sea", "dog")]
        assert result["perce_minus_ce"][measure] == pytest.approx(np.mean(gaps))
    table = as_table(compared)
    assert table.row_count == 3
    assert "0.001" in list(table.columns[-1].cells)


def test_a_user_without_personal_tokens_has_no_personal_loss(
    base: Base, settings: Settings, tmp_path: Path
) -> None:
    bare = replace(settings, methods=("rag",), budget=ContextBudget(0, 0))
    compared = compare(WRITERS, base, bare, tmp_path, quiet)
    figures = json.loads(as_json(compared, bare))["methods"]["rag"]
    assert (figures["personal_loss"], figures["personal_loss_ci"]) == (None, None)
    assert compared.personal_share == 0
    assert "-" in list(as_table(compared).columns[2].cells)


def test_a_mean_of_fewer_users_says_of_how_many(settings: Settings) -> None:
    def figures(loss: float) -> dict[str, UserFigures]:
        personal = {"sea": loss + 1, "dog": None, "both": loss}
        return {n: UserFigures(loss, own, 0.1, 0.1, 0.1, 0.0) for n, own in personal.items()}

    compared = Comparison(figures={"ce": figures(3.0), "perce": figures(2.0)})
    result = json.loads(as_json(compared, settings))
    for means in (result["methods"]["ce"], result["perce_minus_ce"]):
        assert (means["loss_users"], means["personal_loss_users"]) == (3, 2)
    assert result["methods"]["ce"]["personal_loss"] == 3.5
    _, loss, personal, *_ = as_table(compared).columns
    assert [cell.splitlines()[0] for cell in map(str, loss.cells)] == ["3.000", "2.000"]
    assert [cell.splitlines()[0] for cell in map(str, personal.cells)] == [
        "3.500 of 2",
        "2.500 of 2",
    ]


def test_choices_are_read_and_refused_by_name() -> None:
    assert methods_of(" perce, base,perce") == ("perce", "base")
    with pytest.raises(BadChoice, match=r"lora.*base, rag, ce, perce, population"):
        methods_of("base,lora")
    with pytest.raises(BadChoice):
        methods_of(" , ")
    assert rates_of("", 3e-3) == pytest.approx((1e-3, 3e-3, 9e-3))
    assert rates_of("1e-4, 2e-4,1e-4", 1.0) == (1e-4, 2e-4)
    with pytest.raises(BadChoice, match="fast"):
        rates_of("fast", 1.0)
    with pytest.raises(BadHyperparameter):
        rates_of("0", 1.0)


def test_the_file_may_be_longlamps(tmp_path: Path) -> None:
    record = {
        "author": "jo",
        "input": "Generate the content for a reddit post Cats",
        "output": "Cats are fine.",
        "profile": [{"summary": "Dogs", "content": "Dogs are loud."}],
    }
    file = tmp_path / "topic.json"
    file.write_text(json.dumps([record]))
    [jo] = read_writers(file, 50)
    assert (jo.name, jo.size) == ("jo", 2)


def test_a_broken_line_ends_the_command_with_its_number(file: Path) -> None:
    with file.open("a") as lines:
        lines.write("{broken\n")
    ran = CliRunner().invoke(app, ["bench", "users", str(file)])
    assert isinstance(ran.exception, UnreadableDataset)
    assert "line 13" in str(ran.exception)
