"""The command `attune bench aloe`: what it asks the judge, what it counts, and what it says."""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from aloe_bench import ADA, BOB, NEW_TOKENS, Bench, dialogue
from scripted_judge import ScriptedJudge, Verdict
from transformers import PreTrainedModel

from perce.model import load_model
from perce.prompt import Message
from perce.tokens import ChatTokenizer
from scripts.attune.bench.aloe import DialogueTooLong
from scripts.attune.bench.judge import NoVerdict


@pytest.fixture
def judge() -> Iterator[ScriptedJudge]:
    with ScriptedJudge() as scripted:
        yield scripted


@pytest.fixture
def bench(tiny_model_dir: Path, tmp_path: Path, judge: ScriptedJudge) -> Bench:
    return Bench(tiny_model_dir, tmp_path, judge.url)


def by_message(scores: dict[str, Verdict]) -> Any:  # noqa: ANN401 - a script's function
    """Verdicts told by the user's message that is asked about."""
    return lambda question: next(v for m, v in scores.items() if f"message: {m}\n" in question)


def reply_in(question: str) -> str:
    return question.partition("\nReply: ")[2]


def greedy(model: PreTrainedModel, prompt: list[int], end_id: int) -> list[int]:
    """The likeliest next token, again and again, without a cache."""
    ids = list(prompt)
    for _ in range(NEW_TOKENS):
        with torch.no_grad():
            ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
        if ids[-1] == end_id:
            return ids[len(prompt) : -1]
    return ids[len(prompt) :]


@pytest.mark.skipif(torch.cuda.is_available(), reason="in bfloat16 there, so not comparable")
def test_the_judge_is_asked_about_each_reply_with_and_without_persona(
    bench: Bench, judge: ScriptedJudge, tiny_model: PreTrainedModel, chat_tokenizer: ChatTokenizer
) -> None:
    judge.verdict_on = lambda _: "3"
    bench.json([ADA, BOB], "--judge-key", "k1")
    expected: Counter[tuple[str, str]] = Counter()
    for record in (ADA, BOB):
        history: list[Message] = []
        block = (
            f"About the user:\n- {record['profile']}\n- {record['personality']}\n\n"
            "Answer in the user's own way, consistent with the user's facts, "
            "preferred style, language and tone."
        )
        for turn in record["conversations"]:
            history.append({"role": "user", "content": turn["user"]})
            for persona in ([], [{"role": "system", "content": block}]):
                prompt = chat_tokenizer.prompt_ids([*persona, *history])
                ids = greedy(tiny_model, prompt, chat_tokenizer.end_id)
                expected[turn["user"], chat_tokenizer.decode(ids).strip()] += 1
            history.append({"role": "assistant", "content": turn["assistant"][turn["chosen"]]})
    assert len(expected) == 10, "base and rag answer alike, so the test could not tell them apart"
    messages = [turn["user"] for record in (ADA, BOB) for turn in record["conversations"]]
    asked = Counter(
        (next(m for m in messages if f"message: {m}\n" in question), reply_in(question))
        for question in judge.questions
    )
    assert asked == expected
    for key, body in judge.requests:
        assert (key, body["model"], body["temperature"]) == ("Bearer k1", "big", 0)
    for question in judge.questions:
        name = "Bob" if "Hello." in question or "I ran." in question else "Ada"
        assert f"{name} brews beer." in question
        assert f"{name} is witty." in question


def test_the_figures_are_those_counted_by_hand(bench: Bench, judge: ScriptedJudge) -> None:
    judge.verdict_on = by_message(
        {"Hi!": "1", "My hops died.": "Score: 3/5", "What now?": "4", "Hello.": "2", "I ran.": "5"}
    )
    result = bench.json([ADA, BOB])
    assert set(result) == {"settings", "dialogues", "shortened", "methods", "scores"}
    assert result["settings"] == {"new_tokens": 6, "at_once": 8, "judge_model": "big"}
    assert (result["dialogues"], result["shortened"]) == (2, 0)
    assert set(result["methods"]) == {"base", "rag"}
    slope, _ = np.polyfit([1, 2, 3], [0, 1, 1], 1)  # levels 1.5, 4, 4
    for method, figures in result["methods"].items():
        assert result["scores"][method] == [[1, 3, 4], [2, 5]]
        turns = figures["turns"]
        assert [turn["alignment"] for turn in turns] == [1.5, 4, 4]
        assert [turn["scored"] for turn in turns] == [2, 2, 1]
        # Of two dialogues a fourth of the resamples are one of them twice.
        assert [turn["alignment_ci"] for turn in turns] == [[1, 2], [3, 5], [4, 4]]
        assert figures["average"] == pytest.approx(9.5 / 3)
        assert figures["n_ir"] == pytest.approx(slope)
        assert figures["n_r2"] == pytest.approx(0.75)
        assert (figures["empty"], figures["unparsed"]) == (0, 0)


