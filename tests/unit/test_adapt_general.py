from collections import Counter
from dataclasses import replace

import pytest

from adapt.general import general_replies
from adapt.word_order import shuffle_words
from perce.example import Example
from perce.tokens import ChatTokenizer


@pytest.fixture(scope="module")
def general(reference_tokenizer: ChatTokenizer) -> tuple[Example, ...]:
    return general_replies(reference_tokenizer)


def words(tokenizer: ChatTokenizer, example: Example) -> list[str]:
    return tokenizer.decode(example.reply_ids).split()


def test_the_set_has_conversations_with_and_without_persona(general: tuple[Example, ...]) -> None:
    personas = [reply.has_persona for reply in general]
    assert len(personas) == 24
    assert 8 <= sum(personas) <= 16
    assert len({reply.reply_ids for reply in general}) == 24
    assert not any(reply.dropped_texts for reply in general)


def test_the_last_reply_is_scored_after_all_that_was_said(
    general: tuple[Example, ...], reference_tokenizer: ChatTokenizer
) -> None:
    said = {reference_tokenizer.decode(reply.reply_ids).strip() for reply in general}
    assert (
        "The sun is far bigger. The moon only looks as big because it is so much closer to us."
        in said
    )
    [greeting] = [
        reference_tokenizer.decode(reply.prompt_ids)
        for reply in general
        if "I am sorry to hear that" in reference_tokenizer.decode(reply.reply_ids)
    ]
    assert "How are you today?" in greeting and "I worked all day" in greeting


def test_replies_end_as_replies_do(
    general: tuple[Example, ...], reference_tokenizer: ChatTokenizer
) -> None:
    ends = {reply.reply_ids[-1] for reply in general}
    assert ends == {reference_tokenizer.end_id}


def test_the_shuffled_copy_has_the_same_words_in_another_order(
    general: tuple[Example, ...], reference_tokenizer: ChatTokenizer
) -> None:
    moved = 0
    for reply in general:
        shuffled = shuffle_words(reply, reference_tokenizer, seed=1)
        assert shuffled.prompt_ids == reply.prompt_ids
        before, after = words(reference_tokenizer, reply), words(reference_tokenizer, shuffled)
        assert Counter(before) == Counter(after)
        moved += before != after
    assert moved == 24


def test_where_no_spaces_are_written_characters_are_shuffled(
    general: tuple[Example, ...], reference_tokenizer: ChatTokenizer
) -> None:
    text = "今日はとても良い天気なので公園を散歩してから友達と昼ご飯を食べました"
    ids = (*reference_tokenizer.reply_ids(text), reference_tokenizer.end_id)
    reply = replace(general[0], reply_ids=ids)
    shuffled = shuffle_words(reply, reference_tokenizer, seed=1)
    after = reference_tokenizer.decode(shuffled.reply_ids[:-1])
    assert after != text
    assert Counter(after) == Counter(text)


def test_a_seed_always_shuffles_alike(
    general: tuple[Example, ...], reference_tokenizer: ChatTokenizer
) -> None:
    first = general[0]
    same, again, other = (shuffle_words(first, reference_tokenizer, seed) for seed in (5, 5, 6))
    assert same == again != other
