import random
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scripts.persona.books import Book, Passages
from scripts.persona.dialogue import Conversation, PersonaChat, divide_personas
from scripts.persona.example import Example
from scripts.persona.examples import Generator
from scripts.persona.names import invented_name
from scripts.persona.people import Fact, People, Turn
from scripts.persona.recall import Recall
from scripts.persona.small_talk import SmallTalk
from scripts.persona.tables import Attribute, TableError, Tables, bare, load_tables, read_lines
from scripts.persona.topics import Topic, Topics, load_groups, load_topics
from scripts.persona.variety import unique_share
from scripts.persona.voices import Voice
from scripts.persona.written import Person, WrittenPeople, load_people
from scripts.reference import conversations
from scripts.reference.evaluation import is_right, probes


@pytest.fixture(scope="module")
def tables() -> Tables:
    return load_tables()


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
    attributes = (*tables.attributes, *tables.plain)
    for kind in ("facts", "questions"):
        told = {bare(line) for a in attributes for line in a.phrasings(kind, "train")}
        kept_back = {bare(line) for a in attributes for line in a.phrasings(kind, "held_out")}
        assert len(kept_back) > 300
        assert not told & kept_back


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


def test_half_of_the_answers_say_the_fact_as_it_stands_and_all_its_key_words(
    tables: Tables,
) -> None:
    people = People(tables, "train", tables.plain)
    rng = random.Random(9)
    turns = [people.turn(rng, people.facts(rng, 1)[0]) for _ in range(400)]
    restated = [turn for turn in turns if turn.answer == turn.about]
    assert 160 <= len(restated) <= 280
    for turn in restated:
        assert is_right(Example("question", (), key=turn.key), turn.answer), turn


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("I keep a tortoise.", True),
        ("A tortoise keeps me company.", True),
        ("Keeper of a tortoise.", False),
        ("Pets: a tortoise.", False),
        ("I feed my pet lettuce.", False),
    ],
)
def test_a_fact_answers_itself_if_a_person_could_say_it_and_it_tells_the_key(
    text: str, said: bool
) -> None:
    pet = Attribute("pet", {"a": "pets"}, key=("a",))
    assert Fact(pet, {"a": "tortoise"}, text).answers_itself is said


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


def test_small_talk_keeps_the_turns_in_their_order(tables: Tables) -> None:
    asked = [Turn(str(number), "Yes.") for number in range(3)]
    talk = SmallTalk(tables.small_talk)
    kinds = {line: kind for kind, each in talk.exchanges.items() for line in each.said}
    seen: Counter[str] = Counter()
    for seed in range(400):
        said = talk.around(random.Random(seed), asked)
        assert [turn for turn in said if turn in asked] == asked
        added = [turn for turn in said if turn not in asked]
        assert all(turn.answer in talk.exchanges[kinds[turn.question]].answers for turn in added)
        seen.update(kinds[turn.question] for turn in added)
        assert "goodbye" not in [kinds.get(turn.question) for turn in said[:-1]]
    assert seen.keys() == talk.exchanges.keys()


def test_the_evaluations_small_talk_is_not_trained_on(tables: Tables) -> None:
    trained = {line for each in tables.small_talk.values() for line in each.said}
    assert trained.isdisjoint(read_lines(Path(conversations.__file__).parent / "small_talk.txt"))


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


def test_unique_share() -> None:
    assert unique_share(["a b c d"], 3) == 1.0
    assert unique_share(["a b c", "a b c"], 3) == 0.5
    assert unique_share(["a b"], 3) == 0.0
