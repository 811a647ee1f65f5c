"""The general set: what a model must still be able to say after it was adapted to a user.

Two dozen short, plain conversations, stories and notes in `general.jsonl`, with a persona's
facts, with earlier texts, and with neither. They were written for this project; nobody's
texts are among them, and nothing is trained on them. They guard against forgetting, and say
nothing about how good a model is.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from perce.example import Example, encode
from perce.prompt import ContextItem, fact_items
from perce.tokens import ChatTokenizer

GENERAL_SET = Path(__file__).with_name("general.jsonl")
# Far above the longest of them, in any tokenizer.
_MAX_LENGTH = 4096


def general_replies(tokenizer: ChatTokenizer) -> tuple[Example, ...]:
    """The last reply of each conversation, with its prompt; the same for every user."""
    lines = GENERAL_SET.read_text(encoding="utf-8").splitlines()
    return tuple(_example(json.loads(line), tokenizer) for line in lines)


def _example(record: Mapping[str, Any], tokenizer: ChatTokenizer) -> Example:
    """Encode a conversation whose last message is the assistant's."""
    *messages, reply = record["messages"]
    texts = [ContextItem("text", one["text"], one["query"]) for one in record.get("texts", ())]
    context = [*fact_items(record.get("facts", ())), *texts]
    return encode(tokenizer, messages, context, reply["content"], _MAX_LENGTH)
