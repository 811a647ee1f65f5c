"""Near duplicates among one user's texts: MinHash finds candidates, exact counting decides.

The similarity of two texts is the Jaccard index of their sets of word triples: 1 for the
same words, about 0.8 where one word of thirty was changed. MinHash (Broder 1997, "On the
resemblance and containment of documents") with banding keeps the work near-linear in the
number of texts.
"""

import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]

SIMILAR = 0.8
"""From which Jaccard index of word triples on two texts are alike."""

_SHINGLE = 3
# A pair at similarity s shares a band with probability 1 - (1 - s^5)^24: .9999 at .8, .06 at .3.
_BANDS, _ROWS = 24, 5
# The estimate from 120 hashes is off by .037 on average at .8.
_WORTH_COUNTING = 0.65
_MOST_COUNTED = 8


class NearDuplicates:
    """Texts seen so far, each unlike all others."""

    def __init__(self) -> None:
        """Start with no texts."""
        draw = np.random.default_rng(0)
        self._factors, self._summands = (
            draw.integers(1, 2**63, (_BANDS * _ROWS, 1), np.uint64) for _ in range(2)
        )
        self._shingles: list[Hashes] = []
        self._signatures: list[NDArray[np.uint32]] = []
        self._bands: list[dict[bytes, list[int]]] = [{} for _ in range(_BANDS)]

    def add(self, words: Sequence[str]) -> bool:
        """Say whether a text is like one seen before; if not, it now counts as seen.

        Args:
            words: The text's words, one at least.
        """
        shingles = _shingles(words)
        signature = self._signature(shingles)
        keys = [band.tobytes() for band in signature.reshape(_BANDS, _ROWS)]
        if self._has_like(shingles, signature, keys):
            return True
        for bucket, key in zip(self._bands, keys, strict=True):
            bucket.setdefault(key, []).append(len(self._shingles))
        self._shingles.append(shingles)
        self._signatures.append(signature)
        return False

    def _has_like(
        self, shingles: Hashes, signature: NDArray[np.uint32], keys: Sequence[bytes]
    ) -> bool:
        met = {
            row
            for bucket, key in zip(self._bands, keys, strict=True)
            for row in bucket.get(key, ())
        }
        if not met:
            return False
        rows = np.fromiter(sorted(met), int)
        estimates = (np.stack([self._signatures[row] for row in rows]) == signature).mean(1)
        nearest = np.argsort(-estimates, kind="stable")[:_MOST_COUNTED]
        return any(
            _jaccard(shingles, self._shingles[rows[at]]) >= SIMILAR
            for at in nearest
            if estimates[at] >= _WORTH_COUNTING
        )

    def _signature(self, shingles: Hashes) -> NDArray[np.uint32]:
        """The smallest value that each of 120 hash functions (multiply-shift) takes."""
        hashed = (shingles * self._factors + self._summands) >> np.uint64(32)
        smallest: Hashes = hashed.min(1)
        return smallest.astype(np.uint32)


def _shingles(words: Sequence[str]) -> Hashes:
    """The different hashes of all word triples, ascending; of a shorter text, that of all words.

    CRC32, because Python's own hash differs between processes.
    """
    hashes = np.array([zlib.crc32(word.encode()) for word in words], np.uint64)
    size = min(_SHINGLE, len(words))
    mixed = np.zeros(len(words) - size + 1, np.uint64)
    for offset in range(size):
        mixed = mixed * np.uint64(0x9E3779B97F4A7C15) + hashes[offset : offset + len(mixed)]
    return np.unique(mixed)


def _jaccard(first: Hashes, second: Hashes) -> float:
    common = len(np.intersect1d(first, second, assume_unique=True))
    return common / (len(first) + len(second) - common)
