"""What every answer of the gateway is: a record, or a page of them; and how it is read.

Fields that a newer gateway adds are kept (`extra="allow"`), so that a record printed as
JSON holds everything that was sent. The records themselves are in `ui.records`.
"""

from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from ui.transport import GatewayError

R = TypeVar("R", bound="Record")


class Record(BaseModel):
    """One object of an answer."""

    model_config = ConfigDict(extra="allow", frozen=True)


class Page(Record):
    """A list in OpenAI's shape, or a part of one."""

    data: tuple[dict[str, Any], ...]
    next: int | None = None
    """Where the page behind it starts, for lists that come in pages; None at the end."""


def parsed(kind: type[R], answer: object) -> R:
    """Read an answer as a record.

    Raises:
        GatewayError: It is none of that kind.
    """
    try:
        return kind.model_validate(answer)
    except ValidationError as error:
        raise GatewayError(
            f"The gateway's answer is not a {kind.__name__} as this client knows it "
            f"({error.error_count()} fields differ). Run client and gateway in the same version."
        ) from error


def records_of(kind: type[R], answer: object) -> list[R]:
    """Read an answer as a page of records.

    Raises:
        GatewayError: It is none, or one of its records is not of that kind.
    """
    return [parsed(kind, item) for item in parsed(Page, answer).data]
