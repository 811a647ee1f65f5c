"""Train the embedded reference model from data folders: tokenizer, weights, figures.

    python -m scripts.train_reference --data DATA --work WORK --out perce/reference

An interrupted run goes on from its checkpoint in WORK. With `--tokens` below what the
checkpoint was meant for, the learning rate falls to zero sooner. A finished model is trained
further with `--from`, on a mix of its own; with `--share` what comes out is an average of it
and the model that it was before.
"""

import argparse
import copy
import json
import random
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen3ForCausalLM

from scripts.persona.mix import FURTHER, STAGES, Mix
from scripts.reference.averaging import go_back
from scripts.reference.curve import plot_loss
from scripts.reference.encoding import Encoder
from scripts.reference.evaluation import ask, probes, read
from scripts.reference.tokenizer import load_tokenizer, train_tokenizer
from scripts.reference.training import Progress, Run, Trainer, new_model

VOCABULARY = 2560
_TOKENIZER_PASSAGES = 2_000


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, and write the model folder.

    Args:
        arguments: The command line without the program's name; None takes the process's own.
    """
    args = _arguments(arguments)
    torch.set_num_threads(args.threads)
    args.work.mkdir(parents=True, exist_ok=True)
    mix = Mix(args.data, args.seed)
    encoder = Encoder(load_tokenizer(args.start) if args.start else _tokenizer(mix, args.work))
    run = Run(
        tokens=args.tokens,
        stages=FURTHER if args.start else STAGES,
        learning_rate=args.rate,
        weight_decay=args.weight_decay,
        seed=args.seed,
        minutes=args.minutes,
        compiled=args.compile,
    )
    model = _trained_model(args.start) if args.start else new_model(VOCABULARY, args.seed)
    trainer = Trainer(model, encoder, mix, run, args.work, args.device)
    trainer.resume()
    people = probes(args.people)

    def report(progress: Progress) -> None:
        figures = {**asdict(progress), **asdict(read(ask(model, encoder, people)))}
        sys.stdout.write(json.dumps(figures) + "\n")
        sys.stdout.flush()
        save_model(model, encoder.tokenizer, args.out)

    trainer.train(report, args.every)
    if args.start and args.share != 1:
        go_back(model, _trained_model(args.start), args.share)
        save_model(model, encoder.tokenizer, args.out)
    if args.plot:
        plot_loss(args.work / "loss.jsonl", args.plot)


def save_model(model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """Write weights in bfloat16, tokenizer, chat template and generation settings."""
    rounded = copy.deepcopy(model).to(torch.bfloat16)
    rounded.generation_config = GenerationConfig(
        eos_token_id=[tokenizer.eos_token_id, tokenizer.pad_token_id],
        pad_token_id=tokenizer.pad_token_id,
        do_sample=True,
        temperature=0.4,
    )
    rounded.save_pretrained(out)
    tokenizer.save_pretrained(out)


def _trained_model(folder: Path) -> Qwen3ForCausalLM:
    model = Qwen3ForCausalLM.from_pretrained(folder, dtype=torch.float32)
    assert isinstance(model, Qwen3ForCausalLM)
    return model


def _tokenizer(mix: Mix, work: Path) -> PreTrainedTokenizerFast:
    folder = work / "tokenizer"
    if not folder.exists():
        train_tokenizer(_tokenizer_texts(mix), VOCABULARY).save_pretrained(folder)
    return load_tokenizer(folder)


def _tokenizer_texts(mix: Mix) -> Iterator[str]:
    """Every real conversation, and as much text from books."""
    passages = (
        mix.passages.example(random.Random(number), 1000).messages
        for number in range(_TOKENIZER_PASSAGES)
    )
    conversations = (c.messages for c in (*mix.chat.conversations, *mix.topical.conversations))
    for messages in (*conversations, *passages):
        for message in messages:
            yield f"{message['role']}\n{message['content']}"


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with dialogue/")
    parser.add_argument("--work", type=Path, required=True, help="checkpoints and the loss log")
    parser.add_argument("--out", type=Path, required=True, help="where the model folder goes")
    parser.add_argument("--from", dest="start", type=Path, help="a model folder to train further")
    parser.add_argument(
        "--share",
        type=float,
        default=1.0,
        help="of the way from the weights of --from that is kept; above 0",
    )
    parser.add_argument("--tokens", type=int, default=42_000_000)
    parser.add_argument("--rate", type=float, default=3e-3, help="peak learning rate")
    parser.add_argument("--weight-decay", type=float, default=0.0)
    parser.add_argument("--minutes", type=float, default=0.0, help="end sooner, after so long")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--every", type=int, default=400, help="steps between checkpoints")
    parser.add_argument("--plot", type=Path, help="picture of the loss, such as docs/loss.png")
    parser.add_argument("--people", type=int, default=60, help="unseen people at checkpoints")
    args = parser.parse_args(arguments)
    if args.start and args.start.resolve() == args.out.resolve():
        parser.error("--out is the folder of --from, which is needed to the end: name another one")
    if not 0 < args.share <= 1:
        parser.error(f"--share is {args.share}: give a number above 0 and at most 1")
    return args


if __name__ == "__main__":
    main()
