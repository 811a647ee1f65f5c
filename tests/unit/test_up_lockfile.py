"""Locks from a scripted report of pip's."""

import json
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import NormalizedName, canonicalize_name

from scripts.lockfile import LockError, Resolution, lock, main, read_requirements


def report(**packages: list[str]) -> dict[str, object]:
    """A report of packages, all of version 1.0, and what each requires."""
    return {
        "install": [
            {"metadata": {"name": name, "version": "1.0", "requires_dist": requires}}
            for name, requires in packages.items()
        ]
    }


def roots(*lines: str) -> list[Requirement]:
    return [Requirement(line) for line in lines]


def excluded(*names: str) -> frozenset[NormalizedName]:
    return frozenset(canonicalize_name(name) for name in names)


def test_what_is_left_out_takes_along_what_only_it_needs() -> None:
    resolution = Resolution(
        report(engine=["Numba", "numpy"], numba=["llvmlite", "numpy"], llvmlite=[], numpy=[])
    )
    assert lock(resolution, roots("engine"), excluded("numba")) == ["engine==1.0", "numpy==1.0"]


def test_extras_bring_their_dependencies_and_only_when_asked() -> None:
    resolution = Resolution(report(a=["b[x]"], b=['c; extra == "x"', 'd; extra == "y"'], c=[]))
    assert lock(resolution, roots("a")) == ["a==1.0", "b==1.0", "c==1.0"]


def test_a_dependency_of_a_newer_python_alone_must_be_pinned_by_hand() -> None:
    resolution = Resolution(report(gradio=['audioop-lts<=0.2.2; python_version >= "3.13"']))
    with pytest.raises(LockError, match=r"audioop-lts.* is needed on Python 3\.13"):
        lock(resolution, roots("gradio"))
    pinned = 'audioop-lts==0.2.2; python_version >= "3.13"'
    pinned_resolution = Resolution(report(gradio=['audioop-lts==0.2.2; python_version >= "3.13"']))
    assert lock(pinned_resolution, roots("gradio", pinned)) == [pinned, "gradio==1.0"]


def test_the_command_writes_what_the_other_lock_lacks(tmp_path: Path) -> None:
    (tmp_path / "base.in").write_text("a  # why\n")
    (tmp_path / "cpu.in").write_text("-r base.in\n")
    (tmp_path / "dev.in").write_text("tool\n")
    (tmp_path / "r.json").write_text(json.dumps(report(a=["c"], c=[], tool=["c", "d"], d=[])))
    target = tmp_path / "dev.txt"
    arguments = [tmp_path / "r.json", tmp_path / "dev.in", target, "--without", tmp_path / "cpu.in"]
    assert main([str(argument) for argument in arguments]) == 0
    assert target.read_text().splitlines()[1:] == ["d==1.0", "tool==1.0"]
    assert [str(r) for r in read_requirements(tmp_path / "cpu.in")] == ["a"]


def test_the_committed_locks_pin_every_line_and_need_no_cuda_on_a_cpu() -> None:
    folder = Path(__file__).resolve().parents[2] / "requirements"
    pins = {
        name: {r.name: str(r.specifier) for r in read_requirements(folder / f"{name}.txt")}
        for name in ("cpu", "gpu", "dev")
    }
    assert all(spec.startswith("==") for lines in pins.values() for spec in lines.values())
    assert pins["cpu"]["torch"] == "==2.13.0+cpu"
    assert not any(name.startswith(("nvidia", "triton", "torchvision")) for name in pins["cpu"])
    assert not pins["cpu"].keys() & pins["dev"].keys()
