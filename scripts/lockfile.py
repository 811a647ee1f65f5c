"""Lock files from pip's own resolution.

`scripts/lock` asks pip for a dry run's report; this module turns it into pinned lines. It
leaves out what `cpu.exclude` names together with whatever only those packages need, and
refuses a lock that a supported Python could not use: pip resolves for the Python it runs
on, so the markers of every dependency are evaluated for the others here.
"""

import argparse
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import NormalizedName, canonicalize_name

PYTHONS = ("3.11", "3.12", "3.13")

_LINUX = {
    "implementation_name": "cpython",
    "os_name": "posix",
    "platform_machine": "x86_64",
    "platform_python_implementation": "CPython",
    "platform_release": "6.1",
    "platform_system": "Linux",
    "platform_version": "1",
    "sys_platform": "linux",
}


class LockError(Exception):
    """The resolution can't become a lock: its message names the package and the cure."""


class Resolution:
    """The packages that pip would install, and what each requires."""

    def __init__(self, report: Mapping[str, Any]) -> None:
        metadata = [item["metadata"] for item in report["install"]]
        self.versions = {canonicalize_name(m["name"]): m["version"] for m in metadata}
        self._requires = {
            canonicalize_name(m["name"]): [Requirement(r) for r in m.get("requires_dist", [])]
            for m in metadata
        }

    def closure(
        self, roots: Iterable[Requirement], python: str, excluded: frozenset[NormalizedName]
    ) -> set[NormalizedName]:
        """Canonical names of all that `roots` need on `python`, themselves included.

        Args:
            roots: What is asked for; their own markers are evaluated too.
            python: A Python version such as `3.12`.
            excluded: Canonical names that are not followed.

        Raises:
            LockError: A package is needed on `python` that the report lacks.
        """
        environment = {
            **_LINUX,
            "python_version": python,
            "python_full_version": f"{python}.1",
            "implementation_version": f"{python}.1",
        }
        pending = [r for r in roots if _applies(r, environment, frozenset())]
        seen: set[tuple[NormalizedName, frozenset[str]]] = set()
        while pending:
            requirement = pending.pop()
            name, extras = canonicalize_name(requirement.name), frozenset(requirement.extras)
            if name in excluded or (name, extras) in seen:
                continue
            seen.add((name, extras))
            if name not in self.versions:
                if _pinned(requirement):
                    continue
                raise LockError(
                    f"{requirement} is needed on Python {python} but not on the Python that "
                    "resolved the lock: pin it with == and a marker in requirements/base.in."
                )
            pending += [r for r in self._requires[name] if _applies(r, environment, extras)]
        return {name for name, _ in seen if name in self.versions}


def _applies(
    requirement: Requirement, environment: Mapping[str, str], extras: frozenset[str]
) -> bool:
    marker = requirement.marker
    if marker is None:
        return True
    return any(marker.evaluate({**environment, "extra": extra}) for extra in (extras | {""}))


def _pinned(requirement: Requirement) -> bool:
    return [s.operator for s in requirement.specifier] == ["=="]


def read_requirements(path: Path) -> list[Requirement]:
    """Requirements of an `.in` file and of the files that it includes with `-r`."""
    found: list[Requirement] = []
    for line in path.read_text().splitlines():
        text = line.split("#", 1)[0].strip()
        if text.startswith("-r "):
            found += read_requirements(path.parent / text[3:].strip())
        elif text:
            found.append(Requirement(text))
    return found


def lock(
    resolution: Resolution,
    roots: Sequence[Requirement],
    excluded: frozenset[NormalizedName] = frozenset(),
    without: Iterable[NormalizedName] = (),
) -> list[str]:
    """Sorted `name==version` lines of all that `roots` need.

    Args:
        resolution: pip's report.
        roots: What is asked for.
        excluded: Canonical names to leave out with all that only they need.
        without: Canonical names that another lock has already.

    Raises:
        LockError: No lock for every supported Python can be made of `resolution`.
    """
    names: set[NormalizedName] = set()
    for python in PYTHONS:
        names |= resolution.closure(roots, python, excluded)
    lines = {f"{name}=={resolution.versions[name]}" for name in names - set(without)}
    lines |= {
        str(root)
        for root in roots
        if root.marker and canonicalize_name(root.name) not in resolution.versions
    }
    return sorted(lines)


def main(arguments: Sequence[str]) -> int:
    """Writes one lock file; returns the process's exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else None)
    parser.add_argument("report", type=Path, help="what pip install --report wrote")
    parser.add_argument("source", type=Path, help="the .in file")
    parser.add_argument("target", type=Path, help="the lock file to write")
    parser.add_argument("--exclude", type=Path, help="file of names to leave out")
    parser.add_argument("--without", type=Path, help=".in file whose closure is locked elsewhere")
    options = parser.parse_args(arguments)
    resolution = Resolution(json.loads(options.report.read_text()))
    excluded = frozenset(
        canonicalize_name(r.name)
        for r in (read_requirements(options.exclude) if options.exclude else [])
    )
    without: set[NormalizedName] = set()
    if options.without:
        for python in PYTHONS:
            without |= resolution.closure(read_requirements(options.without), python, excluded)
    try:
        lines = lock(resolution, read_requirements(options.source), excluded, without)
    except LockError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    header = f"# Made by scripts/lock from {options.source.name}; install with --no-deps.\n"
    options.target.write_text(header + "\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
