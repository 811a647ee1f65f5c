"""The report of the main job: what was measured, whether it holds, as JSON and on a terminal."""

import json
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from scripts.attune.words import coloured
from ui.records import Losses, Personalization, Refresh, Reply

LEAST_GAIN = 0.10
"""How far below the base model's the candidate's loss on personal tokens must be."""
MOST_DIFFERENCE = 1e-3
"""Between a chat's logprobs and those of the same tokens scored afresh, in float32 (nats)."""


@dataclass(frozen=True, slots=True)
class MainJob:
    """Everything that the main job saw.

    Attributes:
        user: The demo user.
        query: What was asked before and after.
        model: The served model's name.
        install_s: Seconds that the installation took.
        engine_start_s: Seconds from the engine's start to its readiness.
        refresh: The finished refresh.
        before: The reply without adapter; contrast persona.
        after: The reply of the new version; contrast persona.
        after_adapter: The same reply's PIR under contrast adapter.
        rescored: The same reply scored afresh under contrast persona.
        exact: Whether the engine computes in float32, so that scores must agree.
    """

    user: str
    query: str
    model: str
    install_s: float
    engine_start_s: float
    refresh: Refresh
    before: Reply
    after: Reply
    after_adapter: Personalization
    rescored: Personalization
    exact: bool

    @property
    def difference(self) -> float:
        """Largest difference in PIR between the chat's tokens and the same scored afresh."""
        pairs = zip(self.after.personalization.pir or (), self.rescored.pir or (), strict=True)
        gaps = [abs(a.pir - b.pir) for a, b in pairs if a.pir is not None and b.pir is not None]
        return max(gaps, default=0.0)

    @property
    def personal_changes(self) -> list[str]:
        """Words that only the after reply has and that depend on persona or adapter."""
        personal = {
            word.start
            for scored in (self.after.personalization, self.after_adapter)
            for word in scored.words or ()
            if word.personal
        }
        words = self.after.personalization.words or ()
        # Both as the gateway splits them: punctuation is apart from its word.
        old = [word.text for word in self.before.personalization.words or ()]
        matcher = SequenceMatcher(None, old, [word.text for word in words], autojunk=False)
        return [
            word.text
            for tag, _, _, start, end in matcher.get_opcodes()
            if tag in ("replace", "insert")
            for word in words[start:end]
            if word.start in personal
        ]

    def failures(self) -> list[str]:
        """What does not hold, a sentence each; empty where everything does."""
        refresh = self.refresh
        found = []
        if refresh.status != "succeeded":
            return [f"the refresh failed: {refresh.error or 'no reason given'}"]
        if refresh.verdict != "publish":
            found.append(
                f"the gate rejected the new adapter: {refresh.reason or 'no reason given'}"
            )
        gain = personal_gain(refresh.personal_loss)
        if gain is None or gain < LEAST_GAIN:
            said = "not measured" if gain is None else f"{gain:.1%} below the base model's"
            found.append(f"the loss on held-out personal tokens is {said}, not {LEAST_GAIN:.0%}")
        if self.after.personalization.adapter != refresh.adapter:
            answered = self.after.personalization.adapter or "the base model"
            found.append(f"{answered} answered in place of the new version {refresh.adapter}")
        if not self.personal_changes:
            found.append("the reply did not change in a word with PIR above 1")
        if self.exact and self.difference > MOST_DIFFERENCE:
            found.append(
                f"scored afresh, the reply's PIR differs by up to {self.difference:.1e} nats"
            )
        return found

    def as_json(self) -> dict[str, Any]:
        """The report as written to a file."""
        refresh, after = self.refresh, self.after
        failures = self.failures()
        return {
            "install_s": round(self.install_s, 1),
            "engine_start_s": round(self.engine_start_s, 1),
            "refresh": {
                "seconds": refresh.seconds,
                "verdict": refresh.verdict,
                "held_out_loss": _losses(refresh.held_out_loss),
                "personal_loss": _losses(refresh.personal_loss),
                "reason": refresh.reason,
            },
            "before": {"reply": self.before.text, "pir": _tokens(self.before.personalization)},
            "after": {
                "reply": after.text,
                "adapter": after.personalization.adapter,
                "pir": _tokens(after.personalization),
                "pir_adapter": _tokens(self.after_adapter),
                "personal_changes": self.personal_changes,
            },
            "user": self.user,
            "query": self.query,
            "model": self.model,
            "rescored_difference": self.difference,
            "ok": not failures,
            "failures": failures,
        }


def personal_gain(losses: Losses | None) -> float | None:
    """By which share the candidate's loss is below the base model's; None where not measured."""
    if losses is None or losses.candidate is None or not losses.base:
        return None
    return 1.0 - losses.candidate / losses.base


def write_report(file: Path, content: dict[str, Any]) -> None:
    """Write a report as JSON."""
    file.write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def show_report(console: Console, job: MainJob) -> None:
    """Print the table and the coloured replies."""
    console.print(Group(Text(), _table(job), Text()))
    console.print(Text(f"{job.user}: {job.query}", style="bold"))
    for title, reply, scored in (
        ("without adapter, PIR of the persona", job.before, job.before.personalization),
        (f"{job.refresh.adapter}, PIR of the persona", job.after, job.after.personalization),
        (f"{job.refresh.adapter}, PIR of the adapter", job.after, job.after_adapter),
    ):
        console.print(Text(f"\n{title}", style="dim"))
        console.print(coloured(reply.text, scored))


def _table(job: MainJob) -> RenderableType:
    table = Table(box=None, header_style="dim")
    for title in ("loss, nats per token", "base", "incumbent", "candidate"):
        table.add_column(title, justify="left" if title.startswith("loss") else "right")
    for name, losses in (
        ("held-out texts", job.refresh.held_out_loss),
        ("their personal tokens", job.refresh.personal_loss),
    ):
        values = losses or Losses()
        row = (values.base, values.incumbent, values.candidate)
        table.add_row(name, *("–" if value is None else f"{value:.3f}" for value in row))  # noqa: RUF001
    return Group(
        Text(
            f"refresh of {job.user}: {job.refresh.verdict or job.refresh.status}, "
            f"{job.refresh.seconds or 0.0:.0f} s"
        ),
        table,
    )


def _losses(losses: Losses | None) -> dict[str, float | None]:
    values = losses or Losses()
    return {name: getattr(values, name) for name in ("base", "incumbent", "candidate")}


def _tokens(scored: Personalization) -> list[dict[str, Any]]:
    return [token.model_dump(mode="json") for token in scored.pir or ()]
