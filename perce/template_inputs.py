"""What a chat template is given besides the messages: tools, and options of its own.

A prompt with persona and the one without must be given the same, or their difference would show
the template's work as the user's.
"""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.meta import find_undeclared_variables
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from transformers import PreTrainedTokenizerBase

# What transformers itself puts before a template.
_GIVEN = frozenset({"messages", "raise_exception", "strftime_now"})


@dataclass(frozen=True, slots=True)
class TemplateInputs:
    """What a prompt is rendered with besides its messages.

    Attributes:
        tools: Descriptions of tools, in OpenAI's shape; None where there are none.
        options: Values of the template's own variables, such as `enable_thinking`.
    """

    tools: Sequence[Mapping[str, Any]] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


MESSAGES_ALONE = TemplateInputs()


def option_names(tokenizer: PreTrainedTokenizerBase) -> frozenset[str]:
    """Names of the variables that a tokenizer's chat template leaves to its callers.

    Those that transformers fills, such as the tools or the special tokens, are not among them.
    """
    filled = inspect.signature(tokenizer.apply_chat_template).parameters
    return _variables(tokenizer.get_chat_template()).difference(
        filled, tokenizer.special_tokens_map, _GIVEN
    )


@lru_cache
def _variables(template: str) -> frozenset[str]:
    """Names that a template takes from outside."""
    environment = ImmutableSandboxedEnvironment(extensions=[_Generation, loopcontrols])
    found = find_undeclared_variables(environment.parse(template))
    return frozenset(found.difference(environment.globals))


class _Generation(Extension):
    """The `{% generation %}` blocks that transformers adds to Jinja: what is in them counts."""

    tags = {"generation"}  # noqa: RUF012 - declared so by Jinja

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)
