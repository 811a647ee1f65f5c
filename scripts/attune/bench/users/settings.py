"""What is compared, on how many users, and how adapters are trained for it."""

from dataclasses import dataclass, replace
from typing import Literal, cast, get_args

from adapt.dataset import ContextBudget, Recipe
from perce.errors import AttuneError
from perce.hyperparameters import Hyperparameters

Method = Literal["base", "rag", "ce", "perce", "population", "population_perce"]
METHODS: tuple[Method, ...] = get_args(Method)
TRAINED: tuple[Method, ...] = ("ce", "perce", "population", "population_perce")
SHARING: tuple[Method, ...] = ("population", "population_perce")
"""Those that need an adapter of other users."""


class BadChoice(AttuneError):
    """A method or a number was not understood; the message names it and what can be given."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How users are compared.

    Attributes:
        methods: `base` has no context; `rag` retrieves context; `ce` and `perce` add the
            user's own adapter; `population` adds one adapter of other users, by PerCE;
            `population_perce` the user's own adapter, which goes on from that one.
        users: How many users are evaluated.
        training_users: Most other users, for choosing learning rates.
        population_users: Most other users, for the population adapter.
        rates: Learning rates to choose from, for each trained method by itself.
        new_tokens: Most tokens of a generated text.
        budget: Size of each persona context.
        hyper: All other hyperparameters.
    """

    methods: tuple[Method, ...]
    users: int
    training_users: int
    population_users: int
    rates: tuple[float, ...]
    new_tokens: int
    budget: ContextBudget
    hyper: Hyperparameters

    def hyper_for(self, method: Method, rate: float) -> Hyperparameters:
        """Hyperparameters of a trained method; `ce` is the same run with every weight 1."""
        hyper = replace(self.hyper, learning_rate=rate)
        return hyper.plain_ce() if method == "ce" else hyper

    @property
    def recipe(self) -> Recipe:
        """How a user's texts become examples."""
        return Recipe(self.budget, self.hyper.max_length, self.hyper.group_size)

    @property
    def trained(self) -> tuple[Method, ...]:
        """The chosen methods that train an adapter."""
        return tuple(method for method in self.methods if method in TRAINED)


def methods_of(listed: str) -> tuple[Method, ...]:
    """Read method names between commas, each once.

    Raises:
        BadChoice: There is none, or one is unknown.
    """
    names = list(dict.fromkeys(name.strip() for name in listed.split(",") if name.strip()))
    unknown = [name for name in names if name not in METHODS]
    if unknown or not names:
        raise BadChoice(
            f"No such method: {', '.join(unknown) or repr(listed)}. Give some of "
            f"{', '.join(METHODS)}, with commas between."
        )
    return cast("tuple[Method, ...]", tuple(names))


def rates_of(listed: str, default: float) -> tuple[float, ...]:
    """Read learning rates between commas; none gives a third, all and thrice the default.

    Raises:
        BadChoice: One is no number.
        perce.hyperparameters.BadHyperparameter: One is not above 0.
    """
    if not listed.strip():
        return (default / 3, default, default * 3)
    try:
        rates = tuple(dict.fromkeys(float(rate) for rate in listed.split(",")))
    except ValueError as error:
        raise BadChoice(
            f"{listed!r} is no list of learning rates. Give numbers with commas between."
        ) from error
    return tuple(Hyperparameters(learning_rate=rate).learning_rate for rate in rates)
