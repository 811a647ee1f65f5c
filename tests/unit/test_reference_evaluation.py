from pathlib import Path

import pytest
from transformers import Qwen3ForCausalLM

from perce.datasets.writers import Written, split_by_order
from perce.hyperparameters import Hyperparameters
from scripts.attune.bench.base import load_base
from scripts.attune.up.demo import Persona
from scripts.persona.dialogue import Conversation
from scripts.persona.tables import read_lines
from scripts.reference import conversations
from scripts.reference.adaptation import Gain, gain, invented_writers, summary
from scripts.reference.conversations import (
    Asked,
    Chat,
    ask_people,
    repeats_itself,
    ten_turns,
    transcript,
)
from scripts.reference.encoding import Encoder
from scripts.reference.generation import answers
from scripts.reference.tokenizer import load_tokenizer

REFERENCE = Path(__file__).parents[2] / "perce" / "reference"
QUESTIONS = Path(conversations.__file__).parent / "questions.txt"


@pytest.fixture(scope="module")
def model() -> Qwen3ForCausalLM:
    loaded: Qwen3ForCausalLM = Qwen3ForCausalLM.from_pretrained(REFERENCE).float().eval()
    return loaded


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder(load_tokenizer(REFERENCE))


@pytest.mark.parametrize(
    ("text", "loops"),
    [
        ("", False),
        ("I like it a lot and I like it a lot.", False),
        ("and then I went home, and then I went home, and then I went home", True),
        ("na na na na na na na na", True),
    ],
)
def test_four_words_said_three_times_are_a_loop(text: str, loops: bool) -> None:
    assert repeats_itself(text) == loops


def test_an_answer_says_whether_it_ended(model: Qwen3ForCausalLM, encoder: Encoder) -> None:
    prompt = [{"role": "user", "content": "Hello!"}]
    cut, whole = (answers(model, encoder, [prompt], tokens)[0] for tokens in (1, 100))
    assert not cut.ended
    assert whole.ended
    assert whole.text.startswith(cut.text)


def test_answers_do_not_depend_on_their_company(model: Qwen3ForCausalLM, encoder: Encoder) -> None:
    short = [{"role": "user", "content": "Hello!"}]
    long = [{"role": "user", "content": "What do you think of the weather today? " * 5}]
    together = answers(model, encoder, [short, long])
    assert together == [answers(model, encoder, [one])[0] for one in (short, long)]


def test_each_question_goes_to_somebody_who_has_the_fact(
    model: Qwen3ForCausalLM, encoder: Encoder
) -> None:
    wanted = [line.partition(" | ")[0] for line in read_lines(QUESTIONS)]
    people = [Conversation((f"I know of {fact}.",), ()) for fact in wanted]
    asked = ask_people(model, encoder, people)
    assert len(asked) == 60
    assert all(fact in one.facts[0] for fact, one in zip(wanted, asked, strict=True))


def test_ten_turns_are_told_apart_by_person(model: Qwen3ForCausalLM, encoder: Encoder) -> None:
    people = [Persona(name, "", (f"My name is {name}.",), b"") for name in ("Ann", "Bo")]
    chats = ten_turns(model, encoder, people)
    assert [chat.name for chat in chats] == ["Ann", "Bo"]
    for chat in chats:
        assert len(chat.turns) == 10
        assert 0 <= chat.ended <= 10
        assert chat.repeated == 10 - len({answer for _, answer in chat.turns})
    assert ten_turns(model, encoder, people) == chats


def test_the_transcript_holds_all_that_was_said() -> None:
    asked = [Asked(("I sew.",), "Hobby?", "Needles.")]
    chat = Chat("ann", (("Hi!", "Hello."), ("Bye!", "See you.")), ended=2, looped=0, repeated=0)
    text = transcript(asked, [chat])
    for said in ("I sew.", "Hobby?", "Needles.", "ann", "Hi!", "Hello.", "Bye!", "See you."):
        assert said in text


def test_invented_writers_keep_to_themselves() -> None:
    first, second = invented_writers(2)
    assert first.size == second.size == 50
    assert invented_writers(2) == [first, second]
    assert not {*first.train, *first.test} & {*second.train, *second.test}


def test_training_on_a_writer_lowers_the_loss_on_what_was_held_out() -> None:
    base = load_base(str(REFERENCE))
    before = {name: p.clone() for name, p in base.model.state_dict().items()}
    texts = [Written(f"Day {n}?", f"Quite well, day {n}, ahoy!") for n in range(15)]
    hyper = Hyperparameters(learning_rate=3e-3, epochs=4)
    measured = gain(base, split_by_order("one", texts), hyper)
    assert measured.after < 0.7 * measured.before
    assert all(p.equal(before[name]) for name, p in base.model.state_dict().items())


def test_the_summary_takes_medians_of_changes() -> None:
    gains = [Gain("a", 2.0, 1.0, 4.0, 3.0), Gain("b", 2.0, 2.0, 4.0, 4.0), Gain("c", 4, 1, 4, 2)]
    summed = summary(gains)
    assert summed["change"] == -0.5
    assert summed["personal_change"] == -0.25
    assert summed["writers"] == 3
