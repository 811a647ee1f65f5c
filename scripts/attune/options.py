"""Options that several commands share."""

from typing import Annotated

import typer

from ui.records import Contrast, Method

ContrastOption = Annotated[
    Contrast,
    typer.Option(help="What is taken away to see which words depend on it."),
]
AdapterOption = Annotated[
    str, typer.Option(help="Adapter to answer with: active, none, or a version such as v2.")
]
MethodOption = Annotated[
    Method, typer.Option(help="Loss: PerCE, or plain cross-entropy as its control.")
]
