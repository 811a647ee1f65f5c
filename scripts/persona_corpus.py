"""Write examples of the training mix to a file, and say how varied they are.

    python -m scripts.persona_corpus --data DATA --examples 10000 --out corpus.jsonl

Training makes its examples on the fly; this shows them. One JSON object a line:
`{"kind", "messages", "context": [{"kind", "text", "query"}]}`.
"""

import argparse
import json
import sys
from collections import Counter
from dataclasses import asdict
from pathlib import Path

from scripts.persona.mix import FURTHER, STAGES, Mix
from scripts.persona.variety import unique_share

_STAGES = (*STAGES, *FURTHER)
"""Those of a run from scratch, then those of one that goes on from a model."""


def main() -> None:
    """Write the corpus and print its figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with dialogue/")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--examples", type=int, default=10_000)
    parser.add_argument(
        "--stage", type=int, default=len(_STAGES), choices=range(1, 1 + len(_STAGES))
    )
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    figures = write_corpus(args.data, args.out, args.examples, args.stage, args.seed)
    sys.stdout.write(json.dumps(figures, indent=1) + "\n")


def write_corpus(
    data: Path, out: Path, examples: int, stage: int, seed: int
) -> dict[str, float | dict[str, int]]:
    """Write examples of a stage; returns their kinds and their share of distinct n-grams."""
    mix = Mix(data, seed)
    kinds: Counter[str] = Counter()
    answers: list[str] = []
    with out.open("w", encoding="utf-8") as file:
        for number in range(examples):
            example = mix.example(_STAGES[stage - 1], number)
            kinds[example.kind] += 1
            answers += [m["content"] for m in example.messages if m["role"] == "assistant"]
            record = {
                "kind": example.kind,
                "messages": example.messages,
                "context": [asdict(item) for item in example.context],
            }
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
    shares = {f"distinct_{n}_grams_of_answers": unique_share(answers, n) for n in (3, 5, 8)}
    return {"kinds": dict(kinds), "answers": len(answers), **shares}


if __name__ == "__main__":
    main()
