"""PIR of many replies at once, in any of the three contrasts, over any scorer.

Which prompts are scored against which is decided here, once, for scorers in this process and
for engines that are awaited. A prompt that is too long is cut by the rule of `perce.cutting`.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from perce.cutting import Cut, fitting_prompt
from perce.errors import AttuneError
from perce.pir import Contrast, TokenPIR, token_pirs
from perce.prompt import ContextItem, Message
from perce.scorer import AsyncScorer, Scorer
from perce.template_inputs import MESSAGES_ALONE, TemplateInputs
from perce.tokens import ChatTokenizer


class AlteredReply(AttuneError):
    """The tokenizer alters a reply's text; bring it to Unicode's form NFC first."""


@dataclass(frozen=True, slots=True)
class Case:
    """A reply to be scored, and what it answers.

    Attributes:
        messages: The conversation, oldest first.
        context: The persona context; facts and texts, each kind oldest first.
        reply: What was answered: its text, or its token ids as they were generated.
        logprobs: log P of the reply's tokens with persona and adapter, in nats, where the
            generation gave them; the prompt is then taken as it was, without a cut.
        inputs: What the template is given besides the conversation.
    """

    messages: Sequence[Message]
    context: Sequence[ContextItem]
    reply: str | Sequence[int]
    logprobs: Sequence[float] | None = None
    inputs: TemplateInputs = MESSAGES_ALONE


@dataclass(frozen=True, slots=True)
class Contrasted:
    """A reply's tokens with their PIR, and what was cut from its prompt.

    Attributes:
        reply: Its text.
        tokens: A `TokenPIR` each.
        cut: What the prompt went without; nothing where it fitted.
    """

    reply: str
    tokens: list[TokenPIR]
    cut: Cut


def contrast_replies(
    scorer: Scorer,
    tokenizer: ChatTokenizer,
    cases: Sequence[Case],
    contrast: Contrast = "persona",
    max_length: int | None = None,
) -> list[Contrasted]:
    """Score each reply's tokens with and without what the contrast takes away.

    Args:
        scorer: Computes the log-probabilities.
        tokenizer: The scored model's tokenizer.
        cases: K replies with what they answer.
        contrast: `persona` takes the persona, `adapter` the adapter, `both` both of them.
        max_length: Most tokens of prompt and reply together; None cuts nothing.

    Returns:
        K results, in order.

    Raises:
        AlteredReply: A reply's tokens decode to another text, in which they would be placed.
        perce.cutting.PromptTooLong: A conversation does not fit even without persona.
    """
    passes = _Passes.of(tokenizer, cases, contrast, max_length)
    own = scorer.logprobs(*passes.unscored, adapter=True)
    other = scorer.logprobs(passes.other, passes.replies, adapter=contrast == "persona")
    return passes.contrasted(tokenizer, own, other)


async def contrast_replies_async(
    scorer: AsyncScorer,
    tokenizer: ChatTokenizer,
    cases: Sequence[Case],
    contrast: Contrast = "persona",
    max_length: int | None = None,
) -> list[Contrasted]:
    """As `contrast_replies`, over a scorer whose answers are awaited.

    Rendering, which long prompts make slow, is done in threads: the event loop goes on.
    """
    passes = await asyncio.to_thread(_Passes.of, tokenizer, cases, contrast, max_length)
    own = await scorer.logprobs(*passes.unscored, adapter=True)
    other = await scorer.logprobs(passes.other, passes.replies, adapter=contrast == "persona")
    return await asyncio.to_thread(passes.contrasted, tokenizer, own, other)


@dataclass(frozen=True, slots=True)
class _Passes:
    """The prompts of both sides, and the replies, as token ids; one of each a case."""

    cases: Sequence[Case]
    replies: list[list[int]]
    own: list[list[int]]
    other: list[list[int]]
    cuts: list[Cut]

    @classmethod
    def of(
        cls,
        tokenizer: ChatTokenizer,
        cases: Sequence[Case],
        contrast: Contrast,
        max_length: int | None,
    ) -> Self:
        replies = [_reply_ids(tokenizer, case.reply) for case in cases]
        own, cuts = [], []
        for case, reply in zip(cases, replies, strict=True):
            room = None
            if max_length is not None and case.logprobs is None:
                room = max_length - len(reply)
            prompt, cut = fitting_prompt(tokenizer, case.messages, case.context, room, case.inputs)
            own.append(prompt)
            cuts.append(cut)
        other = own
        if contrast != "adapter":
            other = [
                tokenizer.prompt_ids(
                    tokenizer.prompts(case.messages, ()).without_persona, case.inputs
                )
                for case in cases
            ]
        return cls(cases, replies, own, other, cuts)

    @property
    def unscored(self) -> tuple[list[list[int]], list[list[int]]]:
        """Prompts and replies of the cases that come without logprobs."""
        rows = [row for row, case in enumerate(self.cases) if case.logprobs is None]
        return [self.own[row] for row in rows], [self.replies[row] for row in rows]

    def contrasted(
        self, tokenizer: ChatTokenizer, own: Sequence[Sequence[float]], other: list[list[float]]
    ) -> list[Contrasted]:
        scored = iter(own)
        results = []
        for case, ids, without, cut in zip(self.cases, self.replies, other, self.cuts, strict=True):
            reply = case.reply if isinstance(case.reply, str) else tokenizer.decode(ids)
            likely = next(scored) if case.logprobs is None else case.logprobs
            tokens = token_pirs(ids, tokenizer.spans(ids), reply, likely, without)
            results.append(Contrasted(reply, tokens, cut))
        return results


def _reply_ids(tokenizer: ChatTokenizer, reply: str | Sequence[int]) -> list[int]:
    if not isinstance(reply, str):
        return list(reply)
    ids = tokenizer.reply_ids(reply)
    if tokenizer.decode(ids) != reply:
        raise AlteredReply(
            f"The model's tokenizer changes the text of the reply {reply!r}. Bring it to "
            "Unicode's form NFC before it is scored."
        )
    return ids
