"""A comparison as JSON and as a table: means over users with 95 % bootstrap intervals."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

from rich.table import Table

from perce.bootstrap import Mean, bootstrap_mean
from scripts.attune.bench.users.comparison import Comparison
from scripts.attune.bench.users.measure import UserFigures
from scripts.attune.bench.users.settings import Settings

MEASURES = tuple(field.name for field in fields(UserFigures))
_HEADINGS = ("Loss", "Personal loss", "ROUGE-1", "ROUGE-L", "METEOR", "Seconds")


def as_json(comparison: Comparison, settings: Settings) -> str:
    """The result as one JSON object.

    `methods` has each method's means and, under the name with `_ci`, the interval's ends and,
    under that with `_users`, over how many users; `perce_minus_ce` the mean of each user's
    difference, where both ran; `per_user` all that these were taken from.
    """
    figures = comparison.figures
    chosen = asdict(settings)
    del chosen["hyper"]["learning_rate"]  # each method has its own
    result: dict[str, Any] = {
        "settings": chosen,
        "users": len(next(iter(figures.values()))),
        "texts": comparison.texts,
        "personal_share": comparison.personal_share,
        "methods": {
            method: {
                **_summary(own),
                "learning_rates": sorted(set(comparison.rates.get(method, []))),
            }
            for method, own in figures.items()
        },
        "rate_trials": [asdict(trial) for trial in comparison.trials],
        "per_user": {
            method: {user: asdict(one) for user, one in own.items()}
            for method, own in figures.items()
        },
    }
    if "ce" in figures and "perce" in figures:
        result["perce_minus_ce"] = _differences(figures["perce"], figures["ce"])
    return json.dumps(result, indent=1)


def as_table(comparison: Comparison) -> Table:
    """The result as a table for a terminal."""
    table = Table(title=f"Held-out texts of {len(next(iter(comparison.figures.values())))} users")
    table.add_column("Method")
    for heading in (*_HEADINGS, "Rate"):
        table.add_column(heading, justify="right")
    for method, own in comparison.figures.items():
        rates = sorted(set(comparison.rates.get(method, [])))
        shown = (_shown(_values(own, measure), len(own)) for measure in MEASURES)
        table.add_row(method, *shown, ", ".join(f"{rate:.2g}" for rate in rates) or "-")
    return table


def _summary(own: Mapping[str, UserFigures]) -> dict[str, Any]:
    return _named({measure: _values(own, measure) for measure in MEASURES})


def _differences(
    first: Mapping[str, UserFigures], second: Mapping[str, UserFigures]
) -> dict[str, Any]:
    differences = {}
    for measure in MEASURES:
        pairs = [(getattr(first[user], measure), getattr(second[user], measure)) for user in first]
        differences[measure] = [a - b for a, b in pairs if a is not None and b is not None]
    return _named(differences)


def _named(values: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    named: dict[str, Any] = {}
    for measure, own in values.items():
        mean = _mean(own)
        named[measure] = mean.mean if mean else None
        named[f"{measure}_ci"] = [mean.low, mean.high] if mean else None
        named[f"{measure}_users"] = len(own)
    return named


def _values(own: Mapping[str, UserFigures], measure: str) -> list[float]:
    values = (getattr(one, measure) for one in own.values())
    return [value for value in values if value is not None]


def _mean(values: Sequence[float]) -> Mean | None:
    return bootstrap_mean(values) if values else None


def _shown(values: Sequence[float], users: int) -> str:
    """A cell; it says where not all users have a value."""
    mean = _mean(values)
    if mean is None:
        return "-"
    of = f" of {len(values)}" if len(values) < users else ""
    return f"{mean.mean:.3f}{of}\n[{mean.low:.3f}, {mean.high:.3f}]"
