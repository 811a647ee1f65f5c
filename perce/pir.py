"""The Personal Influence Ratio (PIR) of each token of a reply.

PerContrast, eq. 2, in natural logarithms:
`PIR(y_i) = log P(y_i | p_u, x, y_<i) - log P(y_i | x, y_<i)`.
A token with PIR > 1 depends on the user. The same difference under other contrasts (the
adapter on or off, or both at once) is computed by the same function from other logprobs.
Where the logprobs come from is not covered here: `perce.logprobs` for a local model, the
server's engine client for vLLM.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from perce.errors import AttuneError

PERSONAL_THRESHOLD = 1.0
"""A token whose PIR (in nats) is above this is personal."""

Contrast = Literal["persona", "adapter", "both"]
"""What differs between the two passes.

`persona` is the paper's: same weights, persona in or out of the prompt. `adapter`: same
prompt, adapter or base weights. `both`: persona and adapter against neither.
"""


class UnequalPasses(AttuneError):
    """The two passes of a PIR score do not cover the same tokens; score the same ids twice."""


@dataclass(frozen=True, slots=True)
class TokenPIR:
    """One token of a reply and how much the user's context made it likelier.

    Attributes:
        token_id: The token's id in the model's vocabulary.
        text: The reply's characters from start to end.
        start: First character of the token in the reply.
        end: One past the last character; a token that ends inside a character has all of it.
        logprob: log P with the user's context, in nats.
        logprob_without: log P without it, in nats.
        pir: logprob - logprob_without.
        personal: Whether pir is above `PERSONAL_THRESHOLD`.
    """

    token_id: int
    text: str
    start: int
    end: int
    logprob: float
    logprob_without: float
    pir: float
    personal: bool


def token_pirs(
    token_ids: Sequence[int],
    spans: Sequence[tuple[int, int]],
    reply: str,
    logprobs: Sequence[float],
    logprobs_without: Sequence[float],
) -> list[TokenPIR]:
    """Contrast two passes over the same reply tokens (PerContrast, eq. 2).

    Args:
        token_ids: The reply's n token ids.
        spans: n character spans in `reply`, from `perce.tokens.ChatTokenizer.spans`.
        reply: The reply's text.
        logprobs: n natural-log probabilities with the user's context.
        logprobs_without: n natural-log probabilities of the same tokens without it.

    Raises:
        UnequalPasses: The four sequences differ in length.
    """
    lengths = (len(token_ids), len(spans), len(logprobs), len(logprobs_without))
    if len(set(lengths)) > 1:
        raise UnequalPasses(
            "PIR needs the same tokens in both passes, but there are "
            "{} ids, {} spans, {} logprobs with and {} without the user's context. "
            "Score the same token ids twice.".format(*lengths)
        )
    return [
        TokenPIR(
            token_id=token_id,
            text=reply[start:end],
            start=start,
            end=end,
            logprob=logprob,
            logprob_without=without,
            pir=logprob - without,
            personal=logprob - without > PERSONAL_THRESHOLD,
        )
        for token_id, (start, end), logprob, without in zip(
            token_ids, spans, logprobs, logprobs_without, strict=True
        )
    ]
