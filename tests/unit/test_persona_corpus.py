import random
import string
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from perce.prompt import ContextItem, prompt_pair
from scripts.persona.books import Book, Passages
from scripts.persona.dialogue import Conversation, PersonaChat, divide_personas, truecase
from scripts.persona.english import sentence, speaks_of_user, to_second_person
from scripts.persona.example import Example
from scripts.persona.examples import Generator
from scripts.persona.names import invented_name
from scripts.persona.people import Fact, People
from scripts.persona.recall import Recall
from scripts.persona.tables import TableError, Tables, load_tables
from scripts.persona.topics import Topic, Topics, load_groups, load_topics
from scripts.persona.variety import unique_share
from scripts.persona.voices import Voice
from scripts.persona.written import Person, WrittenPeople, load_people
from scripts.reference.batches import Encoded, Encoder, batches, collate
from scripts.reference.evaluation import is_right, probes, score
from scripts.reference.tokenizer import load_tokenizer, train_tokenizer
from scripts.reference.training import Run, new_model

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
    every = (*tables.attributes, *tables.plain)
    return [people.fact(rng, a) for a in every for _ in range(count)]


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
    for attribute in (*tables.attributes, *tables.plain):
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


@pytest.mark.parametrize("plain", [False, True])
def test_no_question_fits_two_facts_of_a_person(tables: Tables, plain: bool) -> None:
    people = People(tables, "train", tables.plain if plain else None)
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
        assert probe.kind in ("plain", "copied", "following")
        assert is_right(probe, probe.messages[-1]["content"])


def test_a_voice_keeps_its_habits() -> None:
    voice = Voice(case="lower", end="!", emoji=(":)",), spelling=(("you", "u"),), contracts=True)
    spelled = voice.spell(random.Random(0), ["I am glad.", "Thank you."])
    assert spelled == "i'm glad! thank u! :)"


def test_a_bad_table_line_is_named(tmp_path: Path) -> None:
    for name in ("unknown.txt", "introductions.txt", "leads.txt"):
        (tmp_path / name).write_text("")
    (tmp_path / "voices.json").write_text('{"spelling": []}')
    (tmp_path / "subjects.txt").write_text("= product\nZ the pan\n")
    with pytest.raises(TableError, match=r"subjects\.txt.*Z the pan"):
        load_tables(tmp_path)


def no_others(rng: random.Random, count: int) -> list[str]:
    return []


def test_every_topic_can_be_asked_about() -> None:
    groups = load_groups()
    topics = load_topics()
    assert len({topic.name for topic in topics}) == len(topics)
    for topic in topics:
        assert groups[topic.direct], topic.name
        assert len(topic.facts) > 2, topic.name
        for group, answer in topic.answers:
            assert groups[group], (topic.name, group)
            assert answer


def test_a_topic_answers_from_its_own_world() -> None:
    sewing = Topic("sewing", "fun", ["I sew.", "I make clothes.", "My needle is never far."])
    sewing.answers = [("bag", "Thread, always thread.")]
    topics = Topics([sewing] * 4, {"fun": ["Fun?"], "bag": ["Bag?"]}, ["Who?"], no_others)
    rng = random.Random(2)
    for _ in range(50):
        for question, answer in _pairs(topics.example(rng, 3)):
            if question == "Bag?":
                assert answer == "Thread, always thread."
            else:
                assert any(fact in answer for fact in sewing.facts)


def test_written_people_answer_their_own_questions_and_no_other() -> None:
    people = load_people()
    assert len(people) > 400
    person = Person(["I sew."], [("Hobby?", "Needles and thread."), ("And?", "Nothing else.")])
    rng = random.Random(4)
    drawn = WrittenPeople([person], no_others)
    for _ in range(30):
        assert set(_pairs(drawn.example(rng))) <= set(person.turns)


def _pairs(example: Example) -> list[tuple[str, str]]:
    said = [message["content"] for message in example.messages]
    return list(zip(said[::2], said[1::2], strict=True))


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 10**6))
def test_recall_tells_nothing_that_was_not_said(seed: int) -> None:
    recall = Recall([Book("A title", "Some words of a small book about ships. " * 40)])
    example = recall.example(random.Random(seed))
    told = example.messages[0]["content"]
    for _, answer in _pairs(example):
        assert all(word in told for word in answer.rstrip(".").split(", "))


def test_passages_are_whole_sentences_of_the_book() -> None:
    text = " ".join(f"This is sentence number {n}." for n in range(400))
    passages = Passages([Book("Numbers", text)])
    for seed in range(30):
        example = passages.example(random.Random(seed), 600)
        answer = example.messages[1]["content"]
        assert answer in text
        assert answer.startswith("This is")
        assert answer.endswith(".")
        assert len(answer) <= 600


def test_no_persona_is_on_both_sides_of_the_division() -> None:
    names = [invented_name(random.Random(n)) for n in range(300)]
    facts = [(f"I've a cat, {a}.", f"I have a dog, {b}.") for a, b in pairwise(names)]
    facts += [(f"I have a cat, {a}.", f"I like {a}.") for a in names]
    people = [Conversation(own, ()) for own in facts]
    held_out = divide_personas(people)
    outside, inside = (
        {
            fact.replace("'ve", " have")
            for own, out in zip(facts, held_out, strict=True)
            if out == side
            for fact in own
        }
        for side in (False, True)
    )
    assert 0 < sum(held_out) < len(held_out)
    assert not outside & inside


def test_what_is_held_out_is_known_with_and_without_contractions() -> None:
    chat = PersonaChat((), (Conversation(("I've two dogs.", "I am a nurse."), ()),))
    assert chat.holds_out(["I like tea.", "i have two dogs"])
    assert chat.holds_out(["I'm a nurse."])
    assert not chat.holds_out(["I like tea.", "I have three dogs."])


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
    assert to_second_person("I'm home by myself.") == "You're home by yourself."


@pytest.mark.parametrize("word", ["apple", "Irish cup", "Uber", "urban farm", "unimportant"])
def test_an_stands_before_the_sound_of_a_vowel(word: str) -> None:
    assert sentence(f"a {word}") == f"An {word}"


@pytest.mark.parametrize("word", ["pear", "university", "used car", "European", "USA fan", "one"])
def test_a_stands_before_the_sound_of_a_consonant(word: str) -> None:
    assert sentence(f"a {word}") == f"A {word}"


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
    batch = collate([encoded], encoder.pad, width=64)
    told = encoder.tokenizer.decode(batch.labels_N)
    assert told == "Hi there.<|im_end|>Bye.<|im_end|>Hi there.<|im_end|>"
    assert batch.ids_BT.reshape(-1)[batch.at_N + 1].equal(batch.labels_N)


@settings(deadline=None)
@given(st.lists(st.integers(1, 40), min_size=100, max_size=400))
def test_packing_keeps_examples_whole_and_loses_none(lengths: list[int]) -> None:
    examples = [Encoded([number + 1] * n, [True] * n) for number, n in enumerate(lengths)]
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
