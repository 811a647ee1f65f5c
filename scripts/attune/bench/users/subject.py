"""A user as the benchmark sees one: examples to train on, and newer ones to test on."""

from dataclasses import dataclass, replace
from pathlib import Path

from adapt.dataset import Recipe, assemble
from adapt.past import past_texts
from perce.datasets.longlamp import read_longlamp
from perce.datasets.records import read_records
from perce.datasets.writers import Writer, Written, read_users
from perce.errors import AttuneError
from perce.example import Example
from perce.tokens import ChatTokenizer
from scripts.attune.bench.base import Base


class TooFewTexts(AttuneError):
    """A user has too few texts that fit to train on or to test on; raise --max-length."""


@dataclass(frozen=True, slots=True)
class Subject:
    """A user's examples, oldest first, each with the context of its own time.

    Attributes:
        references: What the user really wrote in the tests.
    """

    name: str
    train: tuple[Example, ...]
    test: tuple[Example, ...]
    references: tuple[str, ...]

    def without_context(self) -> "Subject":
        """The same tests, asked without the persona."""
        bare = tuple(replace(one, prompt_ids=one.prompt_ids_without) for one in self.test)
        return replace(self, test=bare)


def read_writers(file: Path, most_texts: int) -> list[Writer]:
    """Read a file in the users format or one of LongLaMP's, told by its first record.

    Raises:
        perce.datasets.records.UnreadableDataset: It is neither, or a line is broken.
    """
    _, first = next(read_records(file))
    return (read_longlamp if "profile" in first else read_users)(file, most_texts)


def prepare(writer: Writer, base: Base, recipe: Recipe) -> Subject:
    """Give each text its context, and split the user's texts as the file splits them.

    A text that does not fit the length limit by itself is left out.

    Args:
        writer: The user.
        base: Its tokenizer and its encoder are used.
        recipe: Size of each persona context, and how many texts share one in training.

    Raises:
        TooFewTexts: Then none is left to train on, or none to test on.
    """
    longest = recipe.max_length
    train = [one for one in writer.train if _fits(one, base.tokenizer, longest)]
    test = [one for one in writer.test if _fits(one, base.tokenizer, longest)]
    if not train or not test:
        raise TooFewTexts(
            f"{writer.name} has no text of at most {longest} tokens to "
            f"{'test' if train else 'train'} on. Raise --max-length or take the user out."
        )
    rows = (
        (number, one.query, one.text, float(number)) for number, one in enumerate((*train, *test))
    )
    past = past_texts(rows, base.encoder)
    dataset = assemble(past, (), base.tokenizer, recipe)
    examples = (*dataset.train, *dataset.held_out)
    split = len(examples) - len(test)
    references = tuple(one.text for one in test)
    return Subject(writer.name, examples[:split], examples[split:], references)


def _fits(written: Written, tokenizer: ChatTokenizer, longest: int) -> bool:
    prompt = tokenizer.prompt_ids([{"role": "user", "content": written.query}])
    return len(prompt) + tokenizer.count(written.text) + 1 <= longest
