"""The loss curve of a run, as a picture."""

import json
from pathlib import Path

import matplotlib.pyplot as plt

_SMOOTHING = 0.97


def plot_loss(log: Path, picture: Path) -> None:
    """Draw the answer tokens' loss over the tokens trained on.

    Args:
        log: The run's `loss.jsonl`; steps repeated after a resume count once.
        picture: The PNG to write.

    Raises:
        ValueError: The log is empty.
    """
    steps = {}
    for line in log.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        steps[record["step"]] = (record["tokens"] / 1e6, record["loss"])
    if not steps:
        raise ValueError(f"{log} has no steps; train first.")
    points = [steps[step] for step in sorted(steps)]
    tokens, losses = zip(*points, strict=True)
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    axes.plot(tokens, losses, linewidth=0.4, alpha=0.4, label="step")
    axes.plot(tokens, _smooth(losses), label="moving mean")
    axes.set(
        xlabel="million tokens (padded)", ylabel="nats per answer token", ylim=(0, 5),
        title="Reference model: training loss",
    )  # fmt: skip
    axes.legend()
    figure.savefig(picture, dpi=120)
    plt.close(figure)


def _smooth(losses: tuple[float, ...]) -> list[float]:
    mean, smooth = losses[0], []
    for loss in losses:
        mean = _SMOOTHING * mean + (1 - _SMOOTHING) * loss
        smooth.append(mean)
    return smooth
