"""Where answers are found in a persona, and the heads that are taught to look there."""

import random
from pathlib import Path

import pytest
import torch
from transformers import Qwen3ForCausalLM

from perce.prompt import ContextItem, fact_items
from scripts.persona.example import Example, chat
from scripts.persona.examples import Generator
from scripts.persona.tables import load_tables
from scripts.reference.batches import Batch, collate
from scripts.reference.encoding import Encoder
from scripts.reference.guidance import HEADS, Heads, guided_loss, layer_inputs
from scripts.reference.guides import Kind
from scripts.reference.tokenizer import load_tokenizer
from scripts.reference.training import new_model

REFERENCE = Path(__file__).parents[2] / "perce" / "reference"
FACTS = ("My sister keeps ferrets.", "I keep a tortoise called Leonard.", "I am Leonard's uncle.")


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder(load_tokenizer(REFERENCE))


@pytest.fixture(scope="module")
def model(encoder: Encoder) -> Qwen3ForCausalLM:
    return new_model(len(encoder.tokenizer), seed=3).eval()


def asked(*about: str) -> Example:
    said = chat([("Any pets?", "It is Leonard the tortoise."), ("Thanks!", "You are welcome.")])
    return Example("question", said, fact_items(FACTS), about=(about, ()))


def found(encoder: Encoder, example: Example, kind: Kind) -> dict[str, set[str]]:
    """The tokens that guides are about, and the text around each place they point to."""
    encoded = encoder.example(example)
    texts: dict[str, set[str]] = {}
    for guide in encoded.guides:
        if guide.kind == kind:
            assert max(guide.keys) <= guide.at
            token = encoder.tokenizer.decode([encoded.ids[guide.at + 1]])
            before = encoder.tokenizer.decode(encoded.ids[: min(guide.keys)])
            texts.setdefault(token, set()).add(before[-8:])
    return texts


def test_every_token_of_an_answer_is_found_in_the_fact_that_it_is_of(encoder: Encoder) -> None:
    encoded = encoder.example(asked(FACTS[1]))
    guides = [guide for guide in encoded.guides if guide.kind == "fact"]
    told = [encoded.ids[guide.at + 1] for guide in guides]
    assert encoder.tokenizer.decode(told) == "It is Leonard the tortoise.<|im_end|>"
    for guide in guides:
        there = encoder.tokenizer.decode([encoded.ids[key] for key in guide.keys])
        assert there.strip() == FACTS[1]


def test_a_fact_is_found_whatever_its_capitals(encoder: Encoder) -> None:
    typed = Example("question", asked().messages, fact_items(["i keep a tortoise."]))
    told = Example("question", typed.messages, typed.context, about=(("I keep a tortoise.",), ()))
    assert not found(encoder, typed, "fact")
    assert found(encoder, told, "fact")


def test_a_word_is_found_in_the_fact_that_the_answer_is_of(encoder: Encoder) -> None:
    leonard = encoder.tokenizer.tokenize(" Leonard")[0].replace("Ġ", " ")
    anywhere, there = (found(encoder, asked(*about), "word") for about in ((), FACTS[1:2]))
    assert there[leonard] == {"e called"}
    assert anywhere[leonard] == {"e called"}, "the first of two places begins where the first is"
    assert len(_keys(encoder, asked(), leonard)) == 2
    assert len(_keys(encoder, asked(FACTS[1]), leonard)) == 1


def _keys(encoder: Encoder, example: Example, token: str) -> tuple[int, ...]:
    encoded = encoder.example(example)
    return next(
        guide.keys
        for guide in encoded.guides
        if guide.kind == "word" and encoder.tokenizer.decode(encoded.ids[guide.at + 1]) == token
    )


def test_nothing_is_found_without_a_persona_or_in_its_instruction(encoder: Encoder) -> None:
    assert not encoder.example(Example("question", asked().messages)).guides
    said = chat([("How so?", "It is consistent with my preferred language.")])
    told = Example("question", said, (ContextItem("fact", "I am preferred."),))
    assert found(encoder, told, "word").keys() == found_words(encoder, " preferred")


def found_words(encoder: Encoder, word: str) -> set[str]:
    ids = encoder.tokenizer(word, add_special_tokens=False).input_ids
    return {encoder.tokenizer.decode([i]) for i in ids}


def test_the_corpus_says_of_which_fact_each_answer_is() -> None:
    generator = Generator(load_tables())
    for number in range(200):
        example = generator.questions(random.Random(number), facts=4, turns=4)
        if not example.context:
            assert not example.about
            continue
        told = " ".join(item.text for item in example.context).lower()
        assert len(example.about) == len(example.messages) // 2
        assert all(fact.lower() in told for facts in example.about for fact in facts)
        assert any(example.about)


def test_what_goes_into_layers_is_as_transformers_has_it(
    encoder: Encoder, model: Qwen3ForCausalLM
) -> None:
    batch = _packed(encoder)
    with torch.no_grad():
        ours = layer_inputs(model, batch.ids_BT, batch.position_BT)
        theirs = model.model(
            input_ids=batch.ids_BT,
            position_ids=batch.position_BT,
            use_cache=False,
            output_hidden_states=True,
        ).hidden_states
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("heads", HEADS)
def test_the_loss_is_of_the_attention_that_transformers_pays(
    encoder: Encoder, model: Qwen3ForCausalLM, heads: Heads
) -> None:
    encoded = encoder.example(asked(FACTS[1]))
    eager = new_model(len(encoder.tokenizer), seed=3).eval()
    eager.set_attn_implementation("eager")
    with torch.no_grad():
        paid = eager(torch.tensor([encoded.ids]), output_attentions=True).attentions
        batch = _packed(encoder)
        inputs = layer_inputs(model, batch.ids_BT, batch.position_BT)
        loss = guided_loss(
            model, heads, inputs[heads.layer], batch.position_BT, batch.looks[heads.kind]
        )
    expected = [
        -paid[heads.layer][0, head, guide.at, list(guide.keys)].sum().log()
        for head in heads.heads
        for guide in encoded.guides
        if guide.kind == heads.kind
    ]
    assert expected
    # The example stands twice in the batch, each time beside another one.
    mean = 2 * torch.stack(expected).sum() / len(heads.heads)
    torch.testing.assert_close(loss, mean, rtol=1e-4, atol=1e-4)


def test_a_step_against_the_gradient_turns_heads_to_the_fact(encoder: Encoder) -> None:
    model = new_model(len(encoder.tokenizer), seed=3)
    batch, heads = _packed(encoder), HEADS[0]

    def loss() -> torch.Tensor:
        inputs = layer_inputs(model, batch.ids_BT, batch.position_BT)
        looks = batch.looks[heads.kind]
        return guided_loss(model, heads, inputs[heads.layer], batch.position_BT, looks)

    before = loss()
    torch.autograd.backward(before)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.grad is not None:
                weight -= 1e-3 * weight.grad
        assert loss() < before


def _packed(encoder: Encoder) -> Batch:
    other = encoder.messages(({"role": "user", "content": "Hello there!"},))
    one = encoder.example(asked(FACTS[1]))
    return collate([[other, one], [one, other]], encoder.pad, width=256)
