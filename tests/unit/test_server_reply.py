import pytest

from perce.tokens import ChatTokenizer
from server.reply import Reply


@pytest.mark.parametrize(
    ("generated", "text"),
    [
        ("gerald is warm", "gerald is warm"),
        # What a stop string cuts off is among the ids, and not in the text.
        ("gerald is warm. And so", "gerald is warm"),
        ("so sooo ✨ warm", "so sooo ✨"),
        ("nothing of it", ""),
    ],
)
def test_shown_are_the_tokens_of_the_text(
    reference_tokenizer: ChatTokenizer, generated: str, text: str
) -> None:
    ids = [*reference_tokenizer.reply_ids(generated), reference_tokenizer.end_id]
    reply = Reply(text=text, token_ids=ids, logprobs=[-float(i) for i in range(len(ids))])
    shown, logprobs = reply.shown(reference_tokenizer.spans(ids))
    assert reference_tokenizer.decode(shown) == text
    assert logprobs == [-float(i) for i in range(len(shown))]


@pytest.mark.parametrize(
    ("said", "text", "begins"),
    [
        ("it is warm", "it is warm", True),
        ("it is warm. And", "it is warm", True),
        # Some tokenizers drop a text's first space, which the engine keeps behind a prompt.
        ("it is warm", " it is warm", True),
        # The engine does not send a character before it is whole.
        ("it is \ufffd", "it is ", True),
        ("<think>bread</think>it is warm", "it is warm", False),
        ("it is warm", "it is warm and well", False),
        ("a call", "", True),
    ],
)
def test_a_text_is_told_from_one_with_a_part_left_out(said: str, text: str, begins: bool) -> None:
    assert Reply(text=text).begins(said) == begins
