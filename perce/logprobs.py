"""Log-probabilities of reply tokens under a local model, as the method needs them.

Only the positions that predict reply tokens reach the output layer, and those in chunks, so
that no tensor of [all tokens, vocabulary] exists. Scoring by vLLM over HTTP is not here.

Shapes: B replies in a batch, T tokens of the longest prompt and reply, D the hidden size,
N reply tokens of the whole batch end to end, C of them in a chunk, V the vocabulary.
"""

from collections.abc import Sequence
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel

LOGITS_CHUNK = 512
"""Reply tokens whose logits are in memory at once."""


def reply_logprobs(
    model: PreTrainedModel | PeftModel,
    prompts: Sequence[Sequence[int]],
    replies: Sequence[Sequence[int]],
    *,
    chunk: int = LOGITS_CHUNK,
) -> list[Tensor]:
    """Score each reply token: log P(y_i | prompt, y_<i), in nats, in float32 or better.

    All pairs go forward as one batch; none give an empty list. Gradients flow to whatever in
    the model requires them, unless the caller disables them.

    Args:
        model: A causal language model, plain or with adapters (which may be disabled).
        prompts: B prompts of at least one token each.
        replies: B replies of at least one token each.
        chunk: Reply tokens whose logits are computed at once.

    Returns:
        B tensors, one logprob per token of that reply.
    """
    if not prompts:
        return []
    causal_lm = causal_lm_of(model)
    device = causal_lm.device
    rows = [torch.tensor([*prompt, *reply]) for prompt, reply in zip(prompts, replies, strict=True)]
    # Padding is on the right, so a causal model never attends to it from a real token and
    # needs no mask; without one, attention takes its fast causal path. The id is arbitrary.
    ids_BT = nn.utils.rnn.pad_sequence(rows, batch_first=True).to(device)
    hidden_BTD = causal_lm.get_decoder()(input_ids=ids_BT, use_cache=False).last_hidden_state

    lengths = [len(reply) for reply in replies]
    row_N = torch.repeat_interleave(torch.arange(len(rows)), torch.tensor(lengths))
    position_N = torch.cat(
        [torch.arange(len(p) - 1, len(p) + n - 1) for p, n in zip(prompts, lengths, strict=True)]
    )
    row_N, position_N = row_N.to(device), position_N.to(device)
    hidden_ND = hidden_BTD[row_N, position_N]
    targets_N = ids_BT[row_N, position_N + 1]
    logprobs_N = target_logprobs(hidden_ND, causal_lm.get_output_embeddings(), targets_N, chunk)
    return list(torch.split(logprobs_N, lengths))


def causal_lm_of(model: PreTrainedModel | PeftModel) -> PreTrainedModel:
    """The language model itself, without PEFT's wrapper; adapters in its layers stay."""
    return model.get_base_model() if isinstance(model, PeftModel) else model


def target_logprobs(hidden_ND: Tensor, head: nn.Linear, targets_N: Tensor, chunk: int) -> Tensor:
    """Score each target token by the hidden state that predicts it, in nats.

    Args:
        hidden_ND: Last hidden states at the positions before the targets.
        head: The output layer; where it is trained, all N logits are kept for backward.
        targets_N: Token ids.
        chunk: Tokens whose logits are computed at once.

    Returns:
        logprobs_N, in float32 or better.
    """
    # Under autocast logits would be rounded to bfloat16, whose steps are as large as PIRs.
    with torch.autocast(hidden_ND.device.type, enabled=False):
        if torch.is_grad_enabled() and head.weight.requires_grad:
            return _dense_logprobs(head(hidden_ND), targets_N)
        logprobs_N: Tensor = _FrozenHeadLogprobs.apply(  # type: ignore[no-untyped-call]  # torch
            hidden_ND, head.weight, head.bias, targets_N, chunk
        )
        return logprobs_N


def _dense_logprobs(logits_CV: Tensor, targets_C: Tensor) -> Tensor:
    logprobs_CV = _at_least_float32(logits_CV).log_softmax(-1)
    return logprobs_CV.gather(-1, targets_C[:, None])[:, 0]


def _at_least_float32(logits_CV: Tensor) -> Tensor:
    return logits_CV.to(torch.promote_types(logits_CV.dtype, torch.float32))


def _precise_logits(hidden_CD: Tensor, weight_VD: Tensor, bias_V: Tensor | None) -> Tensor:
    """Logits in float32 or better, whatever the precision of the layer."""
    if _is_precise(weight_VD):
        return nn.functional.linear(hidden_CD, weight_VD, bias_V)
    if weight_VD.is_cuda:
        # The product itself is in float32; only the result would be rounded.
        logits_CV = torch.mm(hidden_CD, weight_VD.t(), out_dtype=torch.float32)
    else:
        logits_CV = hidden_CD.float() @ weight_VD.float().t()
    return logits_CV if bias_V is None else logits_CV + bias_V.float()


def _slopes(probs_CV: Tensor, weight_VD: Tensor, targets_C: Tensor) -> Tensor:
    """The gradients of the targets' logprobs for their hidden states, `W[t] - probs W`."""
    if _is_precise(weight_VD):
        return weight_VD[targets_C] - probs_CV @ weight_VD
    # A likely token's two terms almost cancel: as 1 - p in float32, not after rounding both.
    rest_CV = probs_CV.neg_()
    rest_CV[torch.arange(len(targets_C), device=rest_CV.device), targets_C] += 1
    return rest_CV.to(weight_VD.dtype) @ weight_VD


def _is_precise(tensor: Tensor) -> bool:
    return torch.promote_types(tensor.dtype, torch.float32) == tensor.dtype


class _FrozenHeadLogprobs(torch.autograd.Function):
    """Target logprobs through an output layer that is not trained, chunk by chunk.

    With the layer frozen, the gradient of a token's logprob for its hidden state h is known
    as soon as its logits are: `d log P(t) / dh = W[t] - softmax(Wh) W`. It is computed with
    them and kept, [N, D], so that backward needs neither the logits, [N, V], nor a second
    product to restore them.
    """

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 (torch gives the context no type)
        hidden_ND: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        targets_N: Tensor,
        chunk: int,
    ) -> Tensor:
        logprobs, slopes = [], []
        for start in range(0, len(targets_N), chunk):
            hidden_CD, targets_C = (
                hidden_ND[start : start + chunk],
                targets_N[start : start + chunk],
            )
            logits_CV = _precise_logits(hidden_CD, weight_VD, bias_V)
            normalizer_C = logits_CV.logsumexp(-1)
            logprobs.append(logits_CV.gather(-1, targets_C[:, None])[:, 0] - normalizer_C)
            if ctx.needs_input_grad[0]:
                probs_CV = logits_CV.sub_(normalizer_C[:, None]).exp_()
                slopes.append(_slopes(probs_CV, weight_VD, targets_C))
        if slopes:
            ctx.save_for_backward(torch.cat(slopes))
        return torch.cat(logprobs)

    @staticmethod
    def backward(ctx: Any, grad_N: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        (slope_ND,) = ctx.saved_tensors
        return (grad_N[:, None] * slope_ND).to(slope_ND.dtype), None, None, None, None
