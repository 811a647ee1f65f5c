"""Token ids of the tests' tiny models, without their control words."""

import random
from collections.abc import Callable


def random_ids(seed: int = 0) -> Callable[[int], list[int]]:
    """A source of as many ids as asked for; with each seed the same ones."""
    source = random.Random(seed)
    return lambda length: [source.randrange(3, 380) for _ in range(length)]
