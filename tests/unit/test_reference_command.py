"""What `scripts.train_reference` refuses before it trains for hours."""

from pathlib import Path

import pytest

from scripts.train_reference import main

REFERENCE = Path(__file__).parents[2] / "perce" / "reference"


@pytest.fixture
def folders(tmp_path: Path) -> list[str]:
    return ["--data", str(tmp_path / "none"), "--work", str(tmp_path / "work")]


def refusal(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as exit:
        main(arguments)
    assert exit.value.code == 2
    return capsys.readouterr().err


def test_a_model_is_not_written_over_the_one_that_it_goes_back_to(
    folders: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    same = str(REFERENCE / ".." / REFERENCE.name)
    said = refusal([*folders, "--from", str(REFERENCE), "--out", same], capsys)
    assert "--out is the folder of --from" in said


@pytest.mark.parametrize("share", ["0", "-0.1", "1.1", "nan"])
def test_a_share_that_is_none_is_refused(
    folders: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], share: str
) -> None:
    there = ["--from", str(REFERENCE), "--out", str(tmp_path / "out")]
    assert f"--share is {float(share)}" in refusal([*folders, *there, f"--share={share}"], capsys)
