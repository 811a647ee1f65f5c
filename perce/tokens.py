"""Text to token ids and back, for one model: prompts, replies, and characters of tokens.

Torch-free by itself. Loading goes through transformers' `AutoTokenizer`, as vLLM does, so
that both render the same messages to the same ids. What the prompts say is `perce.prompt`;
how characters are found is `perce.spans`.
"""

import json
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any, Self

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from perce.control_words import ControlWords
from perce.errors import AttuneError
from perce.prompt import ContextItem, Message, PromptPair, prompt_pair
from perce.spans import token_spans
from perce.template_inputs import MESSAGES_ALONE, TemplateInputs, option_names


class NoChatTemplate(AttuneError):
    """The model has no chat template; choose a chat model, or add one to its tokenizer."""


class NoEndToken(AttuneError):
    """Nothing says which token ends a reply; set eos_token in tokenizer_config.json."""


class TemplateRefusal(AttuneError):
    """The model's chat template refuses the messages; change their roles or their order."""


class UnsupportedContent(AttuneError):
    """A message holds content other than text; remove images, audio and files."""


class ChatTokenizer:
    """A chat model's tokenizer.

    Attributes:
        end_id: The id that ends a reply, such as that of `<|im_end|>`.
        control: The words that prompts read as control tokens.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, end_id: int) -> None:
        self._tokenizer = tokenizer
        # A copy, because transformers switches special tokens on and off inside the shared
        # tokenizer, which a thread that renders a prompt at the same time would see.
        self._plain = deepcopy(tokenizer)
        self._plain.split_special_tokens = True
        # The first text sets the copy up, which threads that come together would do at once.
        self._plain.encode("")
        self._special = frozenset(tokenizer.all_special_ids)
        self.control = ControlWords.of(tokenizer)
        self.end_id = end_id

    @classmethod
    def load(cls, model: str) -> Self:
        """Load the tokenizer of a Hugging Face model name or a local folder.

        Raises:
            NoChatTemplate: The tokenizer has none.
            OSError: There is no such model; from transformers, which says where it looked.
        """
        # Imported here: it pulls in torch where torch is installed, which users of this
        # module's pure parts need not pay for.
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(model)
        if not tokenizer.chat_template:
            raise NoChatTemplate(
                f"{model} has no chat template. Choose a chat model or add one to its tokenizer."
            )
        return cls(tokenizer, _end_id(tokenizer, _generation_end_ids(model)))

    def prompts(self, messages: Sequence[Message], context: Sequence[ContextItem]) -> PromptPair:
        """Build a conversation's prompts with and without persona, free of control words.

        All prompts that show what users wrote are built here, in training, serving and PIR, so
        that they agree token for token and no text opens or closes a message. Messages that
        went through here once are not changed again.
        """
        return prompt_pair(
            [self.control.message(message) for message in messages],
            [self.control.item(item) for item in context],
        )

    def template_inputs(
        self, tools: Sequence[Mapping[str, Any]] | None, options: Mapping[str, Any]
    ) -> TemplateInputs:
        """Prepare what a request gives the template, free of control words.

        Options that the template does not know are left out; vLLM ignores them, too.
        """
        known = {
            name: value for name, value in options.items() if name in option_names(self._tokenizer)
        }
        return TemplateInputs(
            None if tools is None else self.control.tools(tools),
            self.control.options(known),
        )

    def prompt_ids(
        self, messages: Sequence[Message], inputs: TemplateInputs = MESSAGES_ALONE
    ) -> list[int]:
        """Render a conversation, with the opening of the assistant's reply, to token ids.

        Equal to what vLLM's chat endpoint renders for the same messages and inputs.

        Raises:
            UnsupportedContent: A message holds something other than text.
            TemplateRefusal: The template refuses the messages, such as roles out of turn.
        """
        conversation = [_as_rendered_by_vllm(message) for message in messages]
        try:
            ids: list[int] = self._tokenizer.apply_chat_template(
                conversation,
                tools=None if inputs.tools is None else list(inputs.tools),
                add_generation_prompt=True,
                tokenize=True,
                return_dict=False,
                **inputs.options,
            )
        except TemplateError as error:
            raise TemplateRefusal(
                f"The model's chat template refuses these messages: {error}. "
                "Change their roles or their order."
            ) from error
        return ids

    def reply_ids(self, text: str) -> list[int]:
        """Token ids of a text; one that spells out a special token yields no special id."""
        ids: list[int] = self._plain.encode(text, add_special_tokens=False)
        return ids

    def pulled_apart(self, text: str) -> str:
        """The text without control words; see `perce.control_words`."""
        return self.control.pulled_apart(text)

    def count(self, text: str) -> int:
        """How many tokens a text has."""
        return len(self.reply_ids(text))

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids; special tokens are skipped."""
        text: str = self._tokenizer.decode(
            list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text

    def spans(self, ids: Sequence[int]) -> list[tuple[int, int]]:
        """Where each token's characters lie in `decode(ids)`.

        A token that starts or ends inside a character gets the whole character, so the spans
        of tokens that share one overlap. A special token has an empty span where it stands.

        Args:
            ids: n token ids.

        Returns:
            n pairs (start, end), `0 <= start <= end <= len(decode(ids))`, starts ascending.
        """
        text_ids = [token for token in ids if token not in self._special]
        placed = iter(token_spans(text_ids, self.decode))
        spans: list[tuple[int, int]] = []
        here = 0
        for token in ids:
            start, end = (here, here) if token in self._special else next(placed)
            spans.append((start, end))
            here = end
        return spans


def _generation_end_ids(model: str) -> set[int]:
    """Ids at which the model's generation config stops; none where it has no such file."""
    from transformers import GenerationConfig  # imports torch, like AutoTokenizer

    try:
        end = GenerationConfig.from_pretrained(model).eos_token_id
    except OSError:
        return set()
    return set(end) if isinstance(end, list) else {end} - {None}


def _end_id(tokenizer: PreTrainedTokenizerBase, stops: set[int]) -> int:
    """The stop id that the chat template writes after a reply.

    A generation config may list several (end of text, of turn, of message), in any order.
    """
    stops = stops | {tokenizer.eos_token_id} - {None}
    exchange = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hello"}]
    rendered = tokenizer.apply_chat_template(exchange, tokenize=True, return_dict=False)
    written = [token for token in rendered if token in stops]
    if written:
        return int(written[-1])
    if tokenizer.eos_token_id is None:
        raise NoEndToken(
            f"{tokenizer.name_or_path} says neither in its chat template nor in its tokenizer "
            "which token ends a reply. Set eos_token in tokenizer_config.json."
        )
    return int(tokenizer.eos_token_id)


def _as_rendered_by_vllm(message: Message) -> dict[str, Any]:
    """Bring a message to the form that vLLM hands to the template.

    Text parts are joined by line ends, no content is empty content, and the arguments of
    tool calls are parsed (vLLM 0.32, `renderers/chat_utils.py`).
    """
    rendered = dict(message)
    rendered["content"] = _text_of(message.get("content"))
    if message["role"] == "assistant" and message.get("tool_calls"):
        rendered["tool_calls"] = [_with_parsed_arguments(call) for call in message["tool_calls"]]
    else:
        rendered.pop("tool_calls", None)
    return rendered


def _text_of(content: str | Sequence[str | Mapping[str, Any]] | None) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    parts = []
    for part in content:
        if not isinstance(part, str) and part.get("type") != "text":
            raise UnsupportedContent(
                f"A message holds content of type {part.get('type')!r}, but only text is "
                "supported here. Send text."
            )
        parts.append(part if isinstance(part, str) else str(part["text"]))
    return "\n".join(parts)


def _with_parsed_arguments(call: Mapping[str, Any]) -> dict[str, Any]:
    function = dict(call["function"])
    arguments = function.get("arguments") or {}
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except json.JSONDecodeError:
            arguments = {}  # vLLM does the same, so that the conversation can go on
    function["arguments"] = arguments if isinstance(arguments, dict) else {}
    return {**call, "function": function}
