import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from scripted_judge import ScriptedJudge
from transformers import PreTrainedModel
from typer.testing import CliRunner, Result

from perce.identification import Identified, measure, word_spans
from perce.prompt import ContextItem, prompt_pair
from perce.tokens import ChatTokenizer
from scripts.attune.bench.annotated import UnreadableBenchmark, read_annotated
from scripts.attune.bench.judge import NoVerdict
from scripts.attune.main import app, main
from scripts.attune.up.errors import BadModelError

FIGURES = {"precision", "recall", "f1", "auroc", "seconds"}
SURF = {
    "id": "surf-1",
    "persona": ["I love to surf.", "I live at Malibu."],
    "question": "What do you miss?",
    "answer": "Paddling out at Malibu, every day.",
    "personal": ["Paddling out", "Malibu"],
}
DOG = {
    "id": "dog-1",
    "persona": ["My dog hates thunder."],
    "question": "Any plans?",
    "answer": "The dog and I hide from the big thunder.",
    "personal": ["dog", "thunder", "hide"],
}


@pytest.fixture
def judge() -> Iterator[ScriptedJudge]:
    with ScriptedJudge() as scripted:
        yield scripted


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return written(tmp_path, SURF, DOG)


def written(folder: Path, *records: object) -> Path:
    file = folder / "bench.jsonl"
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    return file


@dataclass
class Bench:
    """`attune bench pir` on the tiny model."""

    model: Path

    def __call__(self, file: Path, *options: str) -> Result:
        arguments = ["bench", "pir", str(file), "--model", str(self.model), *options]
        return CliRunner().invoke(app, arguments, env={"COLUMNS": "90"})

    def json(self, file: Path, *options: str) -> Any:  # noqa: ANN401 - JSON
        ran = self(file, "--json", *options)
        assert ran.exit_code == 0, ran.output
        return json.loads(ran.stdout)


@pytest.fixture
def bench(tiny_model_dir: Path) -> Bench:
    return Bench(tiny_model_dir)


def test_json_has_the_documented_keys_and_nothing_else(bench: Bench, file: Path) -> None:
    result = bench.json(file)
    assert set(result) == {"threshold", "methods"}
    assert result["threshold"] == 1.0
    assert set(result["methods"]) == {"word_match", "percontrast"}
    for figures in result["methods"].values():
        assert set(figures) == FIGURES
        assert all(0 <= figures[name] <= 1 for name in FIGURES - {"seconds"})
        assert figures["seconds"] >= 0


def test_word_matching_has_the_figures_counted_by_hand(bench: Bench, file: Path) -> None:
    figures = bench.json(file)["methods"]["word_match"]
    # Found: Malibu, dog, thunder, all annotated; annotated besides: Paddling, out, hide.
    # Every found one scores 1 and the other 3 annotated and 9 plain words 0.
    assert figures["precision"] == 1
    assert figures["recall"] == pytest.approx(3 / 6)
    assert figures["f1"] == pytest.approx(2 / 3)
    assert figures["auroc"] == pytest.approx((3 + 3 / 2) / 6)


@pytest.mark.skipif(torch.cuda.is_available(), reason="in bfloat16 there, so not comparable")
def test_percontrast_has_the_figures_of_transformers_logits(
    bench: Bench, file: Path, tiny_model: PreTrainedModel, chat_tokenizer: ChatTokenizer
) -> None:
    items = read_annotated(file)
    found = []
    for item in items:
        ids = chat_tokenizer.reply_ids(item.answer)
        context = [ContextItem("fact", fact) for fact in item.persona]
        pair = prompt_pair([{"role": "user", "content": item.question}], context)
        sides = []
        for messages in (pair.with_persona, pair.without_persona):
            prompt = chat_tokenizer.prompt_ids(messages)
            with torch.no_grad():
                logits_TV = tiny_model(input_ids=torch.tensor([[*prompt, *ids]])).logits[0]
            logprobs_NV = logits_TV[len(prompt) - 1 : -1].log_softmax(-1)
            sides.append(logprobs_NV[range(len(ids)), ids])
        pirs = (sides[0] - sides[1]).tolist()
        spans = chat_tokenizer.spans(ids)
        letters = [any(map(str.isalnum, item.answer[slice(*span)])) for span in spans]
        places = [set(range(*span)) for span in spans]
        scored = [
            (word, sum(p for p, own in zip(pirs, places, strict=True) if own & set(range(*word))))
            for word in word_spans(item.answer)
        ]
        personal = [
            span for span, pir, any_ in zip(spans, pirs, letters, strict=True) if pir > 1 and any_
        ]
        found.append(Identified(tuple(personal), tuple(scored)))
    expected = measure([i.answer for i in items], [i.personal for i in items], found)
    figures = bench.json(file)["methods"]["percontrast"]
    assert 0 < figures["precision"] < 1
    for name in FIGURES - {"seconds"}:
        assert figures[name] == pytest.approx(getattr(expected, name)), name


