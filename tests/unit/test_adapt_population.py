"""What the population adapter learns from: whose texts, which of them, and with which context."""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted_engine import WordEncoder

from adapt.curation import StoredText
from adapt.dataset import ContextBudget, Recipe
from adapt.errors import NothingToLearnError
from adapt.history import History, StoredFact, learn_from
from adapt.population import HELD_OUT_EVERY, MOST_HELD_OUT, Population, learn_from_population
from adapt.replay import MIN_HELD_OUT, Coverage
from perce.example import Example
from perce.tokens import ChatTokenizer
from server.refreshes import MIN_TEXTS

RECIPE = Recipe(ContextBudget(tokens=384, texts=3), max_length=512)
MARK = re.compile(r"u(\d+)n(\d+)z")
Mark = tuple[int, int]


def history(user: int, count: int) -> History:
    """Texts that say whose they are and which one; queries and facts that look alike."""
    texts = [
        StoredText(
            1000 * user + number,
            f"Write about thing {number}.",
            f"u{user}n{number}z words here for you",
            float(number),
        )
        for number in range(count)
    ]
    return History(texts, [StoredFact(f"I am number {user} of many.")])


def learn(
    counts: Mapping[int, int],
    tokenizer: ChatTokenizer,
    most: int = 2000,
    read: Callable[[int], History] | None = None,
) -> Population:
    def stored(user: int) -> History:
        return history(user, counts[user])

    return learn_from_population(counts, read or stored, WordEncoder(), tokenizer, RECIPE, most)


def replies(examples: Sequence[Example], tokenizer: ChatTokenizer) -> list[Mark]:
    """Whose text each example is, and its number."""
    return [marks(tokenizer.decode(one.reply_ids))[0] for one in examples]


def marks(text: str) -> list[Mark]:
    return [(int(user), int(number)) for user, number in MARK.findall(text)]


def by_user(found: Sequence[Mark]) -> dict[int, list[int]]:
    grouped = defaultdict[int, list[int]](list)
    for user, number in found:
        grouped[user].append(number)
    return grouped


def test_users_who_are_held_out_never_train(reference_tokenizer: ChatTokenizer) -> None:
    counts = dict.fromkeys(range(1, 13), 10)
    found = learn(counts, reference_tokenizer)
    trained = by_user(replies(found.dataset.train, reference_tokenizer))
    judged = by_user(replies(found.dataset.held_out, reference_tokenizer))
    assert set(judged) == {5, 10}
    assert tuple(sorted(trained)) == found.members == (1, 2, 3, 4, 6, 7, 8, 9, 11, 12)
    assert found.held_out_users == 2
    # All that they have, and of the others all but the newest fifth (three at least).
    assert all(sorted(numbers) == list(range(10)) for numbers in judged.values())
    assert all(sorted(numbers) == list(range(7)) for numbers in trained.values())


@pytest.mark.parametrize(
    ("users", "judges"), [((1, 2), {2}), ((3, 4, 7), {7}), ((5, 10), {10}), ((4, 5), {5})]
)
def test_one_user_at_least_judges_and_one_at_least_trains(
    users: tuple[int, ...], judges: set[int], reference_tokenizer: ChatTokenizer
) -> None:
    found = learn(dict.fromkeys(users, 10), reference_tokenizer)
    judged = by_user(replies(found.dataset.held_out, reference_tokenizer))
    assert set(judged) == judges
    assert set(found.members) == set(users) - judges


def test_a_context_holds_facts_and_older_texts_of_the_same_user_alone(
    reference_tokenizer: ChatTokenizer,
) -> None:
    found = learn(dict.fromkeys(range(1, 7), 12), reference_tokenizer)
    seen = Counter[int]()
    for example in (*found.dataset.train, *found.dataset.held_out):
        ((user, number),) = replies([example], reference_tokenizer)
        prompt = reference_tokenizer.decode(example.prompt_ids)
        assert f"I am number {user} of many." in prompt
        context = marks(prompt)
        assert all(whose == user and earlier < number for whose, earlier in context)
        assert len(context) == min(number, RECIPE.budget.texts)
        assert marks(reference_tokenizer.decode(example.prompt_ids_without)) == []
        seen[user] += 1
    assert set(seen) == set(range(1, 7))


def test_a_users_examples_are_those_of_their_own_first_refresh(
    reference_tokenizer: ChatTokenizer,
) -> None:
    found = learn({3: 20, 4: 9, 5: 8}, reference_tokenizer)
    for user, count in ((3, 20), (4, 9)):
        own = learn_from(history(user, count), WordEncoder(), reference_tokenizer, RECIPE)
        assert set(own.train) <= set(found.dataset.train)
        assert not set(own.held_out) & set(found.dataset.train)


def test_texts_are_taken_evenly_and_the_newest_of_each(
    reference_tokenizer: ChatTokenizer,
) -> None:
    found = learn({1: 8, 2: 40, 3: 60, 5: 8}, reference_tokenizer, most=30)
    trained = by_user(replies(found.dataset.train, reference_tokenizer))
    # The first has five to give; what it leaves is shared by the others.
    assert {user: len(numbers) for user, numbers in trained.items()} == {1: 5, 2: 12, 3: 13}
    assert sorted(trained[2]) == list(range(20, 32))
    assert sorted(trained[3]) == list(range(35, 48))


def test_where_texts_are_fewer_than_users_some_users_are_no_members(
    reference_tokenizer: ChatTokenizer,
) -> None:
    found = learn({1: 9, 2: 12, 3: 10, 4: 11, 5: 8}, reference_tokenizer, most=2)
    assert found.members == (2, 4)
    assert len(found.dataset.train) == 2


