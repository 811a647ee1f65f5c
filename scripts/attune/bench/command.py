"""`attune bench`: measurements on a model in this process, without a running gateway.

The benchmarks themselves are imported when they are run: they bring torch, which no other
command has to wait for.
"""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from scripts.attune.bench.options import (
    REFERENCE,
    Autocast,
    ContextTexts,
    ContextTokens,
    Device,
    Dtype,
    Epochs,
    JudgeKey,
    MaxLength,
    Model,
    PromptTokens,
    ReplyTokens,
    Shape,
    WithoutTokens,
    Work,
)
from scripts.attune.bench.progress import say
from scripts.attune.session import AsJson

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
    controls: Annotated[
        bool,
        typer.Option("--controls", help="Also with a stranger's persona, and by surprise alone."),
    ] = False,
    judge: Annotated[
        str, typer.Option(metavar="URL", help="LLM as judge, OpenAI-compatible: http://HOST/v1.")
    ] = "",
    judge_model: Annotated[str, typer.Option(help="Name of the judge's model there.")] = "",
    judge_key: JudgeKey = "none",
    as_json: AsJson = False,
) -> None:
    """Identify personal words: word matching, PerContrast and, where given, a judge."""
    from scripts.attune.bench import pir as benchmark
    from scripts.attune.bench.annotated import read_annotated
    from scripts.attune.bench.judge import Judge

    if judge and not judge_model:
        raise typer.BadParameter("Name the judge's model too.", param_hint="--judge-model")
    asked = Judge(judge, judge_model, judge_key) if judge else None
    timed = benchmark.identify(read_annotated(file, only), model, asked, controls)
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
        str, typer.Option(help="Of base, rag, ce, perce, population, population_perce.")
    ] = "base,rag,ce,perce",
    model: Model = str(REFERENCE),
    rates: Annotated[
        str, typer.Option(help="Learning rates to choose from; default: around the model's own.")
    ] = "",
    training_users: Annotated[
        int, typer.Option(min=1, help="Most other users, for the learning rates.")
    ] = 6,
    population_users: Annotated[
        int, typer.Option(min=1, help="Most other users, for the population adapter.")
    ] = 24,
    texts: Annotated[int, typer.Option(min=2, help="Newest texts taken of each user.")] = 50,
    new_tokens: Annotated[int, typer.Option(min=1, help="Most tokens of a generated text.")] = 200,
    context_tokens: ContextTokens = 384,
    context_texts: ContextTexts = 3,
    epochs: Epochs = 3,
    batch: Annotated[int, typer.Option(min=1, help="Examples of an optimizer step.")] = 4,
    group_size: Annotated[int, typer.Option(min=1, help="Texts that share a context.")] = 1,
    max_length: MaxLength = 2048,
    work: Work = None,
    as_json: AsJson = False,
) -> None:
    """Compare methods of personalization on each user's newest texts."""
    from adapt.dataset import ContextBudget
    from perce.hyperparameters import Hyperparameters, rate_for_width
    from perce.wordnet import wordnet
    from scripts.attune.bench.base import load_base
    from scripts.attune.bench.kept import workplace
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
        population_users=population_users,
        rates=rates_of(rates, rate_for_width(base.model.config.get_text_config().hidden_size)),
        new_tokens=new_tokens,
        budget=ContextBudget(context_tokens, context_texts),
        hyper=Hyperparameters(
            epochs=epochs, batch_size=batch, group_size=group_size, max_length=max_length
        ),
    )
    with workplace(work) as place:
        compared = compare(writers, base, settings, place, say)
    if as_json:
        typer.echo(report.as_json(compared, settings))
    else:
        Console().print(report.as_table(compared))


@app.command()
def aloe(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="ALOE's dialogues.")],
    judge_url: Annotated[
        str, typer.Option(metavar="URL", help="LLM as judge, OpenAI-compatible: http://HOST/v1.")
    ],
    judge_model: Annotated[str, typer.Option(help="Name of the judge's model there.")],
    judge_key: JudgeKey = "none",
    at_once: Annotated[int, typer.Option(min=1, help="Questions to the judge at a time.")] = 8,
    model: Model = str(REFERENCE),
    count: Annotated[int, typer.Option("--users", min=1, help="Dialogues to take.")] = 20,
    new_tokens: Annotated[int, typer.Option(min=1, help="Most tokens of a reply.")] = 200,
    as_json: AsJson = False,
) -> None:
    """Have a judge score replies turn by turn, with the user's persona and without."""
    from perce.datasets.aloe import read_aloe
    from scripts.attune.bench import aloe as benchmark
    from scripts.attune.bench import aloe_report as report
    from scripts.attune.bench.base import load_base
    from scripts.attune.bench.judge import Judge

    judge = Judge(judge_url, judge_model, judge_key)
    dialogues = read_aloe(file)[:count]
    settings = benchmark.Settings(new_tokens, at_once)
    judged = benchmark.judge_dialogues(dialogues, load_base(model), judge, settings, say)
    if as_json:
        typer.echo(report.as_json(judged, settings, judge_model))
    else:
        Console().print(report.as_table(judged))


