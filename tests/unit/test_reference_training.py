"""How the reference model is trained: tokens and their weights, packed rows, steps, rates."""

import string
from collections import Counter
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers import AutoTokenizer

from perce.prompt import ContextItem, Message, prompt_pair
from scripts.persona.example import Example
from scripts.reference.averaging import go_back
from scripts.reference.batches import batches, collate
from scripts.reference.encoding import Encoded, Encoder
from scripts.reference.evaluation import score
from scripts.reference.muon import Muon, orthogonal
from scripts.reference.tokenizer import load_tokenizer, train_tokenizer
from scripts.reference.training import Run, new_model

REFERENCE = Path(__file__).parents[2] / "perce" / "reference"


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder(load_tokenizer(REFERENCE))


@settings(deadline=None, max_examples=30)
@given(content=st.text(string.printable, max_size=60))
def test_encoding_is_the_chat_template(content: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(REFERENCE)
    encoder = Encoder(load_tokenizer(REFERENCE))
    pair = prompt_pair([{"role": "user", "content": content}], [ContextItem("fact", "I sew.")])
    for messages in (pair.with_persona, pair.without_persona):
        rendered = tokenizer.apply_chat_template(
            list(messages), add_generation_prompt=True, tokenize=False
        )
        ids = tokenizer(rendered, add_special_tokens=False).input_ids
        assert encoder.prompt(messages) == ids


def test_only_answers_and_their_end_count(encoder: Encoder) -> None:
    messages = (
        {"role": "user", "content": "Hello?"},
        {"role": "assistant", "content": "Hi there."},
        {"role": "user", "content": "And?"},
        {"role": "assistant", "content": "Bye."},
    )
    short = Example("dialogue", messages[:2])
    encoded = [encoder.example(Example("dialogue", messages)), encoder.example(short)]
    batch = collate([encoded], encoder.pad, width=64)
    told = encoder.tokenizer.decode(batch.labels_N)
    assert told == "Hi there.<|im_end|>Bye.<|im_end|>Hi there.<|im_end|>"
    assert batch.ids_BT.reshape(-1)[batch.at_N + 1].equal(batch.labels_N)


@settings(deadline=None)
@given(st.lists(st.integers(1, 40), min_size=100, max_size=400))
def test_packing_keeps_examples_whole_and_loses_none(lengths: list[int]) -> None:
    examples = [Encoded([number + 1] * n, [1.0] * n) for number, n in enumerate(lengths)]
    packed: Counter[int] = Counter()
    for batch in batches(iter(examples), 64, (16, 32), pad=0):
        assert batch.ids_BT.shape in ((4, 16), (2, 32))
        packed.update(batch.ids_BT[batch.ids_BT != 0].tolist())
        starts = batch.position_BT.reshape(-1) == 0
        assert not starts[batch.at_N + 1].any()
    whole = {number + 1: n for number, n in enumerate(lengths) if n <= 32}
    assert all(whole[number] == count for number, count in packed.items())
    still_open = sum(whole.values()) - packed.total()
    assert still_open <= 4 * (64 + 64)


def test_a_packed_row_scores_its_examples_as_if_each_were_alone(encoder: Encoder) -> None:
    model = new_model(len(encoder.tokenizer), seed=3).eval()
    examples = [
        encoder.messages(
            ({"role": "user", "content": said}, {"role": "assistant", "content": said * 2})
        )
        for said in ("Hello?", "Where do you live?", "And then what?")
    ]
    alone = torch.cat([score(model, one, encoder.pad) for one in examples])
    batch = collate([examples], encoder.pad, width=256)
    with torch.no_grad():
        hidden_BTC = model.model(
            input_ids=batch.ids_BT, position_ids=batch.position_BT, use_cache=False
        ).last_hidden_state
        logits_NV = model.lm_head(hidden_BTC.flatten(0, 1)[batch.at_N])
    packed = logits_NV.log_softmax(-1).gather(1, batch.labels_N[:, None]).squeeze(1)
    torch.testing.assert_close(packed, alone, rtol=0, atol=1e-5)


def test_a_tokenizer_gives_every_text_back() -> None:
    tokenizer = train_tokenizer(["a small text about a small dog"] * 3, 300)
    for text in ("naïve café 👍", "a  b\n\nc", "don't 42"):
        assert tokenizer.decode(tokenizer(text).input_ids) == text
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id) == (0, 2)