def test_an_answer_that_is_no_score_is_counted_and_nothing_else(
    bench: Bench, judge: ScriptedJudge
) -> None:
    judge.verdict_on = by_message(
        {"Hi!": "4 or 5", "My hops died.": "", "What now?": "2", "Hello.": "4", "I ran.": "Good!"}
    )
    result = bench.json([ADA, BOB])
    for method, figures in result["methods"].items():
        assert result["scores"][method] == [[None, None, 2], [4, None]]
        assert [turn["alignment"] for turn in figures["turns"]] == [4, None, 2]
        assert [turn["alignment_ci"] for turn in figures["turns"]] == [[4, 4], None, [2, 2]]
        assert [turn["scored"] for turn in figures["turns"]] == [1, 0, 1]
        assert (figures["average"], figures["n_ir"]) == (3, pytest.approx(-0.5))
        assert (figures["empty"], figures["unparsed"]) == (0, 3)
    assert len(judge.requests) == 10


def test_without_any_score_there_are_no_figures(bench: Bench, judge: ScriptedJudge) -> None:
    judge.verdict_on = lambda _: "I would rather not."
    figures = bench.json([BOB])["methods"]["rag"]
    assert (figures["average"], figures["n_ir"], figures["n_r2"]) == (None, None, None)
    ran = bench([BOB])
    assert ran.exit_code == 0, ran.output
    rows = [line.replace("\u2502", " ").split() for line in ran.stdout.splitlines()]
    assert ["1", "-", "-"] in rows
    assert ["Without", "a", "readable", "score", "2", "2"] in rows


@pytest.fixture
def silent_model(tiny_model_dir: Path, tmp_path: Path, chat_tokenizer: ChatTokenizer) -> Path:
    """The tiny model, made to end each reply before it starts."""
    model = load_model(str(tiny_model_dir), device="cpu")
    opening = chat_tokenizer.prompt_ids([{"role": "user", "content": "Hi!"}])
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        # What is left is the last token's embedding, which now is likest that of the end.
        embeddings = model.get_input_embeddings().weight
        embeddings[chat_tokenizer.end_id] = 10 * embeddings[opening[-1]]
    folder = tmp_path / "silent"
    model.save_pretrained(str(folder))
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (folder / name).write_bytes((tiny_model_dir / name).read_bytes())
    return folder


def test_an_empty_reply_has_the_lowest_score_and_the_judge_is_not_asked(
    bench: Bench, judge: ScriptedJudge, silent_model: Path
) -> None:
    result = Bench(silent_model, bench.folder, bench.url).json([BOB])
    for method, figures in result["methods"].items():
        assert result["scores"][method] == [[1, 1]]
        assert (figures["empty"], figures["unparsed"]) == (2, 0)
        assert (figures["average"], figures["n_ir"], figures["n_r2"]) == (1, None, None)
    assert judge.requests == []


def test_only_the_first_dialogues_are_taken(bench: Bench, judge: ScriptedJudge) -> None:
    judge.verdict_on = lambda _: "3"
    result = bench.json([BOB, ADA, ADA], "--users", "1")
    assert result["dialogues"] == 1
    assert len(judge.requests) == 4


def test_the_table_has_a_row_for_each_turn(bench: Bench, judge: ScriptedJudge) -> None:
    judge.verdict_on = by_message({"Hello.": "2", "I ran.": "5"})
    ran = bench([BOB])
    assert ran.exit_code == 0, ran.output
    rows = [line.replace("\u2502", " ").split() for line in ran.stdout.splitlines()]
    assert ["1", *["2.00", "[2.00,", "2.00]", "of", "1"] * 2] in rows
    assert ["2", *["5.00", "[5.00,", "5.00]", "of", "1"] * 2] in rows
    assert ["Average", "3.500", "3.500"] in rows
    assert ["N-IR", "1.000", "1.000"] in rows
    assert ["N-R²", "1.000", "1.000"] in rows
    assert ["Empty", "replies,", "scored", "1", "0", "0"] in rows
    assert ["Without", "a", "readable", "score", "0", "0"] in rows


