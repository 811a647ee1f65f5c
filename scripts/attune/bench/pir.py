"""How well the personal words of annotated replies are identified, by each method."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

from rich.table import Table

from perce.contrasting import Case, contrast_replies
from perce.identification import Identification, Identified, by_pir, match_words, measure
from perce.judge import judge_messages, judged
from perce.local_scorer import LocalScorer
from perce.pir import PERSONAL_THRESHOLD
from perce.prompt import fact_items
from scripts.attune.bench.annotated import AnnotatedReply
from scripts.attune.bench.base import load_base
from scripts.attune.bench.judge import Judge

Identifier = Callable[[Sequence[AnnotatedReply]], list[Identified]]


@dataclass(frozen=True, slots=True)
class Timed:
    """A method's figures, and the seconds it took for all replies (loading excluded)."""

    figures: Identification
    seconds: float


def identify(
    items: Sequence[AnnotatedReply], model: str, judge: Judge | None = None
) -> dict[str, Timed]:
    """Measure word matching, PerContrast and, where given, a judge.

    Args:
        items: Annotated replies.
        model: Name or folder of the model that PerContrast scores with.
        judge: The judge, if any.

    Raises:
        perce.identification.OneKindOfWord: No word is annotated, or every word is.
        BadModelError: The model cannot be loaded.
        scripts.attune.bench.judge.NoVerdict: The judge did not answer.
    """
    # Word matching goes first: what cannot be measured shows before a model is loaded.
    timed = {"word_match": _time(_match, items)}
    methods = {"percontrast": _percontrast(model)}
    if judge:
        methods["llm_judge"] = _judge(judge)
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


def _percontrast(model: str) -> Identifier:
    base = load_base(model)
    scorer = LocalScorer(base.model)
    longest = base.model.config.get_text_config().max_position_embeddings

    def find(items: Sequence[AnnotatedReply]) -> list[Identified]:
        cases = [
            Case(
                [{"role": "user", "content": item.question}],
                fact_items(item.persona),
                item.answer,
            )
            for item in items
        ]
        scored = contrast_replies(scorer, base.tokenizer, cases, max_length=longest)
        return [by_pir(item.answer, own.tokens) for item, own in zip(items, scored, strict=True)]

    return find


def _judge(judge: Judge) -> Identifier:
    def find(items: Sequence[AnnotatedReply]) -> list[Identified]:
        with judge.connected() as ask:
            return [
                judged(item.answer, ask(judge_messages(item.persona, item.question, item.answer)))
                for item in items
            ]

    return find
