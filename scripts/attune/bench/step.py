"""What a PerCE step costs over a plain cross-entropy step, and what it has to cost.

PerCE's one addition is the pass without persona, forward only. The floor is the ratio of the
two steps' floating-point operations (`perce.flops`). Steps are those of `train_adapter`, taken
in turn, so that what else the machine does meets both.
"""

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from rich.table import Table
from transformers import PreTrainedModel

from perce.adapter import new_adapter, remove_adapter
from perce.example import Example
from perce.flops import Shape, Work, step_flops
from perce.hyperparameters import Hyperparameters
from perce.shared_prefix import Branch, PrefixGroup, group_prompts
from perce.train import train_adapter
from scripts.attune.bench.speed import Lengths, user_examples


@dataclass(frozen=True, slots=True)
class StepTimes:
    """Figures of the two kinds of steps.

    Attributes:
        ce_s: Median seconds of a cross-entropy step.
        perce_s: Median seconds of a PerCE step.
        ratio: Median of the ratios of steps taken one after the other.
        floor: The ratio of their floating-point operations.
        ce_tflops: Operations of a cross-entropy step, in 10^12.
        pairs: How many steps of each kind were timed.
    """

    ce_s: float
    perce_s: float
    ratio: float
    floor: float
    ce_tflops: float
    pairs: int


def measure(
    model: PreTrainedModel, lengths: Lengths, hyper: Hyperparameters, pairs: int
) -> StepTimes:
    """Time steps of one batch of examples.

    Args:
        model: The base model, which is as it was afterwards.
        lengths: Of each example.
        hyper: Of the PerCE step; its batch and group size say how many examples a step has,
            and how many of them share their persona.
        pairs: How many steps of each kind to time.
    """
    vocabulary = Shape.of(model.config).vocabulary
    batch = user_examples(lengths, hyper.batch_size, hyper.group_size, vocabulary)
    adapted = new_adapter(model, hyper)

    def seconds(hyper: Hyperparameters) -> float:
        (step,) = train_adapter(adapted, batch, hyper).steps
        return step.seconds

    try:
        kinds = (hyper.plain_ce(), hyper)
        for kind in kinds:
            seconds(kind)  # the first of each pays for memory and kernels
        timed = [tuple(seconds(kind) for kind in kinds) for _ in range(pairs)]
    finally:
        remove_adapter(adapted)
    ce, perce = flops(model, batch, hyper)
    return StepTimes(
        ce_s=statistics.median(own for own, _ in timed),
        perce_s=statistics.median(own for _, own in timed),
        ratio=statistics.median(own / other for other, own in timed),
        floor=perce / ce,
        ce_tflops=ce / 1e12,
        pairs=pairs,
    )


def flops(
    model: PreTrainedModel, batch: Sequence[Example], hyper: Hyperparameters
) -> tuple[int, int]:
    """Operations of a cross-entropy step and of a PerCE step on a batch."""
    shape = Shape.of(model.config)
    share = hyper.group_size > 1
    own = pass_work([e.prompt_ids for e in batch], [e.reply_ids for e in batch], share)
    without = pass_work([e.prompt_ids_without for e in batch], [e.reply_ids for e in batch], share)
    return (
        step_flops(shape, own, None, hyper.rank),
        step_flops(shape, own, without, hyper.rank),
    )


def pass_work(
    prompts: Sequence[tuple[int, ...]], replies: Sequence[tuple[int, ...]], share: bool
) -> Work:
    """What goes forward for these prompts, their common prefixes once or every time."""
    if share:
        return Work.of(group_prompts(prompts, replies)[0])
    return Work.of(
        [
            PrefixGroup((), (Branch(prompt, reply),))
            for prompt, reply in zip(prompts, replies, strict=True)
        ]
    )


def as_json(times: StepTimes) -> str:
    """The result as one JSON object."""
    return json.dumps(asdict(times), indent=1)


def as_table(times: StepTimes, where: str) -> Table:
    """The result as a table for a terminal."""
    table = Table(title=f"A training step ({where}, medians of {times.pairs})")
    for name in ("CE, s", "PerCE, s", "Ratio", "Floor by FLOPs"):
        table.add_column(name, justify="right")
    table.add_row(
        f"{times.ce_s:.3f}", f"{times.perce_s:.3f}", f"{times.ratio:.3f}", f"{times.floor:.3f}"
    )
    return table
