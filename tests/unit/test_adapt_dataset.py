import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from scripted_engine import WordEncoder

from adapt.curation import StoredText
from adapt.dataset import (
    ContextBudget,
    Dataset,
    Recipe,
    assemble,
    build_dataset,
)
from adapt.history import History, StoredFact, learn_from
from adapt.past import PastFact, PastText
from adapt.replay import Coverage
from perce.retrieval import Encoder, Vectors
from perce.shared_prefix_groups import shared_length
from perce.tokens import ChatTokenizer

BUDGET = ContextBudget(tokens=384, texts=3)


def past_facts(facts: Sequence[str]) -> list[PastFact]:
    return [
        PastFact(fact, vector)
        for fact, vector in zip(facts, WordEncoder().encode(facts), strict=True)
    ]


FACTS = past_facts(["I keep bees."])


def past_texts(encoder: Encoder, rows: list[tuple[str, str]]) -> list[PastText]:
    whole = encoder.encode([f"{query}\n{text}" for query, text in rows])
    queries = encoder.encode([query for query, _ in rows])
    return [
        PastText(i + 1, query, text, float(i), whole[i], queries[i])
        for i, (query, text) in enumerate(rows)
    ]


@pytest.fixture
def history() -> list[PastText]:
    rows = [(f"Write about thing {i}.", f"unmistakable{i} words here") for i in range(20)]
    return past_texts(WordEncoder(), rows)


def build(history: list[PastText], tokenizer: ChatTokenizer) -> Dataset:
    return build_dataset(history, FACTS, tokenizer, BUDGET, 2048)


def test_the_newest_fifth_is_held_out(
    history: list[PastText], reference_tokenizer: ChatTokenizer
) -> None:
    shuffled = [history[i] for i in np.random.default_rng(0).permutation(len(history))]
    dataset = build(shuffled, reference_tokenizer)
    replies = [reference_tokenizer.decode(e.reply_ids) for e in (*dataset.train, *dataset.held_out)]
    assert replies == [text.text for text in history]
    assert (len(dataset.train), len(dataset.held_out)) == (16, 4)


def test_a_context_holds_only_what_is_older_and_never_itself(
    history: list[PastText], reference_tokenizer: ChatTokenizer
) -> None:
    dataset = build(history, reference_tokenizer)
    for index, example in enumerate((*dataset.train, *dataset.held_out)):
        prompt = reference_tokenizer.decode(example.prompt_ids)
        seen = {i for i in range(20) if f"unmistakable{i} " in prompt}
        assert seen <= set(range(index))
        assert len(seen) == min(index, BUDGET.texts)
        assert FACTS[0].text in prompt


def test_the_prompt_without_persona_is_the_bare_query(
    history: list[PastText], reference_tokenizer: ChatTokenizer
) -> None:
    example = build(history, reference_tokenizer).train[3]
    bare = reference_tokenizer.prompt_ids([{"role": "user", "content": history[3].query}])
    assert list(example.prompt_ids_without) == bare


def test_earlier_texts_are_found_by_the_query_and_not_by_the_answer(
    reference_tokenizer: ChatTokenizer,
) -> None:
    rows = [("about apples", "zebra"), ("about pears", "fox"), ("about plums", "owl")]
    rows += [("about figs", "elk"), ("about pears", "zebra zebra zebra")]
    history = past_texts(WordEncoder(), rows)
    one = ContextBudget(tokens=384, texts=1)
    dataset = build_dataset(history, (), reference_tokenizer, one, 2048)
    prompt = reference_tokenizer.decode(dataset.held_out[-1].prompt_ids)
    assert "fox" in prompt and "zebra" not in prompt


def test_facts_beyond_the_budget_are_those_near_to_the_query(
    reference_tokenizer: ChatTokenizer,
) -> None:
    facts = past_facts([f"I like topic{number} most." for number in range(30)])
    rows = [(f"Say something on topic{number}", "something") for number in (3, 9, 1, 7, 5)]
    small = ContextBudget(tokens=40, texts=0)
    dataset = build_dataset(
        past_texts(WordEncoder(), rows), facts, reference_tokenizer, small, 2048
    )
    for (query, _), example in zip(rows, (*dataset.train, *dataset.held_out), strict=True):
        prompt = reference_tokenizer.decode(example.prompt_ids)
        assert f"I like {query.split()[-1]} most." in prompt
        assert prompt.count("I like") < 10


def test_texts_that_are_too_long_are_left_out_and_counted(
    history: list[PastText], reference_tokenizer: ChatTokenizer
) -> None:
    rows = [(text.query, text.text) for text in history]
    rows[2] = (rows[2][0], "long " * 500)
    dataset = build_dataset(
        past_texts(WordEncoder(), rows), FACTS, reference_tokenizer, BUDGET, 300
    )
    assert dataset.left_out == {"too_long": 1}
    assert len(dataset.train) + len(dataset.held_out) == 19


@pytest.mark.parametrize("count", [0, 1, 3])
def test_too_few_texts_leave_nothing_to_train_on(
    history: list[PastText], reference_tokenizer: ChatTokenizer, count: int
) -> None:
    assert build(history[:count], reference_tokenizer).train == ()


def test_three_texts_gate_at_least(
    history: list[PastText], reference_tokenizer: ChatTokenizer
) -> None:
    dataset = build(history[:8], reference_tokenizer)
    assert (len(dataset.train), len(dataset.held_out)) == (5, 3)


def test_a_saved_dataset_comes_back_equal(
    history: list[PastText], reference_tokenizer: ChatTokenizer, tmp_path: Path
) -> None:
    dataset = build(history, reference_tokenizer)
    dataset.save(tmp_path / "work" / "dataset.json")
    assert Dataset.load(tmp_path / "work" / "dataset.json") == dataset