def test_controls_are_a_strangers_persona_and_surprise(bench: Bench, tmp_path: Path) -> None:
    swapped = written(
        tmp_path, SURF | {"persona": DOG["persona"]}, DOG | {"persona": SURF["persona"]}
    )
    exchanged = bench.json(swapped, "--controls")["methods"]
    own = bench.json(written(tmp_path, SURF, DOG), "--controls")["methods"]
    assert set(own) == {"word_match", "percontrast", "other_persona", "surprise"}

    def figures(method: dict[str, float]) -> list[float]:
        return [method[name] for name in sorted(FIGURES - {"seconds"})]

    # Of two people, each is the other's stranger; surprise does not look at who asks.
    assert figures(own["other_persona"]) == pytest.approx(figures(exchanged["percontrast"]))
    assert figures(own["other_persona"]) != pytest.approx(figures(own["percontrast"]))
    assert figures(own["surprise"]) == pytest.approx(figures(exchanged["surprise"]))
    # Surprise reads the passes of PerContrast; a stranger's persona has its own.
    assert own["surprise"]["seconds"] == own["percontrast"]["seconds"]
    assert own["other_persona"]["seconds"] != own["percontrast"]["seconds"]


def test_a_persona_that_all_share_has_no_stranger(bench: Bench, tmp_path: Path) -> None:
    file = written(tmp_path, SURF, DOG | {"persona": SURF["persona"][:1]})
    control = bench.json(file, "--controls")["methods"]["other_persona"]
    assert (control["recall"], control["auroc"]) == (0, 0.5)


def test_only_ids_that_start_so_are_taken(bench: Bench, file: Path) -> None:
    figures = bench.json(file, "--only", "surf")["methods"]["word_match"]
    assert figures["recall"] == pytest.approx(1 / 3)
    ran = bench(file, "--only", "cat")
    assert isinstance(ran.exception, UnreadableBenchmark)
    assert "None of the 2 items" in str(ran.exception)
    assert "'cat'" in str(ran.exception)
    assert "'surf-1'" in str(ran.exception)


def test_the_table_has_a_row_for_each_method(bench: Bench, file: Path) -> None:
    ran = bench(file)
    assert ran.exit_code == 0, ran.output
    assert "PIR > 1" in ran.stdout
    cells = [line.replace("\u2502", " ").split() for line in ran.stdout.splitlines()]
    [matched] = [row for row in cells if "word_match" in row]
    assert matched[:5] == ["word_match", "1.000", "0.500", "0.667", "0.750"]
    assert sum("percontrast" in row for row in cells) == 1
    assert not any("llm_judge" in row for row in cells)


def test_a_judge_is_asked_once_for_each_reply(
    bench: Bench, file: Path, judge: ScriptedJudge
) -> None:
    judge.verdicts = ['["Paddling", "day"]', 'I think:\n```json\n["thunder"]\n```']
    options = ["--judge", judge.url, "--judge-model", "big", "--judge-key", "k1"]
    figures = bench.json(file, *options)["methods"]["llm_judge"]
    # Paddling and thunder are right, day is not; 6 words are annotated, 9 are not.
    assert set(figures) == FIGURES
    assert figures["precision"] == pytest.approx(2 / 3)
    assert figures["recall"] == pytest.approx(2 / 6)
    assert figures["f1"] == pytest.approx(4 / 9)
    assert figures["auroc"] == pytest.approx((2 * 8 + 2 * 0.5 + 4 * 8 * 0.5) / 54)
    assert [key for key, _ in judge.requests] == ["Bearer k1"] * 2
    for (_, body), record in zip(judge.requests, (SURF, DOG), strict=True):
        assert (body["model"], body["temperature"]) == ("big", 0)
        asked = body["messages"][-1]["content"]
        assert all(fact in asked for fact in record["persona"])
        assert record["question"] in asked
        assert record["answer"] in asked


