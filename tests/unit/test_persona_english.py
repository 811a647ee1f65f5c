"""The corpus's small repairs of English."""

import pytest

from scripts.persona.dialogue import truecase
from scripts.persona.english import sentence, speaks_of_user, to_second_person


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
