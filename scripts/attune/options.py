"""An option that several commands share."""

from typing import Annotated

import typer

AdapterOption = Annotated[
    str, typer.Option(help="Adapter to answer with: active, none, or a version such as v2.")
]
