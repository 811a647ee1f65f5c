"""The PerCE loss and its token weights.

PerContrast, eq. 4-5: `loss = -(1/n) sum_i w_i log P(y_i | p_u, x, y_<i)` with
`w_i = clip(PIR(y_i), m, M)`. The weights are constants for the gradient. With m = M = 1 this
is plain cross-entropy.

Shapes: N reply tokens, of one reply or of a batch of replies laid end to end.
"""

from torch import Tensor

from perce.hyperparameters import Normalize


def perce_weights(
    logprobs_N: Tensor, logprobs_without_N: Tensor, clip_min: float, clip_max: float
) -> Tensor:
    """Token weights `clip(PIR, m, M)` (eq. 5), cut off from the gradient.

    Args:
        logprobs_N: Natural-log probabilities with the persona.
        logprobs_without_N: The same tokens' without it.
        clip_min: m.
        clip_max: M.

    Returns:
        weights_N, without gradient.
    """
    return (logprobs_N.detach() - logprobs_without_N.detach()).clamp(clip_min, clip_max)


def weighted_nll(logprobs_N: Tensor, weights_N: Tensor) -> Tensor:
    """The numerator of the loss, in nats: a sum over tokens, so parts of a batch add up."""
    return -(weights_N * logprobs_N).sum()


def loss_divisor(weights_N: Tensor, normalize: Normalize = "tokens") -> Tensor | int:
    """The denominator of the loss: the number of tokens, or their weights' sum."""
    return weights_N.sum() if normalize == "weights" else weights_N.numel()
