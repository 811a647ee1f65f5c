"""How well replies suit users who show themselves turn by turn: ALOE's dialogues and a judge.

Every reply answers the conversation as the file has it, not as the model would have had it:
the user's next message answers the file's reply. `base` sees only the conversation, `rag`
the user's profile and personality too. No adapter is compared: a user of ALOE has one
dialogue, and so no earlier one to learn from.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Literal

from perce.datasets.aloe import SCORES, Dialogue, NoScore, Turn, judge_messages, judged_score
from perce.errors import AttuneError
from perce.generation import generate_replies
from perce.prompt import fact_items
from scripts.attune.bench.base import Base
from scripts.attune.bench.judge import Ask, Judge

Method = Literal["base", "rag"]
# A judge is asked thousands of times, so what it refuses for a while is waited out: 16 s.
_RETRIES = 5


class DialogueTooLong(AttuneError):
    """A message and the persona alone leave no room for a reply; the message says which."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How dialogues are judged.

    Attributes:
        new_tokens: Most tokens of a reply.
        at_once: Most questions that wait for the judge at a time.
    """

    new_tokens: int
    at_once: int


@dataclass(frozen=True, slots=True)
class Judged:
    """What became of one reply.

    Attributes:
        score: None where the judge's answer was none.
        empty: Whether there was nothing to judge; it has the lowest score unasked.
    """

    score: int | None
    empty: bool = False


@dataclass(frozen=True, slots=True)
class Judgements:
    """What became of all replies.

    Attributes:
        base: For each dialogue its replies without the persona, turn by turn.
        rag: The same with it.
        shortened: Turns whose conversation was too long, so that its oldest turns were left
            out, under both methods alike.
    """

    base: tuple[tuple[Judged, ...], ...]
    rag: tuple[tuple[Judged, ...], ...]
    shortened: int

    @property
    def by_method(self) -> dict[Method, tuple[tuple[Judged, ...], ...]]:
        """The two methods' replies."""
        return {"base": self.base, "rag": self.rag}


def judge_dialogues(
    dialogues: Sequence[Dialogue],
    base: Base,
    judge: Judge,
    settings: Settings,
    report: Callable[[str], None],
) -> Judgements:
    """Answer every turn of the dialogues under each method, and have the replies judged.

    Args:
        dialogues: The dialogues.
        base: The model that answers.
        judge: The judge; it is asked after each dialogue, so that its faults show early.
        settings: How.
        report: Told what is being done.

    Raises:
        DialogueTooLong: A message does not fit the model.
        scripts.attune.bench.judge.NoVerdict: The judge did not answer.
    """
    without: list[tuple[Judged, ...]] = []
    with_persona: list[tuple[Judged, ...]] = []
    shortened = 0
    with judge.connected(_RETRIES) as ask, ThreadPoolExecutor(settings.at_once) as pool:
        for number, dialogue in enumerate(dialogues, 1):
            report(f"Dialogue {number} of {len(dialogues)}")
            prompts = _prompts(dialogue, number, base, settings.new_tokens)
            shortened += sum(prompt.shortened for prompt in prompts)
            judged = partial(_judged, ask, dialogue)
            for said, ids in (
                (without, [prompt.base for prompt in prompts]),
                (with_persona, [prompt.rag for prompt in prompts]),
            ):
                replies = _replies(base, ids, settings.new_tokens)
                said.append(tuple(pool.map(judged, dialogue.turns, replies)))
    return Judgements(tuple(without), tuple(with_persona), shortened)


@dataclass(frozen=True, slots=True)
class _Prompts:
    """One turn's prompts, as token ids."""

    base: list[int]
    rag: list[int]
    shortened: bool


def _prompts(dialogue: Dialogue, number: int, base: Base, new_tokens: int) -> list[_Prompts]:
    room = base.model.config.get_text_config().max_position_embeddings - new_tokens
    return [
        _fitting(dialogue, turn, base, room, f"Dialogue {number}, turn {turn + 1}")
        for turn in range(len(dialogue.turns))
    ]


def _fitting(dialogue: Dialogue, turn: int, base: Base, room: int, place: str) -> _Prompts:
    persona = fact_items((dialogue.profile, dialogue.personality))
    messages = dialogue.messages(turn)
    for left_out in range(turn + 1):
        pair = base.tokenizer.prompts(messages[2 * left_out :], persona)
        without = base.tokenizer.prompt_ids(pair.without_persona)
        own = base.tokenizer.prompt_ids(pair.with_persona)
        if max(len(without), len(own)) <= room:
            return _Prompts(without, own, left_out > 0)
    raise DialogueTooLong(
        f"{place}: its message and the persona do not fit into {room} tokens. "
        "Lower --new-tokens, or take the dialogue out."
    )


def _replies(base: Base, prompts: Sequence[Sequence[int]], new_tokens: int) -> list[str]:
    replies = generate_replies(base.model, prompts, base.tokenizer.end_id, new_tokens)
    return [base.tokenizer.decode(reply.ids).strip() for reply in replies]


def _judged(ask: Ask, dialogue: Dialogue, turn: Turn, reply: str) -> Judged:
    if not reply:
        return Judged(min(SCORES), empty=True)
    question = judge_messages(dialogue.profile, dialogue.personality, turn.message, reply)
    try:
        return Judged(judged_score(ask(question)))
    except NoScore:
        return Judged(None)
