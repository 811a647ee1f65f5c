"""Examples as token ids, packed into rows of a few widths.

Shapes: B rows, T tokens of a row, N tokens that count, Q queries of a row.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch

from scripts.reference.encoding import Encoded
from scripts.reference.guides import KINDS, Kind

_OPEN_BATCHES = 4
"""Batches' worth of rows that stay open: with many to choose from, an example finds one that
it nearly fills."""


@dataclass(frozen=True, slots=True)
class Look:
    """The guides of one kind in a row.

    Attributes:
        at_Q: The positions from which tokens are predicted.
        open_QT: Which tokens each of them may attend to.
        wanted_QT: Which tokens it is to attend to.
    """

    at_Q: torch.Tensor
    open_QT: torch.Tensor
    wanted_QT: torch.Tensor


Looks = Sequence[Look]
"""One for each row of a batch."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows of examples laid end to end, each example attending to itself alone.

    Attributes:
        ids_BT: Input token ids.
        position_BT: Where each token stands in its own example. Transformers begins a new
            block of attention wherever positions do not go up by one.
        at_N: Positions in the flattened B·T whose next token counts.
        labels_N: Those next tokens.
        weights_N: What each of them weighs.
        looks: Where answers are found, by the kind of guides.
    """

    ids_BT: torch.Tensor
    position_BT: torch.Tensor
    at_N: torch.Tensor
    labels_N: torch.Tensor
    weights_N: torch.Tensor
    looks: Mapping[Kind, Looks]

    def queries(self, kind: Kind) -> int:
        """How many tokens are guided."""
        return sum(look.at_Q.numel() for look in self.looks[kind])


def batches(
    encoded: Iterator[Encoded], tokens: int, widths: Sequence[int], pad: int
) -> Iterator[Batch]:
    """Pack examples into rows of a few widths; rows of one width make a batch.

    Few shapes are few compilations, and examples of every kind and about every length meet in
    a row, so that no step sees one kind alone. Examples longer than the widest row are left
    out.

    Args:
        encoded: Examples, without end.
        tokens: Tokens of a batch; one row where it is wider than that.
        widths: Widths of rows, ascending.
        pad: The padding token.
    """
    open_rows: dict[int, list[list[Encoded]]] = {width: [] for width in widths}
    for example in encoded:
        width = next((w for w in widths if len(example.ids) <= w), 0)
        if not width:
            continue
        rows, count = open_rows[width], max(1, tokens // width)
        _place(example, rows, width)
        if len(rows) > _OPEN_BATCHES * count:
            rows.sort(key=_length)
            yield collate(rows[-count:], pad, width)
            del rows[-count:]


def _place(example: Encoded, rows: list[list[Encoded]], width: int) -> None:
    """Put an example into the fullest row that has room, or into a new one."""
    roomy = [row for row in rows if _length(row) + len(example.ids) <= width]
    if roomy:
        max(roomy, key=_length).append(example)
    else:
        rows.append([example])


def _length(row: Sequence[Encoded]) -> int:
    return sum(len(example.ids) for example in row)


def collate(rows: Sequence[Sequence[Encoded]], pad: int, width: int) -> Batch:
    """Lay examples end to end in rows, padded on the right, and collect what counts."""
    ids_BT = torch.full((len(rows), width), pad)
    position_BT = torch.zeros((len(rows), width), dtype=torch.long)
    weights_BT = torch.zeros((len(rows), width))
    for number, row in enumerate(rows):
        at = 0
        for example in row:
            end = at + len(example.ids)
            ids_BT[number, at:end] = torch.tensor(example.ids)
            position_BT[number, at:end] = torch.arange(end - at)
            weights_BT[number, at:end] = torch.tensor(example.weights)
            at = end
        position_BT[number, at:] = torch.arange(width - at)
    weights_BT[position_BT == 0] = 0.0
    next_N = weights_BT.reshape(-1).nonzero().squeeze(1)
    ids_N, weights_N = ids_BT.reshape(-1)[next_N], weights_BT.reshape(-1)[next_N]
    looks = {kind: [_look(row, kind, width) for row in rows] for kind in KINDS}
    return Batch(ids_BT, position_BT, next_N - 1, ids_N, weights_N, looks)


def _look(row: Sequence[Encoded], kind: Kind, width: int) -> Look:
    """The guides of a row's examples, which lie end to end."""
    begins = accumulate((len(example.ids) for example in row), initial=0)
    guides = [
        (begin, guide)
        for begin, example in zip(begins, row, strict=False)
        for guide in example.guides
        if guide.kind == kind
    ]
    at_Q = torch.tensor([begin + guide.at for begin, guide in guides], dtype=torch.long)
    begin_Q = torch.tensor([begin for begin, _ in guides], dtype=torch.long)
    key_T = torch.arange(width)
    open_QT = (begin_Q[:, None] <= key_T) & (key_T <= at_Q[:, None])
    wanted_QT = torch.zeros_like(open_QT)
    for query, (begin, guide) in enumerate(guides):
        wanted_QT[query, [begin + key for key in guide.keys]] = True
    return Look(at_Q, open_QT, wanted_QT)
