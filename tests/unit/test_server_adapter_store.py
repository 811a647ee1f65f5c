"""Adapter files: whole or not there, whatever moment a crash picks, and never served damaged."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from server import adapter_store
from server.adapter_store import DamagedAdapterError, UnsafeAdapterError
from server.store.tables.adapters import Adapter

REPOSITORY = Path(__file__).resolve().parents[2]
WEIGHTS = "adapter_model.safetensors"

# Runs `place` or `delete` in one child process per crash point: the child's n-th call into the
# file system, of those that Python announces, is its last act.
CRASHES = """
import json, os, sys
from pathlib import Path
from server import adapter_store

work, source, folder = (Path(argument) for argument in sys.argv[1:4])
action = sys.argv[4]
EVENTS = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.scandir", "os.listdir",
          "shutil.copyfile", "shutil.copytree", "shutil.rmtree", "os.chmod", "os.utime")

def child(point):
    seen = 0
    def hook(event, arguments):
        nonlocal seen
        if event in EVENTS:
            seen += 1
            if seen == point:
                os._exit(9)
    sys.addaudithook(hook)
    if action == "place":
        adapter_store.place(source, folder)
    else:
        adapter_store.delete(folder)
    os._exit(0)

outcomes = []
for point in range(1, 1000):
    if action == "delete":
        adapter_store.place(source, folder)
    pid = os.fork()
    if pid == 0:
        child(point)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    outcomes.append(sorted(p.name for p in folder.iterdir()) if folder.exists() else None)
    if code == 0:
        break
    if action == "place" and point % 2:
        adapter_store.delete(folder)  # else the next one finds the folder of this one
