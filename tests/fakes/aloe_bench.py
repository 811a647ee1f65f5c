"""The command `attune bench aloe`, and dialogues for it."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from typer.testing import CliRunner, Result

from scripts.attune.main import app

NEW_TOKENS = 6


def dialogue(name: str, *messages: str) -> dict[str, Any]:
    turns = [
        {
            "user": message,
            "assistant": {"preferred": f"Yes, {name} {n}.", "rejected": f"No, {name} {n}."},
            "chosen": ("preferred", "rejected")[n % 2],
        }
        for n, message in enumerate(messages)
    ]
    return {
        "profile": f"{name} brews beer.",
        "personality": f"{name} is witty.",
        "conversations": turns,
    }


ADA = dialogue("Ada", "Hi!", "My hops died.", "What now?")
BOB = dialogue("Bob", "Hello.", "I ran.")


@dataclass
class Bench:
    """`attune bench aloe` on a model, with a judge."""

    model: Path
    folder: Path
    url: str

    def __call__(self, dialogues: Sequence[object], *options: str) -> Result:
        file = self.folder / "aloe.jsonl"
        file.write_text("".join(json.dumps(record) + "\n" for record in dialogues))
        where = ["--judge-url", self.url, "--judge-model", "big", "--model", str(self.model)]
        arguments = ["bench", "aloe", str(file), *where, "--new-tokens", str(NEW_TOKENS)]
        return CliRunner().invoke(app, [*arguments, *options], env={"COLUMNS": "90"})

    def json(self, dialogues: Sequence[object], *options: str) -> Any:  # noqa: ANN401 - JSON
        ran = self(dialogues, "--json", *options)
        assert ran.exit_code == 0, ran.output
        return json.loads(ran.stdout)
