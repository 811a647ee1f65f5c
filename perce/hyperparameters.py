"""The settings of one training run, checked when they are made.

Defaults follow the PerContrast paper (AdamW 0.9/0.999, warm-up 0.04, 3 epochs, weights
clipped to 0.8…5) except for the learning rate, which the paper gives for full fine-tuning
and which is higher here because only LoRA matrices are trained: see `rate_for_width`.
"""

from dataclasses import dataclass, replace
from math import isfinite
from typing import Literal, Self, get_args

from perce.errors import AttuneError

_COUNTS = (
    "rank",
    "alpha",
    "epochs",
    "batch_size",
    "reweigh_every",
    "group_size",
    "max_length",
)
_KNOWN_RATE, _KNOWN_WIDTH = 1e-3, 256
"""Chosen on the reference model, by losses and by reading replies; see docs/log.md."""


Normalize = Literal["tokens", "weights"]
"""What the loss is divided by: the number of tokens, as in the paper, or their weights' sum."""


class BadHyperparameter(AttuneError):
    """A hyperparameter is out of its range; the message names it and the range."""


@dataclass(frozen=True, slots=True)
class Hyperparameters:
    """How one adapter is trained.

    Attributes:
        rank: LoRA rank r; vLLM serves 1, 8, 16, 32, 64, 128, 256, 320 and 512.
        alpha: LoRA alpha; the update is scaled by alpha / rank.
        dropout: Dropout on the input of the LoRA path.
        learning_rate: Peak learning rate, reached after the warm-up.
        epochs: Passes over the examples.
        batch_size: Examples per optimizer step.
        warmup: Share of the steps over which the learning rate rises linearly; it then
            falls to zero along a cosine.
        betas: AdamW's moment decay rates.
        weight_decay: AdamW's decoupled weight decay.
        max_grad_norm: Gradients are scaled down to this norm.
        clip_min: m of eq. 5, the smallest weight of a token.
        clip_max: M of eq. 5, the largest weight of a token.
        normalize: `tokens` divides the loss by the number of reply tokens (eq. 4); `weights`
            by their weights' sum, so that it stays on the scale of cross-entropy; needs a
            clip_min above 0, for else all weights may be 0.
        reweigh_every: For how many optimizer steps an example's weights are used, if it comes
            up again, before they are estimated anew; 1, as in the paper, estimates them every
            time. An example comes up once an epoch, so values below an epoch's steps save
            little.
        group_size: Most examples of a batch that are picked for a common prompt prefix, which
            then goes forward and backward once (`perce.shared_prefix`); 1 picks none and
            computes every example by itself.
        gradient_checkpointing: Whether backward recomputes each layer's activations, so that
            they need not be kept; slower, and needs far less memory.
        autocast: Whether matrix products and attention of the layers are in bfloat16. The
            weights of base and adapter, the output layer and the loss keep their precision.
            Faster where the hardware has it (CUDA, AMX), and many times slower on a CPU that
            must emulate it; the adapter comes out a little different. So it is not the default.
        max_length: Most tokens of prompt and reply together; `perce.example.encode` cuts to it.
        seed: Seeds the first LoRA weights, the order of the examples and dropout.

    Raises:
        BadHyperparameter: A value is out of its range.
    """

    rank: int = 16
    alpha: int = 32
    dropout: float = 0.0
    learning_rate: float = 1e-3
    epochs: int = 3
    batch_size: int = 4
    warmup: float = 0.04
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    clip_min: float = 0.8
    clip_max: float = 5.0
    normalize: Normalize = "tokens"
    reweigh_every: int = 1
    group_size: int = 1
    gradient_checkpointing: bool = False
    autocast: bool = False
    max_length: int = 2048
    seed: int = 0

    def __post_init__(self) -> None:
        for name in _COUNTS:
            _require(name, getattr(self, name) >= 1, "at least 1", getattr(self, name))
        _require(
            "group_size",
            self.group_size <= self.batch_size,
            f"at most batch_size ({self.batch_size})",
            self.group_size,
        )
        choices = get_args(Normalize)
        _require("normalize", self.normalize in choices, f"one of {choices}", self.normalize)
        _require(
            "clip_min",
            self.normalize != "weights" or self.clip_min > 0,
            "above 0 where normalize is 'weights', whose sum the loss is divided by",
            self.clip_min,
        )
        for name in ("learning_rate", "max_grad_norm"):
            value = getattr(self, name)
            _require(name, value > 0 and isfinite(value), "a finite number above 0", value)
        _require("dropout", 0 <= self.dropout < 1, "at least 0 and below 1", self.dropout)
        _require("warmup", 0 <= self.warmup <= 1, "between 0 and 1", self.warmup)
        _require(
            "betas", all(0 <= beta < 1 for beta in self.betas), "at least 0 and below 1", self.betas
        )
        _require(
            "weight_decay",
            self.weight_decay >= 0 and isfinite(self.weight_decay),
            "a finite number of at least 0",
            self.weight_decay,
        )
        _require(
            "clip_min", self.clip_min >= 0 and isfinite(self.clip_min), "at least 0", self.clip_min
        )
        _require(
            "clip_max",
            self.clip_max >= self.clip_min and isfinite(self.clip_max),
            f"at least clip_min ({self.clip_min})",
            self.clip_max,
        )

    def plain_ce(self) -> Self:
        """The same run with plain cross-entropy: m = M = 1, so every token weighs 1."""
        return replace(self, clip_min=1.0, clip_max=1.0)

    def of_method(self, method: str) -> Self:
        """The same run with a method: `perce` or, with plain cross-entropy, `ce`."""
        return self if method == "perce" else self.plain_ce()

    @property
    def weighs_tokens(self) -> bool:
        """Whether weights differ between tokens, so that the no-persona pass is needed."""
        return self.clip_min < self.clip_max


def rate_for_width(hidden_size: int) -> float:
    """The peak learning rate for a base model of this width, where nobody chose one.

    Falls as 1 / width, as Adam's rate for hidden matrices does under maximal update
    parametrization (Yang et al. 2022, "Tensor Programs V", table 3): 1e-3 for the reference
    model, 1e-4 for a Qwen3-4B.
    """
    return _KNOWN_RATE * _KNOWN_WIDTH / hidden_size


def _require(name: str, holds: bool, condition: str, value: object) -> None:
    if not holds:
        raise BadHyperparameter(f"{name} must be {condition}, not {value!r}. Change {name}.")