def test_a_judge_with_too_much_to_do_is_asked_again(bench: Bench, judge: ScriptedJudge) -> None:
    judge.verdicts = [429, 500, 503, "2", 502, "4", "3", "5"]
    result = bench.json([BOB], "--at-once", "1")
    assert result["scores"] == {"base": [[2, 4]], "rag": [[3, 5]]}
    questions = judge.questions
    assert [questions.count(question) for question in dict.fromkeys(questions)] == [4, 2, 1, 1]


def test_a_judge_that_never_recovers_is_one_sentence(bench: Bench, judge: ScriptedJudge) -> None:
    judge.verdict_on = lambda _: 503
    ran = bench([BOB], "--at-once", "1", "--json")
    assert isinstance(ran.exception, NoVerdict)
    assert f"The judge at {judge.url} gave no verdict" in str(ran.exception)
    assert "--judge-model" in str(ran.exception)
    assert ran.stdout == ""
    assert max(Counter(judge.questions).values()) == 6


def test_a_judge_that_refuses_stops_the_run_at_the_first_dialogue(
    bench: Bench, judge: ScriptedJudge
) -> None:
    judge.verdict_on = lambda _: 401
    ran = bench([BOB, ADA, ADA])
    assert isinstance(ran.exception, NoVerdict)
    assert "Wrong key" in str(ran.exception)
    assert 1 <= len(judge.requests) <= 2
    assert not any("Ada" in question for question in judge.questions)


def test_as_many_questions_as_allowed_wait_at_a_time_and_no_more(
    bench: Bench, judge: ScriptedJudge
) -> None:
    pair = threading.Barrier(2, timeout=20)
    lock = threading.Lock()
    waiting = most = 0

    def verdict(_: str) -> Verdict:
        nonlocal waiting, most
        with lock:
            waiting += 1
            most = max(most, waiting)
        pair.wait()  # comes back only when two are here at once
        time.sleep(0.2)  # and others, were they let in, would be here too
        with lock:
            waiting -= 1
        return "3"

    judge.verdict_on = verdict
    four = dialogue("Cy", "One.", "Two.", "Three.", "Four.")
    bench.json([four], "--at-once", "2")
    assert (len(judge.requests), most) == (8, 2)


def test_an_address_without_a_judge_is_told_before_a_model_is_loaded(tmp_path: Path) -> None:
    ran = Bench(tmp_path / "none", tmp_path, "judge:8000")([BOB])
    assert isinstance(ran.exception, NoVerdict)
    assert "The judge at judge:8000 gave no verdict" in str(ran.exception)


def test_the_oldest_turns_of_a_conversation_too_long_are_left_out(
    bench: Bench, judge: ScriptedJudge
) -> None:
    judge.verdict_on = lambda _: "3"
    long = dialogue("Eve", "Beer " * 70, "Hops?", "Malt?")  # 280 of 512 tokens
    long["conversations"][0]["assistant"]["preferred"] = "Beer " * 70
    assert bench.json([long])["shortened"] == 2
    later = {q for q in judge.questions if "Hops?" in q or "Malt?" in q}
    assert len(judge.requests) == 6
    judge.requests.clear()
    rest = long | {"conversations": long["conversations"][1:]}
    assert bench.json([rest])["shortened"] == 0
    assert set(judge.questions) == later
    assert "2 turns were too long" in bench([long]).stdout


def test_a_message_too_long_by_itself_is_one_sentence(bench: Bench, judge: ScriptedJudge) -> None:
    judge.verdict_on = lambda _: "3"
    ran = bench([BOB, dialogue("Eve", "Hi!", "Beer " * 200)])
    assert isinstance(ran.exception, DialogueTooLong)
    assert str(ran.exception).startswith("Dialogue 2, turn 2: ")
    assert "506 tokens" in str(ran.exception)
    assert "--new-tokens" in str(ran.exception)