def test_a_candidate_is_judged_by_so_many_texts_at_most(
    reference_tokenizer: ChatTokenizer,
) -> None:
    found = learn({1: 8, 5: 20, 10: 60, 15: 60}, reference_tokenizer)
    judged = by_user(replies(found.dataset.held_out, reference_tokenizer))
    assert {user: len(numbers) for user, numbers in judged.items()} == {5: 20, 10: 22, 15: 22}
    assert sum(map(len, judged.values())) == MOST_HELD_OUT
    assert sorted(judged[15]) == list(range(38, 60))


def test_the_last_examples_are_of_many_users(reference_tokenizer: ChatTokenizer) -> None:
    found = learn(dict.fromkeys((1, 2, 3, 4, 5), 30), reference_tokenizer)
    trained = replies(found.dataset.train, reference_tokenizer)
    assert trained[-4:] == [(1, 23), (2, 23), (3, 23), (4, 23)]
    assert trained[:4] == [(1, 0), (2, 0), (3, 0), (4, 0)]


def test_the_same_users_make_the_same_dataset(reference_tokenizer: ChatTokenizer) -> None:
    counts = {user: 8 + user % 7 for user in range(1, 12)}
    found = learn(counts, reference_tokenizer, most=40)
    assert learn(dict(reversed(counts.items())), reference_tokenizer, most=40) == found
    fewer = {user: texts for user, texts in counts.items() if user != 4}
    assert learn(fewer, reference_tokenizer).dataset.fingerprint != found.dataset.fingerprint


def test_of_no_user_it_says_what_was_learnt(reference_tokenizer: ChatTokenizer) -> None:
    found = learn({1: 10, 2: 10}, reference_tokenizer)
    assert found.dataset.coverage == Coverage(0, ())
    assert Coverage.of({"examples": found.dataset.counts()}) == Coverage(0, ())


def test_users_without_enough_texts_are_passed_over(reference_tokenizer: ChatTokenizer) -> None:
    asked: list[int] = []
    counts = {1: 10, 2: 7, 3: 10, 5: 0, 10: 10}

    def read(user: int) -> History:
        asked.append(user)
        # Between the count and the reading the user may have gone.
        return history(user, 0 if user == 3 else counts[user])

    found = learn(counts, reference_tokenizer, read=read)
    assert (found.members, found.held_out_users) == ((1,), 1)
    assert sorted(asked) == [1, 3, 10]


def test_what_is_left_out_is_counted_over_all_users(reference_tokenizer: ChatTokenizer) -> None:
    def read(user: int) -> History:
        good = history(user, 10)
        wordless = [StoredText(10_000 * user + row, "", "ok", 20.0 + row) for row in range(user)]
        return History([*good.texts, *wordless], good.facts)

    found = learn({1: 11, 2: 12, 5: 15}, reference_tokenizer, read=read)
    assert found.dataset.left_out == {"duplicate": 0 + 1 + 4, "one_word": 3}


@pytest.mark.parametrize("counts", [{}, {1: 100}, {1: 100, 2: MIN_TEXTS - 1}])
def test_one_user_makes_no_population(
    counts: dict[int, int], reference_tokenizer: ChatTokenizer
) -> None:
    with pytest.raises(NothingToLearnError, match="let more users share their texts"):
        learn(counts, reference_tokenizer)


@pytest.mark.parametrize("empty", [1, 5])
def test_users_without_a_usable_text_make_no_population(
    empty: int, reference_tokenizer: ChatTokenizer
) -> None:
    with pytest.raises(NothingToLearnError, match=r"of those of 2 users .* share their texts"):
        learn(
            {1: 10, 5: 10},
            reference_tokenizer,
            read=lambda user: history(user, 0 if user == empty else 10),
        )


@settings(deadline=None, max_examples=40)
@given(
    st.dictionaries(st.integers(1, 40), st.integers(0, 24), max_size=9),
    st.integers(1, 60),
)
def test_any_users_are_split_into_members_and_judges(
    reference_tokenizer: ChatTokenizer, counts: dict[int, int], most: int
) -> None:
    able = {user for user, texts in counts.items() if texts >= MIN_TEXTS}
    if len(able) < 2:
        with pytest.raises(NothingToLearnError):
            learn(counts, reference_tokenizer, most)
        return
    found = learn(counts, reference_tokenizer, most)
    trained = by_user(replies(found.dataset.train, reference_tokenizer))
    judged = by_user(replies(found.dataset.held_out, reference_tokenizer))
    assert set(trained) == set(found.members) <= able
    assert set(judged) <= able - set(trained)
    by_id = {user for user in able if user % HELD_OUT_EVERY == 0}
    assert set(judged) == by_id or len(judged) == 1
    # Evenly: who has fewer than another has nothing more to give, or one less at most.
    sizes = {user: len(trained.get(user, ())) for user in able - set(judged)}
    share = {user: counts[user] - max(MIN_HELD_OUT, round(counts[user] / 5)) for user in sizes}
    assert sum(sizes.values()) == min(most, sum(share.values()))
    for user, numbers in trained.items():
        assert sorted(numbers) == list(range(share[user] - sizes[user], share[user]))
    assert all(
        size == share[user] or size >= max(sizes.values()) - 1 for user, size in sizes.items()
    )
    assert MIN_HELD_OUT <= len(found.dataset.held_out) <= MOST_HELD_OUT
