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
