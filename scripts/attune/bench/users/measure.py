"""One user under one method: losses on the tests, and generated texts against the real ones."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from peft import PeftModel
from transformers import PreTrainedModel

from perce.adapter import started_adapter
from perce.evaluate import Mask, held_out_losses, mean_loss, mean_personal_loss
from perce.example import Example
from perce.generation import generate_replies
from perce.hyperparameters import Hyperparameters
from perce.merged_lora import merged_lora
from perce.text_metrics import mean_scores, score_text
from perce.train import train_adapter
from scripts.attune.bench.base import Base
from scripts.attune.bench.users.subject import Subject

# A step of a few replies costs hardly less than one of many.
_TEXTS_AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class UserFigures:
    """A user's figures under a method.

    Attributes:
        loss: Mean over the tests' tokens, in nats.
        personal_loss: The same over personal tokens; None where no token is personal.
        rouge1: Mean over the tests, as are the other two text metrics.
        seconds_per_user: What training took for this user; a shared adapter's is divided
            among those whom it serves here.
    """

    loss: float
    personal_loss: float | None
    rouge1: float
    rougeL: float
    meteor: float
    seconds_per_user: float


@dataclass(frozen=True, slots=True)
class Adapted:
    """The base model with an adapter that was just trained, and the seconds of its training."""

    model: PeftModel
    seconds: float


@contextmanager
def adapted(
    base: Base, examples: Sequence[Example], hyper: Hyperparameters, start: Path | None = None
) -> Iterator[Adapted]:
    """Train an adapter; it is taken off again at the end.

    Args:
        base: The base model.
        examples: What it is trained on.
        hyper: How.
        start: The folder of the adapter to go on from; None for a fresh one.

    Raises:
        perce.train.TrainingDiverged: The learning rate is too high.
    """
    with started_adapter(base.model, hyper, start) as model:
        yield Adapted(model, train_adapter(model, examples, hyper).seconds)


def loss_on_tests(model: PreTrainedModel | PeftModel, subject: Subject) -> float:
    """Mean loss over the tokens of a user's tests, in nats."""
    return mean_loss(held_out_losses(model, subject.test))


def measure(
    base: Base,
    model: PreTrainedModel | PeftModel,
    subject: Subject,
    masks: Sequence[Mask],
    new_tokens: int,
    seconds: float = 0.0,
) -> UserFigures:
    """Score a user's tests and generate them.

    Args:
        base: Its tokenizer is used.
        model: The model under the method.
        subject: The user.
        masks: The tests' personal tokens, as the base model chose them.
        new_tokens: Most tokens of a generated text.
        seconds: What training took.
    """
    prompts = [example.prompt_ids for example in subject.test]
    with merged_lora(model) if isinstance(model, PeftModel) else nullcontext():
        losses = held_out_losses(model, subject.test)
        replies = generate_replies(
            model, prompts, base.tokenizer.end_id, new_tokens, batch_size=_TEXTS_AT_ONCE
        )
    personal = mean_personal_loss(losses, masks) if any(mask.any() for mask in masks) else None
    texts = [base.tokenizer.decode(reply.ids) for reply in replies]
    scores = mean_scores(
        [score_text(said, real) for said, real in zip(texts, subject.references, strict=True)]
    )
    return UserFigures(
        loss=mean_loss(losses),
        personal_loss=personal,
        rouge1=scores.rouge1,
        rougeL=scores.rougeL,
        meteor=scores.meteor,
        seconds_per_user=seconds,
    )
