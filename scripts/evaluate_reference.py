"""Measure a model on unseen people and on held-out ConvAI2 conversations.

    python -m scripts.evaluate_reference --model perce/reference --data DATA

Prints one JSON object: `people`, `right`, `right_without` and `pir` over unseen people (see
`scripts.reference.evaluation`), the same for questions whose answer is copied and those whose
answer follows, and `convai2`: nats per answer token with and without the persona.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from transformers import Qwen3ForCausalLM

from perce.prompt import ContextItem, prompt_pair
from scripts.persona.dialogue import Conversation, convai2
from scripts.reference.batches import Encoder
from scripts.reference.evaluation import probes, read, score
from scripts.reference.tokenizer import load_tokenizer


def main() -> None:
    """Evaluate and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True, help="folder with dialogue/")
    parser.add_argument("--people", type=int, default=500)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model = Qwen3ForCausalLM.from_pretrained(args.model, dtype=torch.float32)
    encoder = Encoder(load_tokenizer(args.model))
    people = probes(args.people)
    copied = [p for p in people if p.kind == "copied"]
    following = [p for p in people if p.kind == "following"]
    figures = {
        **asdict(read(model, encoder, people)),
        "copied": asdict(read(model, encoder, copied)),
        "following": asdict(read(model, encoder, following)),
        "convai2": conversation_loss(model, encoder, convai2(args.data, held_out=True)),
    }
    sys.stdout.write(json.dumps(figures, indent=1) + "\n")


def conversation_loss(
    model: Qwen3ForCausalLM, encoder: Encoder, conversations: Sequence[Conversation]
) -> dict[str, float]:
    """Loss per answer token of whole conversations, with and without persona."""
    with_persona, without = [], []
    for conversation in conversations:
        facts = [ContextItem("fact", fact) for fact in conversation.facts]
        pair = prompt_pair(conversation.messages, facts)
        with_persona.append(score(model, encoder, pair.with_persona))
        without.append(score(model, encoder, pair.without_persona))
    return {
        "conversations": len(conversations),
        "loss": -float(torch.cat(with_persona).mean()),
        "loss_without": -float(torch.cat(without).mean()),
    }


if __name__ == "__main__":
    main()
