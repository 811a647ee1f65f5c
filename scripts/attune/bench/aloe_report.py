"""Judged dialogues as figures, as JSON and as a table.

Means over dialogues come with 95 % bootstrap intervals. A reply whose score could not be
read is left out of them, and counted.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from statistics import fmean
from typing import Any

from rich.table import Table

from perce.bootstrap import Mean, bootstrap_mean
from perce.datasets.aloe import Improvement, improvement, scores_by_turn
from scripts.attune.bench.aloe import Judged, Judgements, Settings


@dataclass(frozen=True, slots=True)
class Figures:
    """How one method's replies were judged.

    Attributes:
        levels: AL(1), AL(2), ...; None for a turn without any score.
        scored: How many scores each of them is the mean of.
        average: Mean of the levels; None where there is no score at all.
        improvement: How the levels grow; None where they have no slope.
        empty: Replies without text; they have the lowest score.
        unparsed: Replies that the judge's answer gave no score.
    """

    levels: tuple[Mean | None, ...]
    scored: tuple[int, ...]
    average: float | None
    improvement: Improvement | None
    empty: int
    unparsed: int

    @classmethod
    def of(cls, dialogues: Sequence[Sequence[Judged]]) -> "Figures":
        """Take the figures of dialogues' replies."""
        scores = scores_by_turn([[one.score for one in own] for own in dialogues])
        levels = tuple(bootstrap_mean(turn) if turn else None for turn in scores)
        known = [level.mean for level in levels if level]
        replies = list(chain.from_iterable(dialogues))
        return cls(
            levels=levels,
            scored=tuple(map(len, scores)),
            average=fmean(known) if known else None,
            improvement=improvement([level.mean if level else None for level in levels]),
            empty=sum(one.empty for one in replies),
            unparsed=sum(one.score is None for one in replies),
        )


def as_json(judgements: Judgements, settings: Settings, judge_model: str) -> str:
    """The result as one JSON object.

    `methods` has each method's levels with their intervals, and what they come to;
    `scores` every score they were taken from, by method, dialogue and turn.
    """
    methods = judgements.by_method
    result = {
        "settings": {**asdict(settings), "judge_model": judge_model},
        "dialogues": len(judgements.base),
        "shortened": judgements.shortened,
        "methods": {name: _named(Figures.of(own)) for name, own in methods.items()},
        "scores": {
            name: [[one.score for one in dialogue] for dialogue in own]
            for name, own in methods.items()
        },
    }
    return json.dumps(result, indent=1)


def as_table(judgements: Judgements) -> Table:
    """The result as a table for a terminal."""
    figures = {name: Figures.of(own) for name, own in judgements.by_method.items()}
    table = Table(title=f"Alignment level, 1 to 5, in {len(judgements.base)} dialogues")
    table.add_column("Turn")
    for name in figures:
        table.add_column(name, justify="right")
    turns = max(len(own.levels) for own in figures.values())
    for turn in range(turns):
        cells = [_level(own.levels[turn], own.scored[turn]) for own in figures.values()]
        table.add_row(str(turn + 1), *cells, end_section=turn == turns - 1)
    for heading, cell in _SUMMARY.items():
        table.add_row(heading, *map(cell, figures.values()))
    if judgements.shortened:
        table.caption = f"{judgements.shortened} turns were too long and lost their oldest turns"
    return table


def _named(figures: Figures) -> dict[str, Any]:
    grown = figures.improvement
    return {
        "turns": [
            {
                "alignment": level.mean if level else None,
                "alignment_ci": [level.low, level.high] if level else None,
                "scored": scored,
            }
            for level, scored in zip(figures.levels, figures.scored, strict=True)
        ],
        "average": figures.average,
        "n_ir": grown.rate if grown else None,
        "n_r2": grown.r_squared if grown else None,
        "empty": figures.empty,
        "unparsed": figures.unparsed,
    }


def _level(level: Mean | None, scored: int) -> str:
    if level is None:
        return "-"
    return f"{level.mean:.2f} [{level.low:.2f}, {level.high:.2f}] of {scored}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


_SUMMARY: dict[str, Callable[[Figures], str]] = {
    "Average": lambda own: _number(own.average),
    "N-IR": lambda own: _number(own.improvement.rate if own.improvement else None),
    "N-R²": lambda own: _number(own.improvement.r_squared if own.improvement else None),
    "Empty replies, scored 1": lambda own: str(own.empty),
    "Without a readable score": lambda own: str(own.unparsed),
}
