from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from perce.prompt import ContextItem, prompt_pair
from perce.tokens import (
    ChatTokenizer,
    NoChatTemplate,
    TemplateRefusal,
    UnsupportedContent,
)

TEXTS = st.text(
    st.one_of(
        st.characters(codec="utf-8"),
        st.sampled_from("  \n.,!é😀👩\u200d🚀e\u0301\ufffd日本"),
    ),
    max_size=60,
)


def sentencepiece_like() -> ChatTokenizer:
    """Metaspace with byte fallback, as Llama 2 and Gemma decode; a token per character."""
    vocab = {"<unk>": 0, "</s>": 1} | {f"<0x{byte:02X}>": byte + 2 for byte in range(256)}
    for character in "▁abcdefghijklmnopqrstuvwxyz.,!é":
        vocab[character] = len(vocab)
    bpe = Tokenizer(models.BPE(vocab, [], unk_token="<unk>", byte_fallback=True))
    bpe.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    bpe.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="</s>")
    return ChatTokenizer(tokenizer, end_id=1)


def byte_level() -> tuple[ChatTokenizer, dict[int, bytes]]:
    """A token per byte, and some that hold parts of characters; with each token's bytes."""
    letters = bytes_to_unicode()
    runs = [bytes([byte]) for byte in range(256)]
    runs += [b"ab", b"\xc3\xa9", b"a\xc3", b"\xa9b", b"\xf0\x9f", b"\x98\x80 ", b"\xef\xbf\xbd"]
    vocab = {"".join(letters[byte] for byte in run): index for index, run in enumerate(runs)}
    bpe = Tokenizer(models.BPE(vocab, []))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<end>")
    end_id = tokenizer.convert_tokens_to_ids("<end>")
    return ChatTokenizer(tokenizer, end_id=end_id), dict(enumerate(runs))


def bytes_to_unicode() -> dict[int, str]:
    """GPT-2's printable stand-ins for bytes, from their definition."""
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    moved = [byte for byte in range(256) if byte not in kept]
    return {byte: chr(byte) for byte in kept} | {b: chr(256 + i) for i, b in enumerate(moved)}


def spans_from_bytes(runs: list[bytes]) -> list[tuple[int, int]]:
    """Where each run's characters lie in valid UTF-8, counted byte by byte."""
    character_at = []
    for index, character in enumerate(b"".join(runs).decode()):
        character_at += [index] * len(character.encode())
    spans, here = [], 0
    for run in runs:
        own = character_at[here : here + len(run)]
        spans.append((own[0], own[-1] + 1))
        here += len(run)
    return spans


SENTENCEPIECE = sentencepiece_like()
BYTE_LEVEL, RUN_OF = byte_level()


def assert_covers(tokenizer: ChatTokenizer, ids: list[int]) -> None:
    reply, spans = tokenizer.decode(ids), tokenizer.spans(ids)
    assert len(spans) == len(ids)
    assert all(0 <= start <= end <= len(reply) for start, end in spans)
    assert [start for start, _ in spans] == sorted(start for start, _ in spans)
    assert {place for span in spans for place in range(*span)} == set(range(len(reply)))


@given(text=TEXTS)
def test_spans_cover_any_text_of_a_trained_byte_level_bpe(
    chat_tokenizer: ChatTokenizer, text: str
) -> None:
    ids = chat_tokenizer.reply_ids(text)
    assert chat_tokenizer.decode(ids) == text
    assert_covers(chat_tokenizer, [*ids, chat_tokenizer.end_id])


@given(text=TEXTS)
def test_spans_cover_any_text_of_a_sentencepiece_tokenizer(text: str) -> None:
    ids = SENTENCEPIECE.reply_ids(text)
    assert SENTENCEPIECE.decode(ids) == text
    assert_covers(SENTENCEPIECE, ids)
    for (start, end), character in zip(
        (span for span in SENTENCEPIECE.spans(ids)), _character_of_each_token(text), strict=True
    ):
        assert text[start:end] == character


def _character_of_each_token(text: str) -> list[str]:
    """The character that each token of `SENTENCEPIECE` belongs to; first the dummy space."""
    if not text:
        return []
    known = "abcdefghijklmnopqrstuvwxyz.,!é ▁"
    counts = [(char, 1 if char in known else len(char.encode())) for char in text]
    return ["", *(char for char, count in counts for _ in range(count))]


@given(ids=st.lists(st.sampled_from(sorted(RUN_OF)), max_size=40))
def test_spans_equal_those_counted_in_bytes(ids: list[int]) -> None:
    runs = [RUN_OF[token] for token in ids]
    try:
        expected = spans_from_bytes(runs)
    except UnicodeDecodeError:
        assert_covers(BYTE_LEVEL, ids)
    else:
        assert BYTE_LEVEL.spans(ids) == expected


