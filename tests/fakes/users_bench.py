"""Three writers of a few short texts, and settings under which comparing them takes seconds."""

from adapt.dataset import ContextBudget
from perce.datasets.writers import Writer, Written
from perce.hyperparameters import Hyperparameters
from scripts.attune.bench.users.settings import Settings

SEA = ["the sea is soft", "waves at Malibu", "I paddle out", "salt and sun", "the cafe", "I surf"]
DOG = ["my dog hates thunder", "so do I", "we hide", "the dog barks", "a walk", "good dog"]
SETTINGS = Settings(
    methods=("base", "rag", "ce", "perce", "population", "population_perce"),
    users=1,
    training_users=2,
    population_users=2,
    rates=(1e-3,),
    new_tokens=6,
    budget=ContextBudget(tokens=64, texts=2),
    hyper=Hyperparameters(rank=4, epochs=1, max_length=400),
)


def writer(name: str, texts: list[str]) -> Writer:
    written = [Written(f"What about {n}?", text) for n, text in enumerate(texts)]
    return Writer(name, tuple(written[:-1]), (written[-1],))


def quiet(_: str) -> None:
    """Say nothing of the progress."""


WRITERS = [writer("sea", SEA), writer("dog", DOG), writer("both", SEA + DOG)]
