"""What the population adapter learns from: texts of many users, judged by those of others.

Each text has the persona context of its own user's facts and older texts, as in that user's own
refresh, and nobody's newest fifth is trained on: that is what their own refreshes are judged
by. Some users are held out whole, because those whom the adapter is to answer are new to it.
Who shares their texts is `server.population`; what the gate makes of it, `adapt.gate`.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from adapt.curation import explain
from adapt.dataset import Dataset, Recipe, fingerprint
from adapt.errors import NothingToLearnError
from adapt.history import History, learn_from
from adapt.replay import MIN_HELD_OUT, Coverage
from perce.example import Example
from perce.retrieval import Encoder
from perce.tokens import ChatTokenizer
from server.refreshes import MIN_TEXTS

HELD_OUT_EVERY = 5
"""A user is held out if this divides the user's id, so that it is the same one every time."""
MOST_HELD_OUT = 64
"""Texts in all that a candidate is judged by."""


@dataclass(frozen=True, slots=True)
class Population:
    """A dataset of many users, and those whom it trains on.

    Attributes:
        dataset: The examples of each user oldest first, all users' newest last; its coverage
            is empty, since it says of no user what was learnt.
        members: Ids of the users who have a text in training, ascending.
        held_out_users: How many other users it is judged by.
    """

    dataset: Dataset
    members: tuple[int, ...]
    held_out_users: int


def learn_from_population(
    stored: Mapping[int, int],
    history: Callable[[int], History],
    encoder: Encoder,
    tokenizer: ChatTokenizer,
    recipe: Recipe,
    most_texts: int,
) -> Population:
    """Turn the histories of users who share their texts into examples.

    Users who have too few texts for a refresh of their own are passed over.

    Args:
        stored: How many texts each user has, by the user's id.
        history: Reads what is known of a user; asked once for each who is needed.
        encoder: Embeds what has no vector yet.
        tokenizer: The base model's.
        recipe: How each user's dataset is made.
        most_texts: Most texts to train on, the newest of each user, evenly over the users.

    Raises:
        NothingToLearnError: Too few users share texts that can be learnt from.
    """
    able = {user: texts for user, texts in stored.items() if texts >= MIN_TEXTS}
    if len(able) < 2:
        raise _too_few(f"{len(able)} of {len(stored)} who share theirs have so many")
    judges = _held_out_users(able)
    learner = _Learner(history, encoder, tokenizer, recipe)
    judged = _gather({user: able[user] for user in judges}, learner.whole, MOST_HELD_OUT)
    others = {user: texts for user, texts in able.items() if user not in judges}
    trained = _gather(others, learner.past, most_texts)
    train, held_out = _newest_last(trained), _newest_last(judged)
    if not train or len(held_out) < MIN_HELD_OUT:
        left_out = explain(learner.left_out) or "none"
        raise _too_few(
            f"of those of {len(able)} users {len(train)} can be trained on and {len(held_out)} "
            f"judged by (left out: {left_out})"
        )
    dataset = Dataset(
        train,
        held_out,
        coverage=Coverage(0, ()),
        fingerprint=fingerprint(train),
        left_out=dict(sorted(learner.left_out.items())),
        trimmed=learner.trimmed,
    )
    return Population(dataset, tuple(sorted(trained)), len(judged))


class _Learner:
    """Makes each user's own dataset, and sums up what was left out of them."""

    def __init__(
        self,
        history: Callable[[int], History],
        encoder: Encoder,
        tokenizer: ChatTokenizer,
        recipe: Recipe,
    ) -> None:
        self._history = history
        self._encoder = encoder
        self._tokenizer = tokenizer
        self._recipe = recipe
        self.left_out: Counter[str] = Counter()
        self.trimmed = 0

    def past(self, user: int) -> Sequence[Example]:
        """All examples of a user but the newest fifth, oldest first."""
        built = self._learn(user)
        return built.train if built else ()

    def whole(self, user: int) -> Sequence[Example]:
        """All examples of a user, oldest first."""
        built = self._learn(user)
        return (*built.train, *built.held_out) if built else ()

    def _learn(self, user: int) -> Dataset | None:
        """Make the dataset of the user's own first refresh; None where that finds nothing."""
        try:
            built = learn_from(self._history(user), self._encoder, self._tokenizer, self._recipe)
        except NothingToLearnError:
            return None
        self.left_out.update(built.left_out)
        self.trimmed += built.trimmed
        return built


def _held_out_users(users: Iterable[int]) -> set[int]:
    """Choose who is held out: every fifth by id, and of two users at least the last one."""
    ordered = sorted(users)
    chosen = {user for user in ordered if user % HELD_OUT_EVERY == 0}
    return chosen if 0 < len(chosen) < len(ordered) else {ordered[-1]}


def _gather(
    stored: Mapping[int, int], examples: Callable[[int], Sequence[Example]], most: int
) -> dict[int, Sequence[Example]]:
    """Take each user's newest examples, evenly, and so many in all at most.

    Those with the fewest texts come first: what they cannot fill is left to the others. One
    user's examples at a time are more than what is taken.
    """
    taken: dict[int, Sequence[Example]] = {}
    order = sorted(stored, key=lambda user: (stored[user], user))
    for at, user in enumerate(order):
        share = most // (len(order) - at)
        found = examples(user)[-share:] if share else ()
        if found:
            taken[user] = found
            most -= len(found)
    return taken


def _newest_last(taken: Mapping[int, Sequence[Example]]) -> tuple[Example, ...]:
    """All users' examples in one row, by their place before the user's newest.

    The gate looks at the last ones of what was learnt: like this they are of many users.
    """
    placed = [
        (len(found) - row, user, example)
        for user, found in taken.items()
        for row, example in enumerate(found)
    ]
    placed.sort(key=lambda one: (-one[0], one[1]))
    return tuple(example for _, _, example in placed)


def _too_few(found: str) -> NothingToLearnError:
    return NothingToLearnError(
        f"A population adapter needs two users with at least {MIN_TEXTS} texts each, and {found}: "
        "let more users share their texts with `attune users share NAME`."
    )
