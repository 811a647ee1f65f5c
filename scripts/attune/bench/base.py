"""The base model of a benchmark, in this process."""

from dataclasses import dataclass

from transformers import PreTrainedModel

from perce.model import load_model
from perce.retrieval import Encoder
from perce.tokens import ChatTokenizer
from scripts.attune.up.errors import BadModelError
from scripts.attune.up.model import choose_model


@dataclass(frozen=True, slots=True)
class Base:
    """The frozen base model, with what turns texts into its examples."""

    model: PreTrainedModel
    tokenizer: ChatTokenizer
    encoder: Encoder


def load_base(model: str) -> Base:
    """Load a model by its folder or name.

    Raises:
        BadModelError: It cannot be loaded.
    """
    source = choose_model(model, gpu=False).source
    try:
        return Base(load_model(source), ChatTokenizer.load(source), Encoder())
    except OSError as error:
        raise BadModelError(model, " ".join(str(error).split())) from error
