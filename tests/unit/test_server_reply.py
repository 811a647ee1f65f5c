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
