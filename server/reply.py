"""A reply as it comes back from the engine: its text, token ids and logprobs.

Built from a whole response or chunk by chunk. Of several choices only the first is kept: it
is the one that is logged and explained.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Reply:
    """The first choice of a chat response.

    Attributes:
        token_ids: Ids of the generated tokens, the one that ends the reply included.
        logprobs: Their natural-log probabilities, before temperature.
    """

    id: str = ""
    text: str = ""
    prompt_token_ids: list[int] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    _running: set[int] = field(default_factory=set, init=False, repr=False)

    def add(self, part: Mapping[str, Any]) -> None:
        """Take in a response or a chunk of a stream."""
        self.id = part["id"]
        # They come once with each choice.
        if not self.prompt_token_ids:
            self.prompt_token_ids = part.get("prompt_token_ids") or []
        for choice in part["choices"]:
            if choice.get("finish_reason"):
                self._running.discard(choice["index"])
            else:
                self._running.add(choice["index"])
            if choice["index"] != 0:
                continue
            message = choice.get("message") or choice.get("delta") or {}
            self.text += message.get("content") or ""
            self.token_ids += choice.get("token_ids") or []
            scored = (choice.get("logprobs") or {}).get("content") or []
            self.logprobs += [float(token["logprob"]) for token in scored]

    @property
    def complete(self) -> bool:
        """Whether the text of every choice is: in a stream only usage may follow.

        The engine opens all choices before it sends text of any.
        """
        return not self._running

    def shown(self, spans: Sequence[tuple[int, int]]) -> tuple[list[int], list[float]]:
        """Return ids and logprobs of the tokens that show in the text.

        Left out are the token that ends the reply, and those that a stop string cut off.

        Args:
            spans: Where each of `token_ids` lies in the text that they decode to.
        """
        count = sum(start < len(self.text) for start, _ in spans)
        return self.token_ids[:count], self.logprobs[:count]

    def begins(self, said: str) -> bool:
        """Tell whether the text is the beginning of what the tokens say.

        A stop string cuts the end off. What a parser in the engine takes out, such as the
        thinking before the answer, leaves a text in which the tokens cannot be placed.

        Args:
            said: What `token_ids` decode to.
        """
        return _comparable(said).startswith(_comparable(self.text))


def _comparable(text: str) -> str:
    """A text without what the same tokens decode to in one way or another.

    The engine decodes behind the prompt, where a first space may stay that is dropped at a
    text's start; and it decodes piece by piece, which differs in bytes that are no character.
    """
    return text.replace("\ufffd", "").lstrip()


_ENGINE_ONLY = (
    "prompt_token_ids",
    "prompt_text",
    "prompt_logprobs",
    "kv_transfer_params",
    "ec_transfer_params",
    "metrics",
)


def strip(part: dict[str, Any], keep_logprobs: bool) -> dict[str, Any]:
    """Remove from a response or chunk what only the gateway asked for or needs."""
    for key in _ENGINE_ONLY:
        part.pop(key, None)
    for choice in part["choices"]:
        choice.pop("token_ids", None)
        choice.pop("routed_experts", None)
        if not keep_logprobs:
            choice.pop("logprobs", None)
    return part
