"""How well the personal words of annotated replies are identified, by each method."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial

from rich.table import Table

from perce.contrasting import Case, Contrasted, contrast_replies
from perce.identification import (
    Identification,
    Identified,
    by_pir,
    by_surprise,
    match_words,
    measure,
)
from perce.judge import judge_messages, judged
from perce.local_scorer import LocalScorer
from perce.pir import PERSONAL_THRESHOLD
from perce.prompt import fact_items
from scripts.attune.bench.annotated import AnnotatedReply
from scripts.attune.bench.base import Base, load_base
from scripts.attune.bench.judge import Judge

Identifier = Callable[[Sequence[AnnotatedReply]], list[Identified]]


@dataclass(frozen=True, slots=True)
class Timed:
    """A method's figures, and the seconds it took for all replies (loading excluded)."""

    figures: Identification
    seconds: float


def identify(
    items: Sequence[AnnotatedReply],
    model: str,
    judge: Judge | None = None,
    controls: bool = False,
) -> dict[str, Timed]:
    """Measure word matching, PerContrast and, where asked for, its controls and a judge.

    Args:
        items: Annotated replies.
        model: Name or folder of the model that PerContrast scores with.
        judge: The judge, if any.
        controls: Measure too what PerContrast must beat to have read the persona: PIR of a
            stranger's persona, and how unlikely words are without any.

    Raises:
        perce.identification.OneKindOfWord: No word is annotated, or every word is.
        BadModelError: The model cannot be loaded.
        scripts.attune.bench.judge.NoVerdict: The judge did not answer.
    """
    # Word matching goes first: what cannot be measured shows before a model is loaded.
    timed = {"word_match": _time(_match, items)}
    base = load_base(model)
    methods: dict[str, Identifier] = {"percontrast": partial(_percontrast, base)}
    if controls:
        methods["other_persona"] = partial(_other_persona, base)
        methods["surprise"] = partial(_surprise, base)
    if judge:
        methods["llm_judge"] = partial(_judge, judge)
    return timed | {name: _time(method, items) for name, method in methods.items()}


def as_json(timed: Mapping[str, Timed]) -> str:
    """The result as one JSON object."""
    figures = {n: {**asdict(t.figures), "seconds": t.seconds} for n, t in timed.items()}
    return json.dumps({"threshold": PERSONAL_THRESHOLD, "methods": figures}, indent=1)


def as_table(timed: Mapping[str, Timed]) -> Table:
    """The result as a table for a terminal."""
    table = Table(title=f"Personal words, PIR > {PERSONAL_THRESHOLD:g}")
    table.add_column("Method")
    for name in ("Precision", "Recall", "F1", "AUROC", "Seconds"):
        table.add_column(name, justify="right")
    for method, t in timed.items():
        f = t.figures
        shown = (f.precision, f.recall, f.f1, f.auroc)
        table.add_row(method, *(f"{value:.3f}" for value in shown), f"{t.seconds:.2f}")
    return table


def _time(method: Identifier, items: Sequence[AnnotatedReply]) -> Timed:
    started = time.perf_counter()
    found = method(items)
    seconds = time.perf_counter() - started
    answers = [item.answer for item in items]
    return Timed(measure(answers, [item.personal for item in items], found), seconds)


def _match(items: Sequence[AnnotatedReply]) -> list[Identified]:
    return [match_words(item.persona, item.answer) for item in items]


def _percontrast(base: Base, items: Sequence[AnnotatedReply]) -> list[Identified]:
    return [by_pir(one.reply, one.tokens) for one in _contrasted(base, items)]


def _other_persona(base: Base, items: Sequence[AnnotatedReply]) -> list[Identified]:
    strangers = [replace(item, persona=_stranger(items, at)) for at, item in enumerate(items)]
    return _percontrast(base, strangers)


def _surprise(base: Base, items: Sequence[AnnotatedReply]) -> list[Identified]:
    return [by_surprise(one.reply, one.tokens) for one in _contrasted(base, items)]


def _stranger(items: Sequence[AnnotatedReply], at: int) -> tuple[str, ...]:
    """The next persona that shares no fact with item `at`'s; none where all do."""
    own = set(items[at].persona)
    following = (*items[at + 1 :], *items[:at])
    return next((i.persona for i in following if own.isdisjoint(i.persona)), ())


def _contrasted(base: Base, items: Sequence[AnnotatedReply]) -> list[Contrasted]:
    longest = base.model.config.get_text_config().max_position_embeddings
    cases = [
        Case([{"role": "user", "content": item.question}], fact_items(item.persona), item.answer)
        for item in items
    ]
    return contrast_replies(LocalScorer(base.model), base.tokenizer, cases, max_length=longest)


def _judge(judge: Judge, items: Sequence[AnnotatedReply]) -> list[Identified]:
    with judge.connected() as ask:
        return [
            judged(item.answer, ask(judge_messages(item.persona, item.question, item.answer)))
            for item in items
        ]
