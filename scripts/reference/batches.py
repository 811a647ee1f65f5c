"""Examples as token ids, and batches of examples of about the same length.

Shapes: B examples, T tokens.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from transformers import PreTrainedTokenizerFast

from perce.prompt import Message, prompt_pair
from scripts.persona.example import Example
from scripts.reference.tokenizer import END, START

_POOL = 768
_ROUND = 32


@dataclass(frozen=True, slots=True)
class Encoded:
    """Token ids of an example, and which of them count in the loss."""

    ids: list[int]
    counted: list[bool]


@dataclass(frozen=True, slots=True)
class Batch:
    """Right-padded examples. Causal attention never sees the padding, so no mask is needed.

    Attributes:
        ids_BT: Input token ids.
        at_N: Positions in the flattened B·T whose next token counts.
        labels_N: Those next tokens.
    """

    ids_BT: torch.Tensor
    at_N: torch.Tensor
    labels_N: torch.Tensor


class Encoder:
    """Renders conversations as the chat template does, marking the answers."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self.tokenizer = tokenizer
        self.pad: int = tokenizer.pad_token_id
        self._backend = tokenizer.backend_tokenizer
        self.end: int = tokenizer.eos_token_id
        self._answer_head = self._ids(f"{START}assistant\n")

    def example(self, example: Example) -> Encoded:
        """Encode an example: every assistant message and its end mark count."""
        messages = prompt_pair(example.messages, example.context).with_persona
        return self.messages(messages)

    def messages(self, messages: Sequence[Message]) -> Encoded:
        """Encode messages that are ready for the template."""
        ids = self._ids("".join(f"{START}{m['role']}\n{m['content']}{END}\n" for m in messages))
        return Encoded(ids, self._answers(ids))

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """Encode a prompt that the model is to answer."""
        return self.messages(messages).ids + self._answer_head

    def _ids(self, text: str) -> list[int]:
        # The backend is called directly: the wrapper's bookkeeping takes as long as the work.
        ids: list[int] = self._backend.encode(text, add_special_tokens=False).ids
        return ids

    def _answers(self, ids: Sequence[int]) -> list[bool]:
        """Mark what lies between an assistant's head and its end mark, the mark included."""
        head = self._answer_head
        counted = [False] * len(ids)
        at = 0
        while at < len(ids):
            if ids[at] != head[0] or list(ids[at : at + len(head)]) != head:
                at += 1
                continue
            at += len(head)
            end = ids.index(self.end, at)
            counted[at : end + 1] = [True] * (end + 1 - at)
            at = end + 1
        return counted


def batches(
    encoded: Iterator[Encoded], tokens: int, longest: int, pad: int, seed: int
) -> Iterator[Batch]:
    """Sort pools of examples by length and cut them into batches.

    Args:
        encoded: Examples, without end.
        tokens: Padded tokens of a batch, about.
        longest: Longer examples are left out.
        pad: The padding token.
        seed: Order of the batches within a pool.
    """
    rng = random.Random(seed)
    while True:
        pool = [e for e in islice(encoded, _POOL) if len(e.ids) <= longest]
        pool.sort(key=lambda e: len(e.ids))
        cut: list[list[Encoded]] = []
        while pool:
            width = _padded(len(pool[-1].ids))
            count = max(1, tokens // width)
            cut.append(pool[-count:])
            del pool[-count:]
        rng.shuffle(cut)
        yield from (collate(group, pad) for group in cut)


def collate(group: Sequence[Encoded], pad: int) -> Batch:
    """Pad examples on the right and collect the tokens that count."""
    width = _padded(max(len(e.ids) for e in group))
    ids_BT = torch.full((len(group), width), pad)
    counts_BT = torch.zeros((len(group), width), dtype=torch.bool)
    for row, example in enumerate(group):
        ids_BT[row, : len(example.ids)] = torch.tensor(example.ids)
        counts_BT[row, : len(example.ids)] = torch.tensor(example.counted)
    counts_BT[:, 0] = False
    next_N = counts_BT.reshape(-1).nonzero().squeeze(1)
    return Batch(ids_BT, next_N - 1, ids_BT.reshape(-1)[next_N])


def _padded(length: int) -> int:
    return -(-length // _ROUND) * _ROUND
