"""Small talk: what is said before, between and after questions, whoever answers."""

import random
from collections.abc import Mapping, Sequence

from scripts.persona.people import Turn
from scripts.persona.tables import Exchange

_GREETED, _INTERRUPTED, _ENDED = 0.15, 0.08, 0.08


class SmallTalk:
    """Puts small talk around the turns of a conversation, now and then.

    Args:
        exchanges: By kind: `greeting`, `hello`, `thanks`, `praise` and `goodbye`.
    """

    def __init__(self, exchanges: Mapping[str, Exchange]) -> None:
        self.exchanges = exchanges

    def around(self, rng: random.Random, turns: Sequence[Turn]) -> list[Turn]:
        """Begin with a greeting, interrupt with thanks or praise, end with a goodbye; or not."""
        talk = list(turns)
        if rng.random() < _INTERRUPTED:
            talk.insert(rng.randint(1, len(talk)), self._turn(rng, "thanks", "praise"))
        if rng.random() < _GREETED:
            talk.insert(0, self._turn(rng, "greeting", "greeting", "hello"))
        if rng.random() < _ENDED:
            talk.append(self._turn(rng, "goodbye"))
        return talk

    def _turn(self, rng: random.Random, *kinds: str) -> Turn:
        exchange = self.exchanges[rng.choice(kinds)]
        return Turn(rng.choice(exchange.said), rng.choice(exchange.answers))
