"""PIR of many replies at once, in any of the three contrasts, over any scorer."""

from collections.abc import Sequence
from dataclasses import dataclass

from perce.errors import AttuneError
from perce.pir import Contrast, TokenPIR, token_pirs
from perce.prompt import PromptPair
from perce.scorer import Scorer
from perce.tokens import ChatTokenizer


class AlteredReply(AttuneError):
    """The tokenizer alters a reply's text; bring it to Unicode's form NFC first."""


@dataclass(frozen=True, slots=True)
class Case:
    """A reply to be scored, with its prompts.

    Attributes:
        prompts: The same messages with and without the persona.
        reply: What was answered.
    """

    prompts: PromptPair
    reply: str


def contrast_replies(
    scorer: Scorer, tokenizer: ChatTokenizer, cases: Sequence[Case], contrast: Contrast = "persona"
) -> list[list[TokenPIR]]:
    """Score each reply's tokens with and without what the contrast takes away.

    Args:
        scorer: Computes the log-probabilities.
        tokenizer: The scored model's tokenizer.
        cases: K replies with their prompts.
        contrast: `persona` takes the persona, `adapter` the adapter, `both` both of them.

    Returns:
        K lists, a `TokenPIR` a token of the reply.

    Raises:
        AlteredReply: A reply's tokens decode to another text, in which they would be placed.
    """
    replies = [_reply_ids(tokenizer, case.reply) for case in cases]
    with_persona = [tokenizer.prompt_ids(case.prompts.with_persona) for case in cases]
    without = with_persona
    if contrast != "adapter":
        without = [tokenizer.prompt_ids(case.prompts.without_persona) for case in cases]
    likely = scorer.logprobs(with_persona, replies, adapter=True)
    otherwise = scorer.logprobs(without, replies, adapter=contrast == "persona")
    return [
        token_pirs(ids, tokenizer.spans(ids), case.reply, own, other)
        for case, ids, own, other in zip(cases, replies, likely, otherwise, strict=True)
    ]


def _reply_ids(tokenizer: ChatTokenizer, reply: str) -> list[int]:
    ids = tokenizer.reply_ids(reply)
    if tokenizer.decode(ids) != reply:
        raise AlteredReply(
            f"The model's tokenizer changes the text of the reply {reply!r}. Bring it to "
            "Unicode's form NFC before it is scored."
        )
    return ids
