"""Training one LoRA adapter with PerCE.

At every step the trained model itself scores the reply without persona, without gradient,
and the difference to its score with persona weighs the tokens (PerContrast, section 3.2, a
bootstrap in the manner of EM). With m = M this pass is skipped, so that plain cross-entropy
costs what it costs. Both passes share the prefixes of their prompts where the hyperparameters
say so; the result is the same. What the examples are and whether the result is any good are
not covered here; see `perce.example` and `perce.evaluate`. Several adapters at once are
`perce.fleet`.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext

import torch
from peft import PeftModel
from transformers import PreTrainedModel

from perce.example import Example
from perce.hyperparameters import Hyperparameters
from perce.logprobs import causal_lm_of, reply_logprobs
from perce.merged_lora import merged_lora
from perce.run import (
    NothingToTrain,
    Run,
    Step,
    TrainingDiverged,
    TrainResult,
    length_batches,
    rate_factor,
)
from perce.shared_prefix import shared_logprobs
from perce.shared_prefix_attention import sharing_prefixes

__all__ = [
    "NothingToTrain",
    "Step",
    "TrainResult",
    "TrainingDiverged",
    "length_batches",
    "rate_factor",
    "train_adapter",
    "training_mode",
]


def train_adapter(
    peft_model: PeftModel,
    examples: Sequence[Example],
    hyper: Hyperparameters,
    on_step: Callable[[Step], None] | None = None,
) -> TrainResult:
    """Train a model's adapter on one user's examples, in place.

    Args:
        peft_model: A base model with one trainable adapter; in evaluation mode afterwards.
        examples: What the user wrote or endorsed, each with its own persona context.
        hyper: Everything that can be chosen; the same seed gives the same adapter.
        on_step: Called after each step; whatever it raises cancels the training.

    Raises:
        NothingToTrain: `examples` is empty.
        TrainingDiverged: A loss or gradient is NaN or infinite. The adapter is as after the
            last good step.
        perce.shared_prefix_attention.UnsupportedAttention: `hyper.group_size` is above 1, and
            the model's attention cannot share prefixes.
    """
    run = Run([p for p in peft_model.parameters() if p.requires_grad], examples, hyper)
    causal_lm = causal_lm_of(peft_model)
    with torch.random.fork_rng(), training_mode(peft_model, hyper.gradient_checkpointing):
        torch.manual_seed(hyper.seed)
        while not run.done:
            started = time.perf_counter()
            # Around both passes, because checkpointing attends again in the backward pass.
            with (
                sharing_prefixes(causal_lm) if hyper.group_size > 1 else nullcontext(),
                merged_lora(peft_model),
            ):
                _backward(run, peft_model)
            step = run.update(started)
            if on_step is not None:
                on_step(step)
    return run.result


@contextmanager
def training_mode(model: PreTrainedModel | PeftModel, checkpointing: bool) -> Iterator[None]:
    """Training mode, and gradient checkpointing if wanted; afterwards evaluation mode.

    Args:
        model: A causal language model, plain or with adapters.
        checkpointing: Whether backward computes each layer's activations again.
    """
    causal_lm = causal_lm_of(model)
    model.train()
    if checkpointing:
        causal_lm.gradient_checkpointing_enable({"use_reentrant": False})
        # Only checkpointing of the other kind needs inputs with gradient.
        causal_lm.disable_input_require_grads()
    try:
        yield
    finally:
        if checkpointing:
            causal_lm.gradient_checkpointing_disable()
        model.eval()


def _backward(run: Run, model: PeftModel) -> None:
    """Score the batch's replies, and leave the loss's gradient in the parameters."""
    score = shared_logprobs if run.hyper.group_size > 1 else reply_logprobs
    contrasted = run.contrasted(run.batch)
    with torch.autocast(model.device.type, torch.bfloat16, enabled=run.hyper.autocast):
        # First, so that its activations are gone before those that backward needs are made.
        with torch.no_grad():
            scored = score(
                model,
                [example.prompt_ids_without for example in contrasted],
                [example.reply_ids for example in contrasted],
            )
        logprobs = score(
            model,
            [example.prompt_ids for example in run.batch],
            [example.reply_ids for example in run.batch],
        )
    loss = run.loss(run.batch, logprobs, dict(zip(contrasted, scored, strict=True)))
    loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
