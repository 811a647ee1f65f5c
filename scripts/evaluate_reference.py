"""Measure a reference model, by parts; figures go to standard output as one JSON object.

    python -m scripts.evaluate_reference --data DATA --part people perplexity
    python -m scripts.evaluate_reference --data DATA --part chats --transcript chats.md

`people`: right answers of unseen people, with and without their persona. `perplexity`: by
source, beside an n-gram baseline. `chats`: the transcript, and loops in ten-turn chats.
`voices` and `abstracts`: what a fresh adapter gains on held-out voices and on real users.
"""

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from transformers import Qwen3ForCausalLM

from perce.datasets.writers import Writer
from perce.hyperparameters import Hyperparameters, rate_for_width
from scripts.attune.bench.base import load_base
from scripts.attune.up.demo import read_personas
from scripts.persona.dialogue import PersonaChat
from scripts.reference.adaptation import gain, invented_writers, real_writers, summary
from scripts.reference.conversations import ask_people, ten_turns, transcript
from scripts.reference.encoding import Encoder
from scripts.reference.evaluation import ask, probes, read
from scripts.reference.perplexity import NgramBaseline, source_losses
from scripts.reference.tokenizer import load_tokenizer

ROOT = Path(__file__).parents[1]
_NGRAM_TOKENS = 2_000_000


class Evaluation:
    """The parts, over one loaded model."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.model = Qwen3ForCausalLM.from_pretrained(args.model, dtype=torch.float32).eval()
        self.encoder = Encoder(load_tokenizer(args.model))

    def people(self) -> dict[str, Any]:
        """Answers of unseen people: all, and by how they tell of themselves."""
        probed = ask(self.model, self.encoder, probes(self.args.people))
        groups = {"all": probed}
        for kind in ("plain", "copied", "following"):
            groups[kind] = [one for one in probed if one.kind == kind]
        return {name: asdict(read(own)) for name, own in groups.items()}

    def perplexity(self) -> dict[str, Any]:
        """Perplexity by source."""
        baseline = NgramBaseline(self.args.data, self.encoder, _NGRAM_TOKENS)
        losses = source_losses(self.model, self.encoder, baseline, self.args.data)
        return {name: loss.perplexities() for name, loss in losses.items()}

    def chats(self) -> dict[str, Any]:
        """Sampled answers and ten-turn chats; the text goes to `--transcript`."""
        asked = ask_people(self.model, self.encoder, PersonaChat.read(self.args.data).held_out)
        chats = ten_turns(self.model, self.encoder, read_personas())
        if self.args.transcript:
            self.args.transcript.write_text(transcript(asked, chats), encoding="utf-8")
        return {
            chat.name: {
                "replies": len(chat.turns),
                "ended": chat.ended,
                "looped": chat.looped,
                "repeated": chat.repeated,
            }
            for chat in chats
        }

    def voices(self) -> dict[str, Any]:
        """Fresh adapters on held-out voices."""
        return self._adapted(invented_writers(self.args.writers))

    def abstracts(self) -> dict[str, Any]:
        """Fresh adapters on real users, who write scientific abstracts."""
        file = self.args.data / "users" / "abstracts.jsonl.gz"
        return self._adapted(real_writers(file, self.args.writers))

    def _adapted(self, writers: list[Writer]) -> dict[str, Any]:
        base = load_base(str(self.args.model))
        hyper = Hyperparameters(learning_rate=rate_for_width(base.model.config.hidden_size))
        gains = [gain(base, writer, hyper) for writer in writers]
        return {**summary(gains), "each": [asdict(one) for one in gains]}


PARTS: Mapping[str, Callable[[Evaluation], dict[str, Any]]] = {
    "people": Evaluation.people,
    "perplexity": Evaluation.perplexity,
    "chats": Evaluation.chats,
    "voices": Evaluation.voices,
    "abstracts": Evaluation.abstracts,
}


def main() -> None:
    """Evaluate and print."""
    args = _arguments()
    torch.set_num_threads(args.threads)
    evaluation = Evaluation(args)
    figures = {name: PARTS[name](evaluation) for name in args.part}
    sys.stdout.write(json.dumps(figures, indent=1) + "\n")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, default=ROOT / "perce" / "reference")
    parser.add_argument("--data", type=Path, required=True, help="the data folder")
    parser.add_argument("--part", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--people", type=int, default=500)
    parser.add_argument("--writers", type=int, default=20)
    parser.add_argument("--transcript", type=Path, help="Markdown file for the conversations")
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


if __name__ == "__main__":
    main()