@pytest.mark.parametrize(
    ("verdict", "reason"),
    [
        (401, "Wrong key"),
        (b"<html>Welcome!</html>", "not in OpenAI's chat format"),
        (b'{"choices": []}', "not in OpenAI's chat format"),
        (b'{"detail": "no"}', "not in OpenAI's chat format"),
        (b'{"choices": [{"message": {"content": 3}}]}', "not in OpenAI's chat format"),
        (b"no json", "Expecting value"),
    ],
)
def test_a_judge_that_gives_no_verdict_is_one_sentence(
    bench: Bench, file: Path, judge: ScriptedJudge, verdict: bytes | int, reason: str
) -> None:
    judge.verdicts = [verdict]
    ran = bench(file, "--judge", judge.url, "--judge-model", "big")
    assert isinstance(ran.exception, NoVerdict)
    assert f"The judge at {judge.url} gave no verdict" in str(ran.exception)
    assert reason in str(ran.exception)
    assert "--judge-key" in str(ran.exception)


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "http://judge:port/v1", "judge:8000"])
def test_an_address_without_a_judge_is_one_sentence(bench: Bench, file: Path, url: str) -> None:
    ran = bench(file, "--judge", url, "--judge-model", "big")
    assert isinstance(ran.exception, NoVerdict)
    assert f"The judge at {url} gave no verdict" in str(ran.exception)
    assert ran.stdout == ""


def test_a_judge_needs_its_models_name(bench: Bench, file: Path) -> None:
    ran = bench(file, "--judge", "http://127.0.0.1:1/v1")
    assert ran.exit_code == 2
    assert "--judge-model" in ran.stderr


def test_answers_without_words_are_measured_with_the_others(bench: Bench, tmp_path: Path) -> None:
    blank = {"persona": [], "question": "?", "personal": []}
    silent = [blank | {"id": "a", "answer": ""}, blank | {"id": "b", "answer": "...!"}]
    figures = bench.json(written(tmp_path, SURF, *silent))["methods"]["word_match"]
    assert figures["recall"] == pytest.approx(1 / 3)


@pytest.mark.parametrize("personal", [[], ["The dog and I hide from the big thunder"]])
def test_replies_of_one_kind_of_word_are_one_sentence(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, personal: list[str]
) -> None:
    file = written(tmp_path, DOG | {"personal": personal})
    with pytest.raises(SystemExit) as exit:
        main(["bench", "pir", str(file), "--model", str(tmp_path)])
    out, err = capsys.readouterr()
    assert (exit.value.code, out) == (1, "")
    assert err.startswith("Of 9 words, ")
    assert err.endswith("Take more replies, some with and some without personal words.\n")


@pytest.mark.parametrize("name", ["", "nowhere"])
def test_a_folder_without_a_model_is_one_sentence(file: Path, tmp_path: Path, name: str) -> None:
    ran = Bench(tmp_path / name)(file)
    assert isinstance(ran.exception, BadModelError)
    assert "--model" in str(ran.exception)


def test_a_model_that_does_not_load_is_one_sentence(
    file: Path, tiny_model_dir: Path, tmp_path: Path
) -> None:
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((tiny_model_dir / name).read_bytes())
    (tmp_path / "other.safetensors").write_bytes(b"")
    ran = Bench(tmp_path)(file)
    assert isinstance(ran.exception, BadModelError)
    assert "\n" not in str(ran.exception)


def test_a_file_that_is_not_there_is_a_usage_error(bench: Bench, tmp_path: Path) -> None:
    ran = bench(tmp_path / "none.jsonl")
    assert ran.exit_code == 2
    assert "exist" in ran.stderr
