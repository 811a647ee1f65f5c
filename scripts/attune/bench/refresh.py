"""Users refreshed in an hour: by a plain PEFT loop, and by `train_adapter`.

Both train the same adapters: from the same start, on the same data, in the same order, with
the same loss; how far they end up from each other is measured too. What the plain loop does
is `scripts.attune.bench.plain`. Timed is training alone, not making and saving adapters.

Two ceilings stand beside the ratio. By tokens: every token of a pass with persona counts twice,
forward and backward (the base is frozen, so backward costs about what forward does), every token
without persona once. By operations: what `perce.flops` counts, attention and output layer
included; the plain loop's logits at all positions and its LoRA products are not counted, so the
ratio may pass it.
"""

import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import torch
from peft import PeftModel
from rich.table import Table
from torch import Tensor
from transformers import PreTrainedModel

from perce.adapter import new_adapter, remove_adapter
from perce.example import Example
from perce.flops import Shape
from perce.hyperparameters import Hyperparameters
from perce.run import length_batches
from perce.shared_prefix_groups import group_batches
from perce.train import train_adapter
from scripts.attune.bench.plain import plain_refresh
from scripts.attune.bench.speed import Lengths, user_examples
from scripts.attune.bench.step import flops, pass_work

_HOUR_S = 3600.0


@dataclass(frozen=True, slots=True)
class Users:
    """Whom to refresh.

    Attributes:
        count: How many users.
        texts: Training texts of each.
        lengths: Of each text's example, in tokens.
        alone: Share of the texts that stay alone where texts are grouped by time; None
            makes whole groups.
    """

    count: int
    texts: int
    lengths: Lengths
    alone: float | None = None


@dataclass(frozen=True, slots=True)
class Speeds:
    """The benchmark's figures.

    Attributes:
        users: Users refreshed in each way.
        plain_users_per_hour: By the plain loop; median over users.
        users_per_hour: By `train_adapter`; median over users.
        ratio: Median over users of both ways' ratio, one right after the other.
        ceiling: The ratio that tokens allow.
        flop_ceiling: The ratio that floating-point operations allow.
        seconds: Seconds for one user, by `train_adapter`; median.
        cosine: Between the changes that both ways made to the adapter; the worst user's.
        difference: Norm of their difference, as a share of the plain one's; the worst user's.
    """

    users: int
    plain_users_per_hour: float
    users_per_hour: float
    ratio: float
    ceiling: float
    flop_ceiling: float
    seconds: float
    cosine: float
    difference: float


def measure(
    model: PreTrainedModel, users: Users, hyper: Hyperparameters, at_once: int = 4
) -> Speeds:
    """Refresh users in both ways.

    Args:
        model: The base model, which is as it was afterwards.
        users: Whom.
        hyper: How; `batch_size` examples are a step in both ways.
        at_once: Examples that the plain loop puts forward together.
    """
    vocabulary = Shape.of(model.config).vocabulary
    people = [
        user_examples(
            users.lengths, users.texts, hyper.group_size, vocabulary, alone=users.alone, seed=seed
        )
        for seed in range(users.count)
    ]

    def plain(adapted: PeftModel, examples: Sequence[Example]) -> None:
        plain_refresh(adapted, examples, hyper, at_once)

    def ours(adapted: PeftModel, examples: Sequence[Example]) -> None:
        train_adapter(adapted, examples, hyper)

    for way in (plain, ours):
        _refreshed(model, people[0][: hyper.batch_size], hyper, way)  # pays for memory, kernels
    timed, apart = [], []
    for examples in people:
        plain_s, expected = _refreshed(model, examples, hyper, plain)
        own_s, got = _refreshed(model, examples, hyper, ours)
        timed.append((plain_s, own_s))
        apart.append(_apart(got, expected))
    seconds = statistics.median(own for _, own in timed)
    by_tokens, by_flops = ceilings(model, people[0], hyper)
    return Speeds(
        users=users.count,
        plain_users_per_hour=_HOUR_S / statistics.median(own for own, _ in timed),
        users_per_hour=_HOUR_S / seconds,
        ratio=statistics.median(plain_s / own_s for plain_s, own_s in timed),
        ceiling=by_tokens,
        flop_ceiling=by_flops,
        seconds=seconds,
        cosine=min(cosine for cosine, _ in apart),
        difference=max(difference for _, difference in apart),
    )


def ceilings(
    model: PreTrainedModel, examples: Sequence[Example], hyper: Hyperparameters
) -> tuple[float, float]:
    """How many times less there is to compute than for separate examples.

    Returns:
        By tokens, and by floating-point operations.
    """
    batches = list((group_batches if hyper.group_size > 1 else length_batches)(examples, hyper))

    def tokens(batch: Sequence[Example], share: bool) -> int:
        replies = [example.reply_ids for example in batch]
        own = pass_work([example.prompt_ids for example in batch], replies, share)
        bare = pass_work([example.prompt_ids_without for example in batch], replies, share)
        return 2 * own.tokens + bare.tokens

    share = hyper.group_size > 1
    separate = Hyperparameters(rank=hyper.rank)
    return (
        sum(tokens(batch, False) for batch in batches)
        / sum(tokens(batch, share) for batch in batches),
        sum(flops(model, batch, separate)[1] for batch in batches)
        / sum(flops(model, batch, hyper)[1] for batch in batches),
    )


def as_json(speeds: Speeds) -> str:
    """The result as one JSON object."""
    return json.dumps(asdict(speeds), indent=1)


def as_table(speeds: Speeds, where: str) -> Table:
    """The result as a table for a terminal."""
    table = Table(title=f"Refreshes ({where}, {speeds.users} users)", show_header=False)
    table.add_column("")
    table.add_column("", justify="right")
    rows = {
        "Users per hour, plain PEFT loop": f"{speeds.plain_users_per_hour:.1f}",
        "Users per hour, train_adapter": f"{speeds.users_per_hour:.1f}",
        "Ratio": f"{speeds.ratio:.2f}",
        "Ceiling by tokens": f"{speeds.ceiling:.2f}",
        "Ceiling by FLOPs": f"{speeds.flop_ceiling:.2f}",
        "Seconds per user, train_adapter": f"{speeds.seconds:.1f}",
        "Cosine of both ways' changes": f"{speeds.cosine:.6f}",
        "Their relative difference": f"{speeds.difference:.1e}",
    }
    for name, value in rows.items():
        table.add_row(name, value)
    return table


def _refreshed(
    model: PreTrainedModel,
    examples: Sequence[Example],
    hyper: Hyperparameters,
    way: Callable[[PeftModel, Sequence[Example]], None],
) -> tuple[float, Tensor]:
    """Train a fresh adapter; seconds, and how its weights changed, end to end."""
    adapted = new_adapter(model, hyper)
    try:
        before = _weights(adapted)
        _finish(model.device)
        started = time.perf_counter()
        way(adapted, examples)
        _finish(model.device)
        return time.perf_counter() - started, _weights(adapted) - before
    finally:
        remove_adapter(adapted)


def _finish(device: torch.device) -> None:
    """Wait for what a GPU still has to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _weights(adapted: PeftModel) -> Tensor:
    trained = [parameter for parameter in adapted.parameters() if parameter.requires_grad]
    return torch.cat([parameter.detach().flatten().double().cpu() for parameter in trained])


def _apart(got: Tensor, expected: Tensor) -> tuple[float, float]:
    cosine = torch.nn.functional.cosine_similarity(got, expected, dim=0)
    return cosine.item(), ((got - expected).norm() / expected.norm()).item()
