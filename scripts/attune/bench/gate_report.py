"""Verdicts counted, as JSON and as a table, with Wilson's intervals of the rates."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from math import sqrt
from statistics import NormalDist

from rich.table import Table

from scripts.attune.bench.gate import KINDS, GateSettings, Kind, Outcome

_SHOWN: dict[Kind, str] = {
    "own": "Own texts",
    "other": "Another user's texts, gone on from the own adapter",
    "other_afresh": "Another user's texts, over the own adapter",
    "shuffled": "Own texts, words shuffled",
    "shuffled_over_own": "The same, gone on from the own adapter",
}


def wilson(count: int, of: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a share, which holds for few trials and at 0 % and 100 %."""
    if of == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share, spread = count / of, z**2 / of
    middle = share + spread / 2
    reach = z * sqrt(share * (1 - share) / of + spread / (4 * of))
    return (middle - reach) / (1 + spread), (middle + reach) / (1 + spread)


def as_json(outcomes: Sequence[Outcome], settings: GateSettings) -> str:
    """The result as one JSON object."""
    adapters = {}
    for kind in KINDS:
        decisions = _decisions(outcomes, kind)
        published = decisions.count("publish")
        judged = len(decisions)
        adapters[kind] = {
            "judged": judged,
            "published": published,
            "rejected": judged - published,
            "publish_rate": published / judged if judged else None,
            "publish_rate_ci": wilson(published, judged),
        }
    result = {
        "settings": asdict(settings),
        "users": len({one.user for one in outcomes}),
        "adapters": adapters,
        "verdicts": [asdict(one) for one in outcomes],
    }
    return json.dumps(result, indent=1)


def as_table(outcomes: Sequence[Outcome]) -> Table:
    """The result as a table for a terminal."""
    table = Table(title=f"Verdicts on adapters of {len({one.user for one in outcomes})} users")
    table.add_column("Trained on")
    for heading in ("Judged", "Published", "Rejected", "Rejected, 95 %"):
        table.add_column(heading, justify="right")
    for kind in KINDS:
        decisions = _decisions(outcomes, kind)
        rejected = decisions.count("reject")
        low, high = wilson(rejected, len(decisions))
        counts = (len(decisions), len(decisions) - rejected, rejected)
        table.add_row(_SHOWN[kind], *map(str, counts), f"{low:.0%} to {high:.0%}")
    return table


def _decisions(outcomes: Sequence[Outcome], kind: Kind) -> list[str]:
    return [one.decision for one in outcomes if one.kind == kind]
