"""The base model of a benchmark, in this process."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from safetensors import SafetensorError
from transformers import PreTrainedModel

from perce.model import load_model
from perce.retrieval import Encoder
from perce.tokens import ChatTokenizer
from scripts.attune.up.errors import BadModelError
from scripts.attune.up.model import choose_model

T = TypeVar("T")


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
    loaded, tokenizer = load_named(
        model, lambda source: (load_model(source), ChatTokenizer.load(source))
    )
    return Base(loaded, tokenizer, Encoder())


def load_named(model: str, load: Callable[[str], T]) -> T:
    """Load a model, or a part of one, by its folder or name.

    Args:
        model: As it was given on the command line.
        load: Takes the folder or name as transformers does.

    Raises:
        BadModelError: There is no such model, or it cannot be read.
    """
    source = choose_model(model, gpu=False).source
    with blaming(model):
        return load(source)


@contextmanager
def blaming(model: str) -> Iterator[None]:
    """Name the model in what transformers raises where it cannot read one.

    Raises:
        BadModelError: In place of that error.
    """
    try:
        yield
    except (OSError, ValueError, SafetensorError) as error:
        raise BadModelError(model, " ".join(str(error).split())) from error
