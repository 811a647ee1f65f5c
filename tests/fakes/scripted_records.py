"""What the scripted gateway holds and says: two users, one reply, and the records it makes."""

from typing import Any

KEY = "attune-" + "a" * 40
MODEL = "scripted-model"
MADE = "2026-11-20T09:30:00+00:00"
STAGES = ("dataset", "train", "gate", "publish", "warm", "activate")
LOSSES = {"base": 3.412, "incumbent": None, "candidate": 2.871}
PERSONAL = {"base": 4.905, "incumbent": None, "candidate": 3.02}

PEOPLE: dict[str, dict[str, list[str]]] = {
    "maeve": {
        "facts": [
            "I live in Galway and walk to work.",
            "I drink tea, never coffee.",
            "<b>I like & dislike HTML</b>",
        ],
        "texts": [
            "Grand little café, so it is. The scones would cure a bad Monday.",
            "Not a bother getting there, but the tea was stewed to tar!",
        ],
    },
    "otto": {"facts": ["I repair clocks."], "texts": ["Precise. Quiet. Recommended."]},
}

REPLY: list[tuple[str, float]] = [
    ("Ah", 2.4), (" sure,", 1.6), (" start", 0.1), (" with", 0.0), (" a", -0.1), (" pot", 0.7),
    (" of", 0.0), (" tea", 5.6), (" <b>&", 0.2), (" a", 0.0), (" scone,", 3.3), (" so", 1.2),
    (" it", 0.4), (" is.", 0.9), ("\nThe", -0.2), (" café", -1.4), (" opens", 0.0),
    (" early.", 0.1),
]  # fmt: skip
"""Tokens and PIR under contrast `persona`; under the others every PIR is halved."""


def scores(contrast: str) -> dict[str, Any]:
    """Tokens and words of the reply under a contrast."""
    tokens: list[dict[str, Any]] = []
    words: list[dict[str, Any]] = []
    at = 0
    for number, (text, persona_pir) in enumerate(REPLY):
        pir = persona_pir if contrast == "persona" else persona_pir / 2
        scored = {"start": at, "end": at + len(text), "pir": pir, "personal": pir > 1}
        logprobs = {"logprob": -0.2, "logprob_without": -0.2 - pir}
        tokens.append({"token_id": 100 + number, "text": text, **logprobs, **scored})
        bare = text.strip()
        words.append(scored | {"text": bare, "start": at + len(text) - len(bare)})
        at += len(text)
    return {"pir": tokens, "words": words}


def new_version(user: str, number: int, state: str, parent: str | None) -> dict[str, Any]:
    """An adapter version, published."""
    return {
        "version": f"v{number}",
        "name": f"{user}@v{number}",
        "state": state,
        "parent": parent,
        "method": "perce",
        "created_at": MADE,
        "reason": "Better than the base on held-out texts.",
        "metrics": {"held_out_loss": LOSSES, "personal_loss": PERSONAL},
    }


def new_refresh(user: str, number: str, method: str) -> dict[str, Any]:
    """A refresh that waits for its worker."""
    empty = ["stage", "progress", "verdict", "reason", "adapter", "held_out_loss"]
    empty += ["personal_loss", "seconds", "error", "finished_at"]
    head = {"object": "refresh", "id": number, "user": user, "method": method, "status": "queued"}
    return head | {"created_at": MADE} | dict.fromkeys(empty)


def new_plan(due: int) -> dict[str, Any]:
    """A plan in which everybody who is due has a place."""
    return {
        "object": "plan",
        "created_at": "2026-11-21T03:00:00+00:00",
        "window_until": None,
        "due": due,
        "planned": due,
        "carried_over": 0,
        "fleets": due,
        "expected_s": 60.0 * due,
        "measured_on": 0,
        "states": {"queued": due},
    }


def new_finding(problem: str, path: str) -> dict[str, Any]:
    """Something that is wrong with the adapters on disk."""
    words = {"detail": "It is wrong.", "advice": "Do this."}
    where = {"user": "maeve", "version": "", "path": path}
    return {"problem": problem, **where, **words, "removable": problem == "stray"}
