"""LongLaMP's three public tasks in the user setting, as the hub's `LongLaMP/LongLaMP` has them.

Abstract generation, product review writing and topic writing (Kumar et al. 2024,
arXiv:2407.11016). A record is one user: an `input`, the `output` that the user wrote for it,
and a `profile` of earlier texts; who the user is stands in `name`, `reviewerId` or `author`,
which tells the task. A profile holds texts without queries, so each is given the query that
the task would have asked; an abstract's lacks the keywords that `input` lists.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from perce.datasets.records import Record, UnreadableDataset, read_records, text_of
from perce.datasets.writers import Writer, Written


@dataclass(frozen=True, slots=True)
class Task:
    """What differs between the tasks.

    Attributes:
        user: The field that names the user.
        text: The field of a profile entry that holds the user's text.
        query: Writes the query that a profile entry answers.
    """

    user: str
    text: str
    query: Callable[[Record], str]


def _abstract_query(entry: Record) -> str:
    return f'Generate an abstract for the title "{_shown(entry, "title")}"'


def _review_query(entry: Record) -> str:
    return (
        "Generate the review text written by a reviewer who has a given an overall rating of "
        f'"{_shown(entry, "overall")}" for a product with description '
        f'"{_shown(entry, "description")}". The summary of the review text is '
        f'"{_shown(entry, "summary")}".'
    )


def _topic_query(entry: Record) -> str:
    return f"Generate the content for a reddit post {_shown(entry, 'summary')}"


TASKS = {
    "abstract_generation": Task("name", "abstract", _abstract_query),
    "product_review": Task("reviewerId", "reviewText", _review_query),
    "topic_writing": Task("author", "content", _topic_query),
}


def read_longlamp(path: Path, most_texts: int | None = None) -> list[Writer]:
    """Read a task's records: each user's profile trains, the output tests.

    Profile entries without a text are left out, as are users without any; abstracts are
    ordered by their year, other entries stay in the file's order. Of a user with several
    records the first is taken: its output may stand in the others' profiles.

    Args:
        path: The records, as JSON or JSON lines.
        most_texts: Take only so many of each profile's texts, the last ones.

    Raises:
        UnreadableDataset: A record is not of the release's form, or none can be used.
    """
    writers = [_writer(record, place, most_texts) for place, record in read_records(path)]
    first = {writer.name: writer for writer in reversed(writers) if writer.train}
    usable = list(reversed(first.values()))
    if not usable:
        raise UnreadableDataset(f"No user of {path} has a profile. Give the release's own files.")
    return usable


def _writer(record: Record, place: str, most_texts: int | None) -> Writer:
    task = _task(record, place)
    profile = record.get("profile")
    if not isinstance(profile, list) or not all(isinstance(entry, dict) for entry in profile):
        raise UnreadableDataset(f"{place}: 'profile' is no list of objects. Correct it.")
    entries = [entry for entry in profile if str(entry.get(task.text) or "").strip()]
    entries.sort(key=_year)
    newest = entries[-most_texts:] if most_texts else entries
    return Writer(
        text_of(record, task.user, place),
        tuple(Written(task.query(entry), str(entry[task.text])) for entry in newest),
        (Written(text_of(record, "input", place), text_of(record, "output", place)),),
    )


def _task(record: Record, place: str) -> Task:
    for task in TASKS.values():
        if task.user in record:
            return task
    fields = ", ".join(task.user for task in TASKS.values())
    raise UnreadableDataset(f"{place}: none of {fields} names the user. Add the task's field.")


def _year(entry: Record) -> int:
    year = str(entry.get("year") or "")
    return int(year) if year.isdecimal() else 0


def _shown(entry: Record, name: str) -> str:
    value = entry.get(name)
    return "" if value is None else str(value)