def test_the_learning_rate_warms_up_holds_and_falls_to_zero() -> None:
    run = Run(tokens=100, learning_rate=1.0, warmup_steps=10, decay_share=0.5)
    assert run.rate(0, 0.0) == pytest.approx(0.1)
    assert run.rate(20, 0.4) == 1.0
    assert run.rate(50, 0.75) == pytest.approx(0.5)
    assert run.rate(90, 1.0) == 0.0
    with pytest.raises(ValueError, match="positive"):
        Run(tokens=0)


ASKED: tuple[Message, ...] = (
    {"role": "user", "content": "Do you keep ferrets?"},
    {"role": "assistant", "content": "No, but my sister has two ferrets and a six."},
)


def heavy(encoder: Encoder, encoded: Encoded) -> str:
    """The text of the tokens that weigh more than others."""
    most = max(encoded.weights)
    assert set(encoded.weights) == {0.0, 1.0, most}
    ids = [i for i, w in zip(encoded.ids, encoded.weights, strict=True) if w == most > 1]
    text: str = encoder.tokenizer.decode(ids)
    return text


def test_words_of_the_persona_and_of_the_key_weigh_more(encoder: Encoder) -> None:
    fact = ContextItem("fact", "My sister has ferrets and a cat.")
    told = encoder.example(Example("question", ASKED, (fact,), key=("a six",)))
    assert heavy(encoder, told) == " sister ferrets six"


def test_without_a_persona_all_tokens_of_answers_weigh_the_same(encoder: Encoder) -> None:
    told = encoder.example(Example("question", ASKED, key=("a six",)))
    assert set(told.weights) == {0.0, 1.0}


def test_weights_follow_their_tokens_into_the_batch(encoder: Encoder) -> None:
    fact = ContextItem("fact", "My sister has ferrets.")
    told = encoder.example(Example("question", ASKED, (fact,)))
    batch = collate([[told], [told]], encoder.pad, width=128)
    assert batch.weights_N.tolist() == [w for w in told.weights if w] * 2


@pytest.mark.parametrize("shape", [(6, 6), (5, 9), (9, 5)])
def test_orthogonal_matrices_keep_the_singular_vectors(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    matrices_SRC = torch.randn(3, *shape)
    u_SRK, _, v_SKC = torch.linalg.svd(matrices_SRC, full_matrices=False)
    turned_SKK = u_SRK.mT @ orthogonal(matrices_SRC) @ v_SKC.mT
    values_SK = turned_SKK.diagonal(dim1=1, dim2=2)
    assert ((values_SK > 0.3) & (values_SK < 1.3)).all()
    torch.testing.assert_close(turned_SKK, torch.diag_embed(values_SK), rtol=0, atol=1e-3)


def test_muon_steps_as_that_of_torch_does() -> None:
    torch.manual_seed(0)
    ours = [nn.Parameter(torch.randn(shape)) for shape in ((8, 24), (24, 8), (8, 24))]
    theirs = [nn.Parameter(matrix.detach().clone()) for matrix in ours]
    start = [matrix.detach().clone() for matrix in ours]
    optimizers = (
        Muon(ours, lr=0.01, weight_decay=0.1),
        torch.optim.Muon(theirs, lr=0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
    )
    for _ in range(3):
        for one, other in zip(ours, theirs, strict=True):
            one.grad = torch.randn_like(one)
            other.grad = one.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    for one, other, before in zip(ours, theirs, start, strict=True):
        # That of torch iterates in bfloat16, of 8 bits.
        assert (one - other).norm() < 0.05 * (one - before).norm()


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_going_back_ends_a_share_of_the_way_from_the_start(share: float) -> None:
    start, trained = (new_model(256, seed) for seed in (1, 2))
    before = [weight.clone() for weight in start.parameters()]
    ends = [weight.clone() for weight in trained.parameters()]
    go_back(trained, start, share)
    between = zip(before, ends, trained.parameters(), strict=True)
    for old, new, weight in between:
        torch.testing.assert_close(weight, (1 - share) * old + share * new)


def test_no_model_goes_back_beyond_its_start() -> None:
    model = new_model(256, 1)
    with pytest.raises(ValueError, match="share"):
        go_back(model, model, -0.1)