@app.command()
def step(
    prompt: PromptTokens = 1364,
    without: WithoutTokens = 96,
    reply: ReplyTokens = 200,
    batch: Annotated[int, typer.Option(min=1, help="Examples of a step.")] = 4,
    group_size: Annotated[int, typer.Option(min=1, help="Examples that share a persona.")] = 1,
    pairs: Annotated[int, typer.Option(min=1, help="Steps of each kind that are timed.")] = 10,
    model: Model = str(REFERENCE),
    config: Shape = None,
    device: Device = "",
    dtype: Dtype = None,
    autocast: Autocast = False,
    as_json: AsJson = False,
) -> None:
    """Time a PerCE step against a cross-entropy step, and print the floor of their ratio."""
    from perce.hyperparameters import Hyperparameters
    from scripts.attune.bench import step as benchmark
    from scripts.attune.bench.speed import Lengths, Machine, open_model

    machine = Machine.named(device, dtype, autocast)
    hyper = Hyperparameters(
        epochs=1, batch_size=batch, group_size=group_size, autocast=autocast, warmup=0.0
    )
    base = open_model(model, config, machine)
    times = benchmark.measure(base, Lengths(prompt, without, reply), hyper, pairs)
    if as_json:
        typer.echo(benchmark.as_json(times))
    else:
        Console().print(benchmark.as_table(times, str(machine)))


@app.command()
def refresh(
    count: Annotated[int, typer.Option("--users", min=1, help="Users to refresh.")] = 3,
    texts: Annotated[int, typer.Option(min=1, help="Training texts of each.")] = 40,
    prompt: PromptTokens = 1364,
    without: WithoutTokens = 96,
    reply: ReplyTokens = 200,
    epochs: Epochs = 3,
    batch: Annotated[int, typer.Option(min=1, help="Examples of an optimizer step.")] = 8,
    plain_batch: Annotated[
        int, typer.Option(min=1, help="Examples that the plain loop puts forward together.")
    ] = 4,
    group_size: Annotated[int, typer.Option(min=1, help="Examples that share a persona.")] = 8,
    alone: Annotated[
        float | None,
        typer.Option(
            min=0.0, max=1.0, help="Group by time, with this share of the texts left alone."
        ),
    ] = None,
    model: Model = str(REFERENCE),
    config: Shape = None,
    device: Device = "",
    dtype: Dtype = None,
    autocast: Autocast = False,
    as_json: AsJson = False,
) -> None:
    """Count users refreshed per hour, by a plain PEFT loop and by ours."""
    from perce.hyperparameters import Hyperparameters, rate_for_width
    from scripts.attune.bench import refresh as benchmark
    from scripts.attune.bench.speed import Lengths, Machine, open_model

    machine = Machine.named(device, dtype, autocast)
    base = open_model(model, config, machine)
    hyper = Hyperparameters(
        epochs=epochs,
        batch_size=batch,
        group_size=group_size,
        autocast=autocast,
        learning_rate=rate_for_width(base.config.get_text_config().hidden_size),
    )
    users = benchmark.Users(count, texts, Lengths(prompt, without, reply), alone)
    speeds = benchmark.measure(base, users, hyper, plain_batch)
    if as_json:
        typer.echo(benchmark.as_json(speeds))
    else:
        Console().print(benchmark.as_table(speeds, str(machine)))


@app.command()
def gate(
    file: Annotated[
        Path,
        typer.Argument(exists=True, dir_okay=False, help="Users' texts, or a task of LongLaMP."),
    ],
    count: Annotated[int, typer.Option("--users", min=2, help="Users to take.")] = 20,
    model: Model = str(REFERENCE),
    texts: Annotated[int, typer.Option(min=5, help="Newest texts taken of each user.")] = 40,
    context_tokens: ContextTokens = 384,
    context_texts: ContextTexts = 3,
    epochs: Epochs = 3,
    max_length: MaxLength = 2048,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 1,
    work: Work = None,
    as_json: AsJson = False,
) -> None:
    """Put adapters through the gate: of the user's own texts, another's, and shuffled words."""
    from adapt.dataset import ContextBudget
    from adapt.thresholds import GateThresholds
    from perce.hyperparameters import Hyperparameters, rate_for_width
    from perce.model import hidden_size
    from perce.retrieval import Encoder
    from scripts.attune.bench import gate as benchmark
    from scripts.attune.bench import gate_report as report
    from scripts.attune.bench.base import load_named
    from scripts.attune.bench.kept import workplace
    from scripts.attune.bench.users.subject import read_writers

    writers = read_writers(file, texts)[:count]
    width = load_named(model, hidden_size)
    trainer = benchmark.load_trainer(model, threads)
    settings = benchmark.GateSettings(
        texts,
        ContextBudget(context_tokens, context_texts),
        Hyperparameters(epochs=epochs, max_length=max_length, learning_rate=rate_for_width(width)),
        GateThresholds(),
    )
    with workplace(work) as place:
        bench = benchmark.GateBench(writers, Encoder(), trainer, settings, place)
        outcomes = bench.run(say)
    if as_json:
        typer.echo(report.as_json(outcomes, settings))
    else:
        Console().print(report.as_table(outcomes))
