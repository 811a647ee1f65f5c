from pathlib import Path

import numpy as np
import pytest
from scripted_engine import WordEncoder

from adapt.dataset import ContextBudget, Dataset, PastText, build_dataset
from perce.retrieval import Encoder
from perce.tokens import ChatTokenizer

BUDGET = ContextBudget(tokens=384, texts=3)
FACTS = ("I keep bees.",)


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
    assert dataset.trained_position == 19.0


def test_a_context_holds_only_what_is_older_and_never_itself(
    history: list[PastText], reference_tokenizer: ChatTokenizer
) -> None:
    dataset = build(history, reference_tokenizer)
    for index, example in enumerate((*dataset.train, *dataset.held_out)):
        prompt = reference_tokenizer.decode(example.prompt_ids)
        seen = {i for i in range(20) if f"unmistakable{i} " in prompt}
        assert seen <= set(range(index))
        assert len(seen) == min(index, BUDGET.texts)
        assert FACTS[0] in prompt


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


def test_texts_that_are_too_long_are_left_out_and_counted(
    history: list[PastText], reference_tokenizer: ChatTokenizer
) -> None:
    rows = [(text.query, text.text) for text in history]
    rows[2] = (rows[2][0], "long " * 500)
    dataset = build_dataset(
        past_texts(WordEncoder(), rows), FACTS, reference_tokenizer, BUDGET, 300
    )
    assert dataset.too_long == 1
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
