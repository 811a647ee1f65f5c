import json
from pathlib import Path

from scripts.attune.bench.kept import Kept, name_of, workplace


def never() -> None:
    raise AssertionError("computed again")


def test_a_result_is_computed_once_also_by_a_later_run(tmp_path: Path) -> None:
    file = tmp_path / "new" / "kept.jsonl"
    kept = Kept(file)
    assert kept.recall(["loss", 1e-3, ["ann"]], lambda: 2.5) == 2.5
    assert kept.recall("nothing", lambda: None) is None
    for one in (kept, Kept(file)):
        assert one.recall(["loss", 1e-3, ["ann"]], never) == 2.5
        assert one.recall("nothing", never) is None
        assert one.recall(["loss", 1e-3, ["bob"]], lambda: 3) == 3


def test_half_a_line_is_computed_again_and_spoils_no_other(tmp_path: Path) -> None:
    file = tmp_path / "kept.jsonl"
    for key in "ab":
        Kept(file).recall(key, lambda: {"text": "line\nbreak"})
    file.write_text(file.read_text()[:-5])
    kept = Kept(file)
    assert kept.recall("a", never) == {"text": "line\nbreak"}
    assert kept.recall("b", lambda: 2) == 2
    again = Kept(file)
    assert (again.recall("a", never), again.recall("b", never)) == ({"text": "line\nbreak"}, 2)
    assert all(json.loads(line) for line in file.read_text().splitlines())


def test_a_workplace_stays_only_where_it_is_named(tmp_path: Path) -> None:
    with workplace(None) as passing:
        assert passing.is_dir()
    assert not passing.exists()
    with workplace(tmp_path / "named") as named:
        assert named.is_dir()
    assert named.is_dir()


def test_names_tell_values_apart() -> None:
    assert name_of({"a": 1, "b": 2}) == name_of({"b": 2, "a": 1})
    assert len({name_of("a", "b"), name_of("ab"), name_of(["a"], "b"), name_of(1)}) == 4
