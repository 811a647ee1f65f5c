"""`attune bench`: measurements on a model in this process, without a running gateway.

The benchmarks themselves are imported when they are run: they bring torch, which no other
command has to wait for.
"""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from scripts.attune.session import AsJson

REFERENCE = Path(__file__).parents[3] / "perce" / "reference"

app = typer.Typer(help="Measure the method on a local model.", no_args_is_help=True)


@app.callback()
def bench() -> None:
    """Measure the method on a local model."""


@app.command()
def pir(
    file: Annotated[
        Path, typer.Argument(exists=True, dir_okay=False, help="Annotated replies, JSON lines.")
    ],
    model: Annotated[str, typer.Option(help="Model that scores: a name or a folder.")] = str(
        REFERENCE
    ),
    only: Annotated[str, typer.Option(help="Take only ids that start with this.")] = "",
    judge: Annotated[
        str, typer.Option(metavar="URL", help="LLM as judge, OpenAI-compatible: http://HOST/v1.")
    ] = "",
    judge_model: Annotated[str, typer.Option(help="Name of the judge's model there.")] = "",
    judge_key: Annotated[
        str, typer.Option(envvar="OPENAI_API_KEY", help="Key of that endpoint.")
    ] = "none",
    as_json: AsJson = False,
) -> None:
    """Identify personal words: word matching, PerContrast and, where given, a judge."""
    from scripts.attune.bench import pir as benchmark
    from scripts.attune.bench.annotated import read_annotated

    if judge and not judge_model:
        raise typer.BadParameter("Name the judge's model too.", param_hint="--judge-model")
    asked = benchmark.Judge(judge, judge_model, judge_key) if judge else None
    timed = benchmark.identify(read_annotated(file, only), model, asked)
    if as_json:
        typer.echo(benchmark.as_json(timed))
    else:
        Console().print(benchmark.as_table(timed))


@app.command()
def users(
    file: Annotated[
        Path,
        typer.Argument(exists=True, dir_okay=False, help="Users' texts, or a task of LongLaMP."),
    ],
    count: Annotated[int, typer.Option("--users", min=1, help="Users to evaluate.")] = 20,
    methods: Annotated[
        str, typer.Option(help="Of base, rag, ce, perce, population.")
    ] = "base,rag,ce,perce",
    model: Annotated[str, typer.Option(help="Base model: a name or a folder.")] = str(REFERENCE),
    rates: Annotated[
        str, typer.Option(help="Learning rates to choose from; default: around the model's own.")
    ] = "",
    training_users: Annotated[
        int, typer.Option(min=1, help="Other users, for the rates and for population.")
    ] = 6,
    texts: Annotated[int, typer.Option(min=2, help="Newest texts taken of each user.")] = 50,
    new_tokens: Annotated[int, typer.Option(min=1, help="Most tokens of a generated text.")] = 200,
    context_tokens: Annotated[int, typer.Option(min=0, help="Most tokens of a context.")] = 384,
    context_texts: Annotated[int, typer.Option(min=0, help="Most texts in a context.")] = 3,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over a user's texts.")] = 3,
    max_length: Annotated[int, typer.Option(min=1, help="Longest example in tokens.")] = 2048,
    as_json: AsJson = False,
) -> None:
    """Compare methods of personalization on each user's newest texts."""
    from adapt.dataset import ContextBudget
    from perce.hyperparameters import Hyperparameters, rate_for_width
    from perce.wordnet import wordnet
    from scripts.attune.bench.base import load_base
    from scripts.attune.bench.users import report
    from scripts.attune.bench.users.comparison import compare
    from scripts.attune.bench.users.settings import Settings, methods_of, rates_of
    from scripts.attune.bench.users.subject import read_writers

    chosen = methods_of(methods)
    writers = read_writers(file, texts)
    wordnet()  # METEOR would miss it only after the first user's training
    base = load_base(model)
    settings = Settings(
        methods=chosen,
        users=count,
        training_users=training_users,
        rates=rates_of(rates, rate_for_width(base.model.config.get_text_config().hidden_size)),
        new_tokens=new_tokens,
        budget=ContextBudget(context_tokens, context_texts),
        hyper=Hyperparameters(epochs=epochs, max_length=max_length),
    )
    compared = compare(writers, base, settings, Console(stderr=True).print)
    if as_json:
        typer.echo(report.as_json(compared, settings))
    else:
        Console().print(report.as_table(compared))
