"""What the log must not show."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from server.logs import configure_logs
from server.store.database import Database


@pytest.fixture(autouse=True)
def configured() -> Iterator[None]:
    configure_logs()
    yield
    structlog.reset_defaults()


def test_tracebacks_do_not_show_what_people_wrote(capsys: pytest.CaptureFixture[str]) -> None:
    diary = ["my", "secret"]
    try:
        raise ValueError(f"{len(diary)} entries are too few")
    except ValueError:
        structlog.get_logger().exception("unforeseen error")
    said = capsys.readouterr().out
    assert "unforeseen error" in said and "2 entries are too few" in said
    assert "secret" not in said


def test_errors_of_the_store_do_not_show_what_was_stored(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'attune.db'}")
    with pytest.raises(OperationalError) as caught, database.write() as session:
        session.execute(text("INSERT INTO nowhere VALUES (:diary)"), {"diary": "secret"})
    database.close()
    assert "secret" not in str(caught.value)
