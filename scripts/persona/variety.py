"""How varied a corpus is: the share of its n-grams that are distinct."""

from collections import Counter
from collections.abc import Iterable


def unique_share(texts: Iterable[str], n: int) -> float:
    """Share of distinct n-grams of words among all n-grams; 1 if none repeats, 0 if none.

    Args:
        texts: The texts; n-grams do not cross from one to the next.
        n: Words in an n-gram.
    """
    counts: Counter[tuple[str, ...]] = Counter()
    for text in texts:
        words = text.split()
        counts.update(tuple(words[i : i + n]) for i in range(len(words) - n + 1))
    total = counts.total()
    return len(counts) / total if total else 0.0
