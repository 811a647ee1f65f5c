"""Why `attune up` cannot start or go on: one sentence each, with what to do."""

from collections.abc import Sequence
from pathlib import Path

from perce.errors import AttuneError


class UpError(AttuneError):
    """`attune up` cannot go on."""


class PortTakenError(UpError):
    """Something else listens on a port that a service needs."""

    def __init__(self, port: int, service: str, option: str, holder: str | None) -> None:
        by = f" by {holder}" if holder else ""
        super().__init__(
            f"Port {port}, where the {service} belongs, is in use{by}: stop that program or "
            f"choose another port with {option}."
        )


class LittleDiskError(UpError):
    """The disk is nearly full."""

    def __init__(self, folder: Path, free_gb: float, needed_gb: float) -> None:
        super().__init__(
            f"{folder} has {free_gb:.1f} GB of free disk and Attune needs {needed_gb:.0f}: "
            "make room, or name a folder on another disk with --home."
        )


class BadModelError(UpError):
    """What was named as the model is none that can be served."""

    def __init__(self, model: str, reason: str) -> None:
        super().__init__(
            f"{model} can't be served: {reason}. Name a Hugging Face model or a folder with "
            "config.json, tokenizer.json and *.safetensors with --model."
        )


class AlreadyRunningError(UpError):
    """Another `attune up` runs on the same folder."""

    def __init__(self, home: Path, holder: str) -> None:
        super().__init__(
            f"Attune already runs on {home} ({holder}): stop it with Ctrl-C where it runs, or "
            "start a second one with other ports and its own --home."
        )


class BadOptionError(UpError):
    """An option's value cannot be used."""


class ServiceDiedError(UpError):
    """A service ended where it should go on."""

    def __init__(self, service: str, how: str, log: Path, last_lines: Sequence[str]) -> None:
        tail = "".join(f"\n  {line}" for line in last_lines)
        super().__init__(f"The {service} {how}; its last lines (all of them in {log}):{tail}")


class MainJobError(UpError):
    """The main job of `--once` did not do what it must."""


class MainJobInterruptedError(MainJobError):
    """The main job was told to end before it was done."""

    def __init__(self) -> None:
        super().__init__("Interrupted before the main job was done.")


class NotRestoredError(MainJobError):
    """The main job took a user's version away, and could not make it active again."""

    def __init__(
        self, user: str, version: str, ended: BaseException | None, reason: object
    ) -> None:
        because = f"{ended} ".lstrip() if ended else ""
        super().__init__(
            f"{because}{user} had the version {version} before the main job, which could not be "
            f"made active again ({reason}). Once Attune runs, "
            f"`attune adapters rollback {user} --to {version}` does that."
        )
