"""Options that several benchmarks have."""

from pathlib import Path
from typing import Annotated, Literal

import typer

REFERENCE = Path(__file__).parents[3] / "perce" / "reference"

Model = Annotated[str, typer.Option(help="Base model: a name or a folder.")]
Shape = Annotated[
    Path | None,
    typer.Option(
        "--config",
        exists=True,
        dir_okay=False,
        help="A Hugging Face config.json: random weights of that shape.",
    ),
]
Device = Annotated[str, typer.Option(help="Such as cpu or cuda:0; default: CUDA if there is.")]
Dtype = Annotated[
    Literal["float32", "bfloat16"] | None,
    typer.Option(help="Of the base's weights; default: bfloat16 on CUDA, float32 on CPUs."),
]
Autocast = Annotated[
    bool, typer.Option("--autocast", help="Matrix products in bfloat16, as the option of training.")
]
PromptTokens = Annotated[int, typer.Option("--prompt", min=1, help="Tokens with persona.")]
WithoutTokens = Annotated[
    int, typer.Option("--without", min=1, help="Tokens of the prompt without persona.")
]
ReplyTokens = Annotated[int, typer.Option("--reply", min=1, help="Tokens of the reply.")]

JudgeKey = Annotated[
    str, typer.Option(envvar="OPENAI_API_KEY", help="Key of the judge's endpoint.")
]
Epochs = Annotated[int, typer.Option(min=1, help="Passes over a user's texts.")]
MaxLength = Annotated[int, typer.Option(min=1, help="Longest example in tokens.")]
ContextTokens = Annotated[int, typer.Option(min=0, help="Most tokens of a context.")]
ContextTexts = Annotated[int, typer.Option(min=0, help="Most texts in a context.")]
Work = Annotated[Path | None, typer.Option(help="Keep what was computed here, and go on from it.")]