def test_a_dataset_that_an_older_attune_saved_is_read(
    history: list[PastText], reference_tokenizer: ChatTokenizer, tmp_path: Path
) -> None:
    dataset, file = build(history, reference_tokenizer), tmp_path / "dataset.json"
    dataset.save(file)
    file.write_text(json.dumps(json.loads(file.read_text()) | {"trained_position": 19.0}))
    assert Dataset.load(file) == dataset


def grouped(
    history: list[PastText], tokenizer: ChatTokenizer, group_size: int, seed: int = 0
) -> Dataset:
    return assemble(history, FACTS, tokenizer, Recipe(BUDGET, 2048, group_size, seed=seed))


def test_texts_that_share_a_context_share_only_what_is_older_than_all_of_them(
    reference_tokenizer: ChatTokenizer,
) -> None:
    rows = [(f"Write about thing {i}.", f"unmistakable{i} words here") for i in range(60)]
    dataset = grouped(past_texts(WordEncoder(), rows), reference_tokenizer, group_size=4)
    assert (len(dataset.train), len(dataset.held_out)) == (48, 12)
    contexts = []
    for index, example in enumerate((*dataset.train, *dataset.held_out)):
        own = reference_tokenizer.decode(example.prompt_ids).split("Write about")[:-1]
        prompt = " ".join(own)
        seen = frozenset(i for i in range(60) if f"unmistakable{i} " in prompt)
        assert seen <= set(range(index))
        # A run may begin at the third text: its second one, too, sees two.
        assert len(seen) == BUDGET.texts or index <= BUDGET.texts
        contexts.append(seen)
    shared = [i for i in range(1, 48) if contexts[i] == contexts[i - 1]]
    # Most share one, some stand alone as in serving; held-out ones have their own.
    assert 15 <= len(shared) <= 45
    assert len(set(contexts[48:])) > 8


def test_groups_share_a_long_prefix(reference_tokenizer: ChatTokenizer) -> None:
    rows = [(f"Write about thing {i}.", f"unmistakable{i} words here") for i in range(40)]
    train = grouped(past_texts(WordEncoder(), rows), reference_tokenizer, group_size=4).train
    common = [shared_length(a.prompt_ids, b.prompt_ids) for a, b in pairwise(train)]
    persona = min(len(one.prompt_ids) - len(one.prompt_ids_without) for one in train[8:])
    assert sum(length >= persona for length in common) > len(train) / 3


def test_a_group_size_of_one_gives_each_text_its_own_context(
    history: list[PastText], reference_tokenizer: ChatTokenizer
) -> None:
    alone = grouped(history, reference_tokenizer, group_size=1, seed=7)
    assert alone == build(history, reference_tokenizer)


def test_the_fingerprint_tells_what_was_trained_on(
    history: list[PastText], reference_tokenizer: ChatTokenizer
) -> None:
    def fingerprint(texts: list[PastText], facts: list[PastFact] = FACTS) -> str:
        return build_dataset(texts, facts, reference_tokenizer, BUDGET, 2048).fingerprint

    assert fingerprint(history) == fingerprint(history[::-1])
    assert len(fingerprint(history)) == 64
    assert fingerprint(history) != fingerprint([*history[1:]])
    assert fingerprint(history) != fingerprint(history, past_facts(["I keep ants."]))


def test_a_refresh_replays_a_share_of_what_was_learnt(
    reference_tokenizer: ChatTokenizer,
) -> None:
    rows = [(f"Write about thing {i}.", f"unmistakable{i} words here") for i in range(150)]
    texts = past_texts(WordEncoder(), rows)
    recipe = Recipe(BUDGET, 2048, replay_share=0.25)
    first = assemble(texts[:60], FACTS, reference_tokenizer, recipe)
    assert first.coverage == Coverage(60, tuple(range(49, 61)))
    second = assemble(texts, FACTS, reference_tokenizer, recipe, first.coverage)
    # 150 texts: 30 are held out, 102 were not learnt, of which 72 are trained on now.
    assert (len(second.held_out), second.replayed, len(second.train)) == (30, 24, 96)
    replies = [reference_tokenizer.decode(one.reply_ids) for one in second.train]
    assert replies[-72:] == [text.text for text in texts[48:120]]


def test_a_stored_vector_spares_the_encoder(reference_tokenizer: ChatTokenizer) -> None:
    encoder = CountingEncoder()
    rows = [(f"Write about thing {i}.", f"unmistakable{i} words here") for i in range(8)]
    vectors = WordEncoder().encode([f"{query}\n{text}" for query, text in rows])
    stored = [
        StoredText(i + 1, *row, float(i), embedding=vectors[i].tobytes() if i else None)
        for i, row in enumerate(rows)
    ]
    (own,), others = FACTS, np.ones(7, np.float32)
    facts = [
        StoredFact(own.text, own.vector.tobytes()),
        StoredFact("I keep ants.", others.tobytes()),
    ]
    recipe = Recipe(BUDGET, 2048)
    dataset = learn_from(History(stored, facts), encoder, reference_tokenizer, recipe)
    # Eight queries, the text without a vector, and the fact with another encoder's.
    assert encoder.encoded == 10
    past, known = past_texts(WordEncoder(), rows), [own, *past_facts(["I keep ants."])]
    assert dataset.train == assemble(past, known, reference_tokenizer, recipe).train


class CountingEncoder(WordEncoder):
    """Counts what it encodes."""

    encoded = 0

    def encode(self, texts: Sequence[str]) -> Vectors:
        self.encoded += len(texts)
        return super().encode(texts)
