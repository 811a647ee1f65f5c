import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from scripts.attune.bench.annotated import UnreadableBenchmark, read_annotated
from scripts.attune.main import app

DOG = {
    "id": "dog-1",
    "persona": ["My dog hates thunder."],
    "question": "Any plans?",
    "answer": "The dog and I hide from the big thunder.",
    "personal": ["dog", "thunder", "hide"],
}


def written(folder: Path, *records: object) -> Path:
    file = folder / "bench.jsonl"
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    return file


def test_a_line_becomes_an_item_with_the_spans_of_its_phrases(tmp_path: Path) -> None:
    [item] = read_annotated(written(tmp_path, DOG))
    assert (item.id, item.persona, item.question) == ("dog-1", tuple(DOG["persona"]), "Any plans?")
    assert item.answer == DOG["answer"]
    assert item.personal == ((4, 7), (32, 39), (14, 18))


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"not json", "no JSON"),
        (b'{"id": "x"', "no JSON"),
        (b'["a"]', "no JSON object"),
        (b"7", "no JSON object"),
        (b"[" * 100_000, "recursion"),
        (b'{"id": "\xff"}', "utf-8"),
        (json.dumps({k: v for k, v in DOG.items() if k != "answer"}).encode(), "'answer' is"),
        (json.dumps({k: v for k, v in DOG.items() if k != "id"}).encode(), "'id' is missing"),
        (json.dumps(DOG | {"answer": None}).encode(), "'answer' is no text but null"),
        (json.dumps(DOG | {"question": ["Hi"]}).encode(), "'question' is no text"),
        (json.dumps(DOG | {"persona": "I surf."}).encode(), "'persona' is no list"),
        (json.dumps(DOG | {"personal": "dog"}).encode(), "'personal' is no list"),
        (json.dumps(DOG | {"personal": [["dog"]]}).encode(), "'personal' is no text"),
        (json.dumps(DOG | {"personal": ["dog", "cat"]}).encode(), "no words 'cat'"),
        (json.dumps(DOG | {"personal": ["."]}).encode(), r"no words '\.'"),
        (json.dumps(DOG | {"personal": [""]}).encode(), "no words ''"),
        (json.dumps(DOG | {"persona": ["\ud800"]}).encode(), "surrogates"),
    ],
)
def test_a_broken_line_is_named_with_its_file_and_number(
    tmp_path: Path, line: bytes, reason: str
) -> None:
    file = tmp_path / "bench.jsonl"
    file.write_bytes(b"\n" + json.dumps(DOG).encode() + b"\r\n" + line + b"\n")
    ran = CliRunner().invoke(app, ["bench", "pir", str(file)])
    assert ran.exit_code == 1
    assert ran.stdout == ""
    with pytest.raises(UnreadableBenchmark, match=rf"bench\.jsonl, line 3: .*{reason}"):
        read_annotated(file)
    assert isinstance(ran.exception, UnreadableBenchmark)


def test_line_ends_inside_texts_and_a_byte_order_mark_break_no_line(tmp_path: Path) -> None:
    file = tmp_path / "bench.jsonl"
    odd = DOG | {"question": "Any\u2028plans\u0085now?"}
    raw = json.dumps(DOG, ensure_ascii=False) + "\n" + json.dumps(odd, ensure_ascii=False)
    file.write_text(raw, encoding="utf-8-sig")
    assert [item.question for item in read_annotated(file)][1] == odd["question"]


def test_texts_are_brought_to_the_form_that_tokenizers_use(tmp_path: Path) -> None:
    record = DOG | {"answer": "A cafe\u0301 for dogs", "personal": ["cafe\u0301", "dogs"]}
    [item] = read_annotated(written(tmp_path, record))
    assert item.answer == "A caf\u00e9 for dogs"
    assert item.personal == ((2, 6), (11, 15))


def test_a_phrase_is_annotated_wherever_it_is_a_word(tmp_path: Path) -> None:
    record = DOG | {"answer": "I start art, more art", "personal": ["art"]}
    [item] = read_annotated(written(tmp_path, record))
    assert item.personal == ((8, 11), (18, 21))


def test_a_file_without_items_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "bench.jsonl"
    file.write_text("\n \n")
    with pytest.raises(UnreadableBenchmark, match="holds no items"):
        read_annotated(file)
