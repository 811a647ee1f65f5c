"""What word order is measured on: copies that differ from their texts in it and in nothing else."""

from collections.abc import Sequence

import numpy as np

from adapt.word_order import OrderLosses, shuffle_words, word_order
from perce.evaluate import ExampleLoss
from perce.example import Example
from perce.tokens import ChatTokenizer

WORDS = ("waves", "opens", "dog", "before", "soft", "work", "sister", "and", "honestly", "the")


def reply(tokenizer: ChatTokenizer, text: str) -> Example:
    return Example((1,), (1,), (*tokenizer.reply_ids(text), tokenizer.end_id))


def text_of(tokenizer: ChatTokenizer, example: Example) -> str:
    return tokenizer.decode(example.reply_ids[:-1])


def liking_line_ends(tokenizer: ChatTokenizer, examples: Sequence[Example]) -> list[ExampleLoss]:
    """A scorer that finds line ends likely, and every other token alike."""
    return [
        ExampleLoss(
            np.array([0.1 if "\n" in tokenizer.decode([one]) else 4.0 for one in example.reply_ids])
        )
        for example in examples
    ]


def test_line_ends_and_double_spaces_are_no_order(chat_tokenizer: ChatTokenizer) -> None:
    lists = ["\n".join((*WORDS[start:], *WORDS[:start])) for start in range(10)]
    spaced = ["  ".join((*WORDS[start:], *WORDS[:start])) for start in range(10)]
    texts = [reply(chat_tokenizer, text) for text in (*lists, *spaced)]
    copies = [shuffle_words(one, chat_tokenizer, seed) for seed, one in enumerate(texts)]
    found = word_order(
        OrderLosses(
            liking_line_ends(chat_tokenizer, texts), liking_line_ends(chat_tokenizer, copies)
        )
    )
    assert abs(found.gain) < 0.05


def test_only_words_change_places(chat_tokenizer: ChatTokenizer) -> None:
    text = "  The waves,\n\nare soft\tand the  dog opens.\n"
    copy = text_of(chat_tokenizer, shuffle_words(reply(chat_tokenizer, text), chat_tokenizer, 3))
    assert copy != text
    assert sorted(copy.split()) == sorted(text.split())
    # Every gap is the one that was between the words before.
    for word in set(text.split()):
        text, copy = text.replace(word, "w"), copy.replace(word, "w")
    assert copy == text


def test_line_ends_stay_where_no_spaces_are_written(chat_tokenizer: ChatTokenizer) -> None:
    text = "今日はとても良い天気なので公園を散歩してから家に帰って\n友達と一緒に昼ご飯を食べました"
    copy = text_of(chat_tokenizer, shuffle_words(reply(chat_tokenizer, text), chat_tokenizer, 1))
    assert copy != text and sorted(copy) == sorted(text)
    assert copy.index("\n") == text.index("\n")


def test_a_text_of_nothing_but_gaps_is_its_own_copy(chat_tokenizer: ChatTokenizer) -> None:
    for text in ("", " \n "):
        example = reply(chat_tokenizer, text)
        assert shuffle_words(example, chat_tokenizer, 0) == example
