"""Synthetic voices: how one person writes, composed of independent habits."""

import random
import re
import string
from dataclasses import dataclass
from typing import Literal, Self

from scripts.persona.english import lower_first, sentence
from scripts.persona.tables import Split, VoiceTable, divide

_CONTRACTIONS = {
    "I am": "I'm", "do not": "don't", "did not": "didn't", "can not": "can't",
    "it is": "it's", "It is": "It's", "I have": "I've", "is not": "isn't",
    "will not": "won't", "was not": "wasn't", "That is": "That's", "I will": "I'll",
    "would not": "wouldn't", "could not": "couldn't", "I would": "I'd",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Voice:
    """One person's habits of writing."""

    case: Literal["normal", "lower", "shout"] = "normal"
    end: str = "."
    opener: str = ""
    closer: str = ""
    hedges: tuple[str, ...] = ()
    good: tuple[str, ...] = ("good",)
    bad: tuple[str, ...] = ("bad",)
    intensifier: tuple[str, ...] = ("very",)
    emoji: tuple[str, ...] = ()
    emoji_often: bool = False
    priority: str = ""
    rating: str = ""
    spelling: tuple[tuple[str, str], ...] = ()
    contracts: bool = False
    length: int = 3
    joiner: str = " "
    cheer: float = 0.5

    @classmethod
    def draw(cls, rng: random.Random, table: VoiceTable, split: Split) -> Self:
        """Compose a voice; every habit is drawn by itself."""

        def pick(name: str, count: int = 1) -> tuple[str, ...]:
            return tuple(rng.sample(list(divide(table.words[name], split)), count))

        def maybe(name: str, chance: float) -> str:
            return pick(name)[0] if rng.random() < chance else ""

        def phrase(name: str) -> str:
            if rng.random() < 0.55 or split == "held_out":
                return maybe(name, 0.45)
            if rng.random() < 0.55:
                return ""
            if name == "closer" and rng.random() < 0.5:
                return signature(rng)
            first, second = pick(f"{name}_start")[0], pick(f"{name}_end")[0]
            return f"{first} {second}{',' if name == 'opener' else '.'}"

        rules = [r for _ in range(rng.choice((0, 0, 1, 1, 2))) for r in rng.choice(table.spelling)]
        return cls(
            case=rng.choices(("normal", "lower", "shout"), (60, 33, 7))[0],
            end=rng.choices((".", "!", "...", "", "!!", " -"), (55, 18, 10, 8, 5, 4))[0],
            opener=phrase("opener"),
            closer=phrase("closer"),
            hedges=pick("hedge", rng.choice((0, 0, 1, 2))),
            good=pick("good", rng.choice((1, 2))),
            bad=pick("bad", rng.choice((1, 2))),
            intensifier=pick("intensifier", rng.choice((1, 1, 2))),
            emoji=pick("emoji", rng.choice((0, 0, 0, 1, 1, 2))),
            emoji_often=rng.random() < 0.3,
            priority=maybe("priority", 0.4),
            rating=maybe("rating", 0.2),
            spelling=tuple(rules),
            contracts=rng.random() < 0.5,
            length=rng.choices((1, 2, 3, 4, 5, 7), (12, 22, 26, 20, 14, 6))[0],
            joiner=rng.choices((" ", "\n"), (92, 8))[0],
            cheer=rng.choice((0.1, 0.5, 0.5, 0.9)),
        )

    def fill(self, rng: random.Random, template: str, subject: str) -> str:
        """Put this voice's favourite words into a sentence about a subject."""
        return sentence(
            template.format(
                s=subject,
                g=rng.choice(self.good),
                b=rng.choice(self.bad),
                v=rng.choice(self.intensifier),
            )
        )

    def compose(self, rng: random.Random, sentences: list[str], happy: bool) -> str:
        """Write whole sentences as a text of this voice: opener, hedges, closer and all."""
        parts = [self._hedged(rng, s) for s in sentences]
        if self.opener and rng.random() < 0.9:
            glue = lower_first(parts[0]) if self.opener[-1] in ",:" else parts[0]
            parts[0] = f"{self.opener} {glue}"
        if self.rating:
            stars = rng.choice((4, 5) if happy else (1, 2))
            parts.append(self.rating.format(r=stars, R=2 * stars))
        if self.closer and rng.random() < 0.9:
            parts.append(self.closer)
        return self.spell(rng, parts)

    def spell(self, rng: random.Random, sentences: list[str]) -> str:
        """Apply the habits of the surface: spelling, case, punctuation, emoji."""
        parts = [self._surface(s) for s in sentences]
        if self.emoji:
            if self.emoji_often:
                parts = [f"{p} {rng.choice(self.emoji)}" for p in parts]
            else:
                parts[-1] = f"{parts[-1]} {rng.choice(self.emoji)}"
        return self.joiner.join(parts)

    def _hedged(self, rng: random.Random, text: str) -> str:
        if not self.hedges or rng.random() < 0.6:
            return text
        hedge = rng.choice(self.hedges)
        if rng.random() < 0.3 and text.endswith("."):
            return f"{text[:-1]}, {hedge}."
        return sentence(f"{hedge}, {lower_first(text)}")

    def _surface(self, text: str) -> str:
        if self.contracts:
            for full, short in _CONTRACTIONS.items():
                text = re.sub(rf"\b{full}\b", short, text)
        for old, new in self.spelling:
            text = re.sub(rf"\b{re.escape(old)}\b", new, text)
        if text.endswith(".") and self.end != ".":
            text = text[:-1] + self.end
        if self.case == "lower":
            return text.lower()
        if self.case == "shout":
            return re.sub(r"\b(" + "|".join(map(re.escape, self._loud())) + r")\b", _upper, text)
        return text

    def _loud(self) -> tuple[str, ...]:
        return (*self.good, *self.bad, *self.intensifier, "never", "every", "again")


def signature(rng: random.Random) -> str:
    """Sign with initials, as "W.T.", "- H" or "xx M."."""
    letters = [rng.choice(string.ascii_uppercase) for _ in range(rng.choice((1, 1, 2)))]
    form = rng.choice(("{}.", "- {}", "xx {}", "/{}", "({})", "Yours, {}.", "Love, {}"))
    return form.format(".".join(letters))


def _upper(match: re.Match[str]) -> str:
    return match.group().upper()
