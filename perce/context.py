"""Choosing the persona context: which facts and earlier texts a prompt shows, in a budget.

The same choice serves a chat, a PIR request and a training example, so that the model is
trained on the contexts it meets. Finding out how near an item is to the query is
`perce.retrieval`; writing the items down is `perce.prompt`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from perce.prompt import ContextItem


@dataclass(frozen=True, slots=True)
class Candidate:
    """An item that may enter the context.

    Attributes:
        id: Names the item for whoever asks what was used, such as `fact:3`.
        item: The fact or text.
        score: Nearness to the query: cosine similarity.
        position: Orders items of a kind; larger is newer.
    """

    id: str
    item: ContextItem
    score: float
    position: float


def select_context(
    candidates: Sequence[Candidate],
    max_tokens: int,
    max_texts: int,
    count_tokens: Callable[[str], int],
) -> list[Candidate]:
    """Choose facts, then texts, each by score, as long as they fit the token budget.

    Facts may take the whole budget: they are short, and they are what a persona is.
    An item that does not fit is passed over for a smaller one behind it.

    Returns:
        The chosen items as the prompt shows them: facts, then texts, each oldest first,
        so that two conversations of a user share as long a prefix as possible.
    """
    facts = [c for c in candidates if c.item.kind == "fact"]
    texts = [c for c in candidates if c.item.kind == "text"]
    chosen: list[Candidate] = []
    left = max_tokens
    for group, most in ((facts, len(facts)), (texts, max_texts)):
        taken: list[Candidate] = []
        for candidate in sorted(group, key=lambda c: (-c.score, -c.position)):
            if len(taken) == most:
                break
            cost = count_tokens(candidate.item.query) + count_tokens(candidate.item.text)
            if cost <= left:
                left -= cost
                taken.append(candidate)
        chosen += sorted(taken, key=lambda c: c.position)
    return chosen