print(json.dumps(outcomes))
"""


def source_of(folder: Path, weights: bytes = b"weights") -> Path:
    folder.mkdir()
    (folder / "adapter_config.json").write_text("{}")
    (folder / WEIGHTS).write_bytes(weights)
    return folder


def placed(folder: Path, weights: bytes = b"weights") -> Adapter:
    """A version with its files, as the registry knows it."""
    target = folder / "adapters" / "u1" / "v1"
    files = adapter_store.place(source_of(folder / "source", weights), target)
    return Adapter(
        user_id=1,
        version=1,
        state="active",
        folder=str(target),
        checksums=dict(files.checksums),
        size_bytes=files.size_bytes,
    )


def crashes(tmp_path: Path, action: str) -> list[list[str] | None]:
    """What the folder held after a crash at each point; the last entry is without a crash."""
    folder = tmp_path / "adapters" / "u1" / "v1"
    arguments = [tmp_path, source_of(tmp_path / "source"), folder, action]
    ran = subprocess.run(
        [sys.executable, "-c", CRASHES, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=True,
        cwd=REPOSITORY,
    )
    outcomes: list[list[str] | None] = json.loads(ran.stdout)
    return outcomes


def test_a_crash_while_placing_leaves_nothing_or_the_whole_version(tmp_path: Path) -> None:
    outcomes = crashes(tmp_path, "place")
    whole = ["adapter_config.json", WEIGHTS, "checksums.json"]
    assert len(outcomes) > 10
    assert outcomes[-1] == whole
    assert {tuple(outcome) for outcome in outcomes if outcome is not None} == {tuple(whole)}
    assert None in outcomes
    # The last, undisturbed attempt cleans up behind those that crashed.
    assert [path.name for path in (tmp_path / "adapters" / "u1").iterdir()] == ["v1"]


def test_a_crash_while_deleting_leaves_nothing_or_the_whole_version(tmp_path: Path) -> None:
    outcomes = crashes(tmp_path, "delete")
    whole = ["adapter_config.json", WEIGHTS, "checksums.json"]
    assert outcomes[-1] is None
    assert {tuple(outcome) for outcome in outcomes if outcome is not None} == {tuple(whole)}


def test_placing_again_ends_the_same(tmp_path: Path) -> None:
    source, folder = source_of(tmp_path / "source"), tmp_path / "u1" / "v1"
    first = adapter_store.place(source, folder)
    assert adapter_store.place(source, folder) == first
    assert [path.name for path in folder.parent.iterdir()] == ["v1"]
    assert json.loads((folder / "checksums.json").read_text()) == first.checksums


def test_a_write_that_fails_leaves_nothing(tmp_path: Path) -> None:
    source, folder = source_of(tmp_path / "source"), tmp_path / "u1" / "v1"
    limited = (
        "import resource, signal, sys; from pathlib import Path; "
        "from server import adapter_store; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4, 4)); "
        "adapter_store.place(Path(sys.argv[1]), Path(sys.argv[2]))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", limited, str(source), str(folder)],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
    )
    assert ran.returncode == 1 and "File too large" in ran.stderr
    assert list(folder.parent.iterdir()) == []


@pytest.mark.parametrize("name", ["adapter_model.bin", "weights.pt", "run.py", "README"])
def test_only_json_and_safetensors_are_placed(tmp_path: Path, name: str) -> None:
    source = source_of(tmp_path / "source")
    (source / name).write_bytes(b"\x80\x04.")
    with pytest.raises(UnsafeAdapterError, match=name):
        adapter_store.place(source, tmp_path / "u1" / "v1")
    assert not (tmp_path / "u1").exists()


@pytest.mark.parametrize("look", [adapter_store.verify, adapter_store.check])
def test_every_kind_of_damage_is_found(tmp_path: Path, look: Callable[[Adapter], None]) -> None:
    adapter = placed(tmp_path)
    folder = Path(adapter.folder)
    look(adapter)
    (folder / WEIGHTS).write_bytes(b"other!!")
    with pytest.raises(DamagedAdapterError, match="was changed"):
        look(adapter)
    (folder / WEIGHTS).write_bytes(b"weights")
    look(adapter)
    (folder / "extra.json").write_text("{}")
    with pytest.raises(DamagedAdapterError, match=r"extra\.json was added"):
        look(adapter)
    (folder / "extra.json").unlink()
    (folder / WEIGHTS).unlink()
    with pytest.raises(DamagedAdapterError, match=rf"{WEIGHTS} is missing"):
        look(adapter)
    adapter_store.delete(folder)
    with pytest.raises(DamagedAdapterError, match="is missing"):
        look(adapter)


def test_a_change_that_keeps_size_and_time_is_seen_by_the_check(tmp_path: Path) -> None:
    adapter = placed(tmp_path)
    adapter_store.check(adapter)
    file = Path(adapter.folder) / WEIGHTS
    before = file.stat()
    file.write_bytes(b"Weights")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(DamagedAdapterError, match="was changed"):
        adapter_store.check(adapter)


def test_unchanged_files_are_read_once(tmp_path: Path) -> None:
    adapter = placed(tmp_path)
    opened: list[str] = []

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if event == "open" and str(arguments[0]).startswith(adapter.folder):
            opened.append(str(arguments[0]))

    sys.addaudithook(hook)
    adapter_store.check(adapter)
    assert len(opened) == 2
    adapter_store.check(adapter)
    assert len(opened) == 2


def test_the_probe_sees_missing_files_and_other_sizes(tmp_path: Path) -> None:
    adapter = placed(tmp_path)
    adapter_store.probe(adapter)
    file = Path(adapter.folder) / WEIGHTS
    file.write_bytes(b"cut")
    with pytest.raises(DamagedAdapterError, match="5 bytes and not 9"):
        adapter_store.probe(adapter)
    file.unlink()
    with pytest.raises(DamagedAdapterError, match="is missing"):
        adapter_store.probe(adapter)


def test_the_first_whole_version_is_chosen(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    newer, older = placed(tmp_path / "a"), placed(tmp_path / "b")
    assert adapter_store.first_whole([newer, older]) is newer
    (Path(newer.folder) / WEIGHTS).unlink()
    assert adapter_store.first_whole([newer, older]) is older
    (Path(older.folder) / WEIGHTS).unlink()
    assert adapter_store.first_whole([newer, older]) is None


def test_deleting_what_is_gone_is_no_error(tmp_path: Path) -> None:
    adapter = placed(tmp_path)
    adapter_store.delete(Path(adapter.folder))
    adapter_store.delete(Path(adapter.folder))
    assert list((tmp_path / "adapters" / "u1").iterdir()) == []


def test_what_a_crashed_deletion_left_goes_with_the_next(tmp_path: Path) -> None:
    folder = Path(placed(tmp_path).folder)
    other = folder.with_name(".v11.0123abcd")
    shutil.copytree(folder, other)
    folder.rename(folder.with_name(".v1.0123abcd"))
    adapter_store.delete(folder)
    assert list(folder.parent.iterdir()) == [other]