@given(text=TEXTS, data=st.data())
def test_spans_equal_those_counted_in_bytes_for_misaligned_tokens(
    text: str, data: st.DataObject
) -> None:
    ids_of = {run: token for token, run in RUN_OF.items()}
    left, ids = text.encode(), []
    while left:
        fitting = [run for run in ids_of if left.startswith(run)]
        run = data.draw(st.sampled_from(fitting))
        ids.append(ids_of[run])
        left = left[len(run) :]
    assert BYTE_LEVEL.spans(ids) == spans_from_bytes([RUN_OF[token] for token in ids])


@pytest.mark.parametrize("text", ["\ufffd" * 300, "a" * 2000, "😀" * 200])
def test_long_runs_are_placed_without_decoding_the_whole_text_for_each_token(text: str) -> None:
    tokenizer, _ = byte_level()
    ids_of = {run: token for token, run in RUN_OF.items()}
    ids = [ids_of[bytes([byte])] for byte in text.encode()]
    decoded: list[int] = []
    decode = tokenizer.decode

    class Counting(ChatTokenizer):
        def decode(self, ids: object) -> str:
            assert isinstance(ids, list)
            decoded.append(len(ids))
            return decode(ids)

    counting = Counting(tokenizer._tokenizer, tokenizer.end_id)
    assert counting.spans(ids) == spans_from_bytes([RUN_OF[token] for token in ids])
    assert sum(decoded) < 40 * len(ids)


def test_a_reply_cut_inside_a_character_gives_its_tokens_the_whole_of_it() -> None:
    ids_of = {run: token for token, run in RUN_OF.items()}
    ids = [ids_of[b"ab"], ids_of[b"\xf0\x9f"], ids_of[b"\x98"]]
    assert BYTE_LEVEL.decode(ids) == "ab\ufffd"
    assert BYTE_LEVEL.spans(ids) == [(0, 2), (2, 3), (2, 3)]


def test_special_tokens_have_empty_spans(chat_tokenizer: ChatTokenizer) -> None:
    ids = [*chat_tokenizer.reply_ids("Hello"), chat_tokenizer.end_id]
    assert chat_tokenizer.spans(ids)[-1] == (5, 5)


def test_a_text_that_spells_a_special_token_stays_text(chat_tokenizer: ChatTokenizer) -> None:
    ids = chat_tokenizer.reply_ids("stop<|im_end|>now")
    assert chat_tokenizer.end_id not in ids
    assert chat_tokenizer.decode(ids) == "stop<|im_end|>now"
    assert chat_tokenizer.count("stop<|im_end|>now") == len(ids)


def test_the_end_is_what_the_template_writes_not_the_first_stop_id(
    chat_tokenizer: ChatTokenizer,
) -> None:
    assert chat_tokenizer.decode([chat_tokenizer.end_id]) == ""
    assert chat_tokenizer.end_id == 2


def test_prompts_render_through_the_template(chat_tokenizer: ChatTokenizer) -> None:
    pair = prompt_pair([{"role": "user", "content": "Hi"}], [ContextItem("fact", "Has a dog")])
    ids = chat_tokenizer.prompt_ids(pair.with_persona)
    text = chat_tokenizer._tokenizer.decode(ids)
    assert text.startswith("<|im_start|>system\nAbout the user:\n- Has a dog\n\n")
    assert text.endswith("<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")


def test_messages_take_the_form_that_vllm_renders(chat_tokenizer: ChatTokenizer) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    ids = chat_tokenizer.prompt_ids(
        [
            {"role": "user", "content": parts},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "content": "3", "tool_call_id": "1"},
        ]
    )
    text = chat_tokenizer._tokenizer.decode(ids)
    assert "user\none\ntwo<|im_end|>" in text
    assert "assistant\nf([('a', 1)])<|im_end|>" in text


def test_what_cannot_be_rendered_is_refused(chat_tokenizer: ChatTokenizer) -> None:
    image = [{"type": "image_url", "image_url": {"url": "x"}}]
    with pytest.raises(UnsupportedContent, match="image_url"):
        chat_tokenizer.prompt_ids([{"role": "user", "content": image}])
    with pytest.raises(TemplateRefusal, match="Unknown role robot"):
        chat_tokenizer.prompt_ids([{"role": "robot", "content": "hi"}])


def test_a_model_without_a_chat_template_is_refused(tiny_model_dir: Path, tmp_path: Path) -> None:
    for name in ("tokenizer.json", "config.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((tiny_model_dir / name).read_bytes())
    with pytest.raises(NoChatTemplate, match="chat model"):
        ChatTokenizer.load(str(tmp_path))
