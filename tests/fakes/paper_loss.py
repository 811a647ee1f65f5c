"""The PerCE loss as the paper writes it, to which training is held."""

from torch import Tensor

from perce.hyperparameters import Normalize


def perce_loss(logprobs_N: Tensor, weights_N: Tensor, normalize: Normalize = "tokens") -> Tensor:
    """The weighted negative log-likelihood of reply tokens (eq. 4), in nats per token."""
    nll_N = -weights_N * logprobs_N
    return nll_N.mean() if normalize == "tokens" else nll_N.sum() / weights_N.sum()
