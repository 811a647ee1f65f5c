"""The demo personas: loaded through the gateway, like any users, at the first start."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from scripts.attune.up.errors import UpError
from scripts.attune.up.process import ROOT
from ui.gateway import Gateway

DEMO = ROOT / "demo"


@dataclass(frozen=True, slots=True)
class Persona:
    """One demo user: profile facts, and a history as JSONL."""

    name: str
    tagline: str
    facts: tuple[str, ...]
    history: bytes


def read_personas(folder: Path = DEMO) -> list[Persona]:
    """All personas of a folder, each in a folder of its own."""
    found = []
    for profile in sorted(folder.glob("*/profile.json")):
        data = json.loads(profile.read_text())
        history = (profile.parent / "history.jsonl").read_bytes()
        found.append(Persona(data["name"], data["tagline"], tuple(data["facts"]), history))
    return found


def load_personas(
    gateway: Gateway, personas: list[Persona], on_loaded: Callable[[Persona], None]
) -> None:
    """Add the personas, each with facts and history; what is there already is not added twice.

    Raises:
        UpError: A line of a history was refused.
    """
    known = {user.name for user in gateway.users()}
    for persona in personas:
        if persona.name not in known:
            gateway.add_user(persona.name)
        _load(gateway, persona)
        on_loaded(persona)


def _load(gateway: Gateway, persona: Persona) -> None:
    there = {fact.text for fact in gateway.facts(persona.name)}
    for fact in persona.facts:
        if fact not in there:
            gateway.add_fact(persona.name, fact)
    answer = gateway.import_history(persona.name, persona.history)
    if answer.errors:
        bad = answer.errors[0]
        raise UpError(
            f"The demo history of {persona.name} is damaged at line {bad.line} ({bad.reason}): "
            "restore the folder demo/ from the project."
        )
