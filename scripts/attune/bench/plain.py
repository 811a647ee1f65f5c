"""A plain PerCE loop over PEFT and transformers, as one writes it first: the yardstick.

Everything is what the libraries give: batches of separate examples, padded on the right, with
an attention mask; the model's own forward pass, which computes logits at all positions, under
autocast in bfloat16 like all products; two such passes, the one without persona without
gradient; log-softmax in float32; one user after the other. Data, order, batches of a step,
schedule, clipping and optimizer are those of `perce.train`, so that the adapters can be
compared. A step's batch goes in smaller batches whose gradients add up. Nothing here shares a
prefix, merges the adapter or leaves logits out.

Shapes: B examples, T tokens of the longest, V the vocabulary.
"""

from collections.abc import Sequence

import torch
from peft import PeftModel
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from torch.nn.utils.rnn import pad_sequence
from torch.optim import AdamW

from perce.example import Example
from perce.hyperparameters import Hyperparameters
from perce.run import length_batches, rate_factor
from perce.shared_prefix_groups import group_batches


def plain_refresh(
    model: PeftModel, examples: Sequence[Example], hyper: Hyperparameters, at_once: int = 4
) -> None:
    """Train an adapter in place.

    Args:
        model: A base model with a trainable adapter.
        examples: One user's.
        hyper: The settings; `group_size` decides only which examples a step has.
        at_once: How many examples go forward together.
    """
    batches = list((group_batches if hyper.group_size > 1 else length_batches)(examples, hyper))
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = AdamW(
        parameters, lr=hyper.learning_rate, betas=hyper.betas, weight_decay=hyper.weight_decay
    )
    model.train()
    for number, batch in enumerate(batches):
        optimizer.param_groups[0]["lr"] = hyper.learning_rate * rate_factor(
            number, len(batches), hyper.warmup
        )
        tokens = sum(len(example.reply_ids) for example in batch)
        for start in range(0, len(batch), at_once):
            loss = _weighted_nll(model, batch[start : start + at_once], hyper) / tokens
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        clip_grad_norm_(parameters, hyper.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
    model.eval()


def _weighted_nll(model: PeftModel, batch: Sequence[Example], hyper: Hyperparameters) -> Tensor:
    replies = [example.reply_ids for example in batch]
    with torch.no_grad():
        without = _reply_logprobs(
            model, [e.prompt_ids_without for e in batch], replies, hyper.autocast
        )
    own = _reply_logprobs(model, [e.prompt_ids for e in batch], replies, hyper.autocast)
    weights = (own.detach() - without).clamp(hyper.clip_min, hyper.clip_max)
    return -(weights * own).sum()


def _reply_logprobs(
    model: PeftModel,
    prompts: Sequence[tuple[int, ...]],
    replies: Sequence[tuple[int, ...]],
    autocast: bool,
) -> Tensor:
    """Logprobs of all reply tokens of a batch, end to end."""
    pairs = list(zip(prompts, replies, strict=True))
    ids_BT = pad_sequence([torch.tensor(p + r) for p, r in pairs], True).to(model.device)
    attended_BT = pad_sequence([torch.ones(len(p + r)) for p, r in pairs], True).to(model.device)
    # Around each pass, because autocast keeps the weights that it has cast: those of the pass
    # without gradient have none to give to the other.
    with torch.autocast(model.device.type, torch.bfloat16, enabled=autocast):
        logits_BTV = model(input_ids=ids_BT, attention_mask=attended_BT).logits
    logprobs_BTV = logits_BTV[:, :-1].float().log_softmax(-1)
    logprobs_BT = logprobs_BTV.gather(-1, ids_BT[:, 1:, None])[..., 0]
    return torch.cat(
        [
            logprobs_BT[row, len(prompt) - 1 : len(prompt) + len(reply) - 1]
            for row, (prompt, reply) in enumerate(pairs)
        ]
    )
