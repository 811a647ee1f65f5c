"""How well the personal words of annotated replies are identified, by each method."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

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
from perce.pir import PERSONAL_THRESHOLD, TokenPIR
from perce.prompt import fact_items
from scripts.attune.bench.annotated import AnnotatedReply
from scripts.attune.bench.base import Base, load_base
from scripts.attune.bench.judge import Judge

Finder = Callable[[str, Sequence[TokenPIR]], Identified]


@dataclass(frozen=True, slots=True)
class Timed:
    """A method's figures, and the seconds it took for all replies (loading excluded).

    Methods that read the same passes of the model took the same seconds.
    """

    figures: Identification
    seconds: float


@dataclass(frozen=True, slots=True)
class Scored:
    """Replies with their tokens' PIR, and the seconds that the passes took."""

    replies: list[Contrasted]
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
    timed = {"word_match": _match(items)}
    base = load_base(model)
    scored = _score(base, items)
    timed["percontrast"] = _found(items, scored, by_pir)
    if controls:
        strangers = [replace(item, persona=_stranger(items, at)) for at, item in enumerate(items)]
        timed["other_persona"] = _found(items, _score(base, strangers), by_pir)
        timed["surprise"] = _found(items, scored, by_surprise)
    if judge:
        timed["llm_judge"] = _judge(judge, items)
    return timed


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


def _match(items: Sequence[AnnotatedReply]) -> Timed:
    started = time.perf_counter()
    found = [match_words(item.persona, item.answer) for item in items]
    return _measured(items, found, time.perf_counter() - started)


def _found(items: Sequence[AnnotatedReply], scored: Scored, find: Finder) -> Timed:
    found = [find(one.reply, one.tokens) for one in scored.replies]
    return _measured(items, found, scored.seconds)


def _measured(
    items: Sequence[AnnotatedReply], found: Sequence[Identified], seconds: float
) -> Timed:
    answers = [item.answer for item in items]
    return Timed(measure(answers, [item.personal for item in items], found), seconds)


def _stranger(items: Sequence[AnnotatedReply], at: int) -> tuple[str, ...]:
    """The next persona that shares no fact with item `at`'s; none where all do."""
    own = set(items[at].persona)
    following = (*items[at + 1 :], *items[:at])
    return next((i.persona for i in following if own.isdisjoint(i.persona)), ())


def _score(base: Base, items: Sequence[AnnotatedReply]) -> Scored:
    started = time.perf_counter()
    longest = base.model.config.get_text_config().max_position_embeddings
    cases = [
        Case([{"role": "user", "content": item.question}], fact_items(item.persona), item.answer)
        for item in items
    ]
    scorer = LocalScorer(base.model)
    replies = contrast_replies(scorer, base.tokenizer, cases, max_length=longest)
    return Scored(replies, time.perf_counter() - started)


def _judge(judge: Judge, items: Sequence[AnnotatedReply]) -> Timed:
    started = time.perf_counter()
    with judge.connected() as ask:
        found = [
            judged(item.answer, ask(judge_messages(item.persona, item.question, item.answer)))
            for item in items
        ]
    return _measured(items, found, time.perf_counter() - started)
