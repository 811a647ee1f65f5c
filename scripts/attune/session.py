"""What every command shares: the gateway's address and key, and where results go.

`connected` gives a command the options `--url`, `--key`, `--home` and `--json`, so that each
command's function takes just a `Session` and its own arguments.
"""

import functools
import inspect
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Concatenate, ParamSpec

import typer
from pydantic import BaseModel
from rich.console import Console, RenderableType

from perce.errors import AttuneError
from ui.gateway import Gateway

HOME = Path(__file__).resolve().parents[2] / ".attune"
KEY_FILE = "admin.key"

Url = Annotated[
    str,
    typer.Option(
        "--url",
        envvar="ATTUNE_URL",
        help="Base address of the gateway.",
        rich_help_panel="Connection",
    ),
]
Key = Annotated[
    str,
    typer.Option(
        "--key",
        envvar="ATTUNE_KEY",
        help="Key of the gateway; else the admin key in HOME is read.",
        show_default=False,
        show_envvar=True,
        rich_help_panel="Connection",
    ),
]
Home = Annotated[
    Path,
    typer.Option(
        "--home",
        envvar="ATTUNE_HOME",
        help=f"Folder of the installation's state, with the file {KEY_FILE}.",
        rich_help_panel="Connection",
    ),
]
AsJson = Annotated[
    bool,
    typer.Option("--json", help="Print one JSON object with the results and nothing else."),
]

P = ParamSpec("P")


class NoKeyError(AttuneError):
    """There is no key to reach the gateway with."""

    def __init__(self, home: Path) -> None:
        super().__init__(
            f"No key: pass --key, set ATTUNE_KEY, or name with --home the folder that "
            f"holds {KEY_FILE} ({home} has none)."
        )


@dataclass(frozen=True, slots=True)
class Session:
    """One command's connection to the gateway and its output.

    Attributes:
        gateway: The gateway, with an address and a key.
        as_json: Whether results are printed as one JSON object.
        console: Where results go.
        notes: Where progress and remarks go (standard error).
    """

    gateway: Gateway
    as_json: bool
    console: Console
    notes: Console

    def show(self, result: BaseModel | dict[str, Any], view: Callable[[], RenderableType]) -> None:
        """Print a result: as JSON where that was asked for, else as `view` draws it."""
        if self.as_json:
            self.print_json(result)
        else:
            self.console.print(view())

    def print_json(self, result: BaseModel | dict[str, Any]) -> None:
        """Print a result as one JSON object."""
        plain = _dumped(result) if isinstance(result, BaseModel) else result
        typer.echo(json.dumps(plain, ensure_ascii=False, indent=2))


def connected(command: Callable[Concatenate[Session, P], None]) -> Callable[..., None]:
    """Turn a function of a session and its own arguments into a command with an address."""

    @functools.wraps(command)
    def run(*, url: str, key: str, home: Path, as_json: bool, **arguments: Any) -> None:  # noqa: ANN401
        with Gateway(url, key or read_key(home)) as gateway:
            session = Session(gateway, as_json, Console(), Console(stderr=True))
            # The signature below is what typer reads, so these are the command's own arguments.
            command(session, **arguments)  # type: ignore[call-arg]

    own = list(inspect.signature(command).parameters.values())[1:]
    added = list(inspect.signature(_connection).parameters.values())
    parameters = [*own, *added]
    # Typer reads the signature, not the code: this is where the four options join.
    run.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in parameters]
    )
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def read_key(home: Path) -> str:
    """Read the admin key that the installation in `home` wrote.

    Raises:
        NoKeyError: There is none.
    """
    try:
        return (home / KEY_FILE).read_text(encoding="utf-8").strip()
    except OSError:
        raise NoKeyError(home) from None


def dumped(records: Sequence[BaseModel]) -> list[dict[str, Any]]:
    """Records as the gateway sent them."""
    return [_dumped(record) for record in records]


def _dumped(record: BaseModel) -> dict[str, Any]:
    return record.model_dump(mode="json", exclude_unset=True)


def _connection(
    url: Url = "http://127.0.0.1:8000",
    key: Key = "",
    home: Home = HOME,
    as_json: AsJson = False,
) -> None:
    """The options that `connected` adds."""
