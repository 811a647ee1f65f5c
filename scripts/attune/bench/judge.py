"""A model that judges replies, behind an OpenAI-compatible endpoint.

What is asked and how its answers are read is up to each benchmark.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from urllib.parse import urlsplit

from openai import OpenAI, OpenAIError

from perce.errors import AttuneError
from perce.prompt import Message

Ask = Callable[[Sequence[Message]], str]
"""Puts a conversation to the judge and returns the answer; threads may share it."""


class NoVerdict(AttuneError):
    """The judge gave no verdict; check its address, --judge-model and --judge-key."""

    def __init__(self, judge: str, reason: object) -> None:
        super().__init__(
            f"The judge at {judge} gave no verdict: {reason}. "
            "Check that address, --judge-model and --judge-key."
        )


@dataclass(frozen=True, slots=True)
class Judge:
    """Where an LLM-as-judge answers: an OpenAI-compatible endpoint, a model there, a key.

    Raises:
        NoVerdict: The URL is no http address.
    """

    url: str
    model: str
    key: str

    def __post_init__(self) -> None:
        try:
            address = urlsplit(self.url)
            usable = address.scheme in ("http", "https") and address.hostname and address.port != 0
        except ValueError:  # a port that is no number
            usable = False
        if not usable:
            raise NoVerdict(self.url, "that is no http address")

    @contextmanager
    def connected(self, retries: int = 2) -> Iterator[Ask]:
        """Keep connections open for many questions.

        Asking raises `NoVerdict` where the judge does not answer, or not in OpenAI's format.

        Args:
            retries: How often a question is put again, after a pause that doubles each time
                or is as long as the endpoint asks for: where it cannot be reached, has too
                much to do (429) or fails (5xx).
        """
        with OpenAI(base_url=self.url, api_key=self.key, max_retries=retries) as client:
            yield partial(_ask, client, self)


def _ask(client: OpenAI, judge: Judge, messages: Sequence[Message]) -> str:
    try:
        completion = client.chat.completions.create(
            model=judge.model,
            messages=[{"role": m["role"], "content": m["content"]} for m in messages],
            temperature=0.0,
        )
    except (OpenAIError, json.JSONDecodeError) as error:
        raise NoVerdict(judge.url, error) from error
    try:
        # The client does not check what it got: any page at the address arrives here.
        answer: object = completion.choices[0].message.content or ""
    except (AttributeError, IndexError, TypeError) as error:
        raise NoVerdict(judge.url, "it answers, but not in OpenAI's chat format") from error
    if not isinstance(answer, str):
        raise NoVerdict(judge.url, "it answers, but not in OpenAI's chat format")
    return answer
