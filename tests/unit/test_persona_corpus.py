import random
import string
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from perce.prompt import ContextItem, prompt_pair
from scripts.persona.dialogue import truecase
from scripts.persona.english import sentence, speaks_of_user, to_second_person
from scripts.persona.examples import Example, Generator
from scripts.persona.people import Fact, People
from scripts.persona.tables import TableError, Tables, load_tables
from scripts.persona.variety import unique_share
from scripts.persona.voices import Voice
from scripts.reference.batches import Encoder, collate
from scripts.reference.evaluation import is_right, probes
from scripts.reference.tokenizer import load_tokenizer, train_tokenizer
from scripts.reference.training import Run

REFERENCE = Path(__file__).parents[2] / "perce" / "reference"


@pytest.fixture(scope="module")
def tables() -> Tables:
    return load_tables()


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder(load_tokenizer(REFERENCE))


def drawn(tables: Tables, split: str, count: int = 3) -> list[Fact]:
    people = People(tables, "train" if split == "train" else "held_out")
    rng = random.Random(3)
    return [people.fact(rng, a) for a in tables.attributes for _ in range(count)]


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10**6))
def test_the_same_seed_writes_the_same_examples(seed: int) -> None:
    generator = Generator(load_tables())

    def write() -> list[Example]:
        rng = random.Random(seed)
        return [
            generator.questions(rng, 4, 3),
            generator.writing(rng, 2, 3),
            generator.introduction(rng, 3),
        ]

    assert write() == write()


def test_training_never_draws_held_out_values_or_phrasings(tables: Tables) -> None:
    for name, values in tables.lists.items():
        if len(values) >= 25:
            train, held_out = tables.values(name, "train"), tables.values(name, "held_out")
            assert held_out, name
            assert not set(train) & set(held_out)
            assert set(train) | set(held_out) == set(values)
    for attribute in tables.attributes:
        for kind in ("facts", "questions"):
            train = attribute.phrasings(kind, "train")
            if len(train) > 2:
                assert not set(train) & set(attribute.phrasings(kind, "held_out"))


def test_questions_do_not_tell_the_answer_and_answers_do(tables: Tables) -> None:
    people = People(tables, "held_out")
    rng = random.Random(5)
    for fact in drawn(tables, "held_out"):
        turn = people.turn(rng, fact)
        asked = turn.question.lower()
        assert not all(word.lower() in asked for word in turn.key), turn
        assert is_right(Example("question", (), key=turn.key), turn.answer), turn


def test_no_question_fits_two_facts_of_a_person(tables: Tables) -> None:
    people = People(tables, "train")
    for seed in range(50):
        facts = people.facts(random.Random(seed), 8)
        asked = [question for f in facts for question in {f.fill(q) for q in f.attribute.questions}]
        assert len(facts) == 8
        assert len(asked) == len(set(asked))


def test_templates_leave_no_braces(tables: Tables) -> None:
    generator = Generator(tables)
    rng = random.Random(7)
    for _ in range(300):
        example = generator.writing(rng, 2, 3)
        text = " ".join([*(i.text for i in example.context), example.messages[-1]["content"]])
        assert "{" not in text
        assert "}" not in text


def test_about_a_fifth_of_question_examples_have_no_persona(tables: Tables) -> None:
    generator = Generator(tables)
    rng = random.Random(11)
    dropped = sum(not generator.questions(rng, 4, 2).context for _ in range(1000))
    assert 150 <= dropped <= 250


def test_probes_are_unseen_people_with_one_open_question() -> None:
    for probe in probes(40):
        assert 3 <= len(probe.context) <= 8
        assert len(probe.messages) == 2
        assert probe.key
        assert probe.kind in ("copied", "following")
        assert is_right(probe, probe.messages[-1]["content"])


def test_a_voice_keeps_its_habits() -> None:
    voice = Voice(case="lower", end="!", emoji=(":)",), spelling=(("you", "u"),), contracts=True)
    spelled = voice.spell(random.Random(0), ["I am glad.", "Thank you."])
    assert spelled == "i'm glad! thank u! :)"


def test_a_bad_table_line_is_named(tmp_path: Path) -> None:
    for name in ("lists.txt", "attributes.txt", "rows.txt", "unknown.txt"):
        (tmp_path / name).write_text("")
    (tmp_path / "voices.json").write_text('{"spelling": []}')
    (tmp_path / "subjects.txt").write_text("= product\nZ the pan\n")
    with pytest.raises(TableError, match=r"subjects\.txt.*Z the pan"):
        load_tables(tmp_path)


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("hi ! i ' m fine . you ?", "Hi! I'm fine. You?"),
        ("neat ! ! i used to work", "Neat! I used to work"),
        ("i like to ski.", "I like to ski."),
    ],
)
def test_truecase(raw: str, clean: str) -> None:
    assert truecase(raw) == clean


def test_english() -> None:
    assert sentence("a apple and a pear") == "An apple and a pear"
    assert speaks_of_user("What is your dog called?") == "What is my dog called?"
    assert speaks_of_user("Do you like your dog?") is None
    assert to_second_person("My dog and I walk.") == "Your dog and you walk."


def test_unique_share() -> None:
    assert unique_share(["a b c d"], 3) == 1.0
    assert unique_share(["a b c", "a b c"], 3) == 0.5
    assert unique_share(["a b"], 3) == 0.0


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
    batch = collate(encoded, encoder.pad)
    told = encoder.tokenizer.decode(batch.labels_N)
    assert told == "Hi there.<|im_end|>Bye.<|im_end|>Hi there.<|im_end|>"
    assert batch.ids_BT.reshape(-1)[batch.at_N + 1].equal(batch.labels_N)


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
