"""PIR of a reply through the engine: which of its tokens depend on the user.

Inside a chat the generation's own logprobs are one side, and one short prefill is the
other. For any other text both sides are scored. Token ids are scored, never text that
was tokenized again. What is scored against what is `perce.contrasting`.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from fastapi.concurrency import run_in_threadpool

from perce.contrasting import Case, contrast_replies_async
from perce.cutting import Cut
from perce.pir import Contrast, TokenPIR
from perce.template_inputs import MESSAGES_ALONE, TemplateInputs
from perce.tokens import ChatTokenizer
from perce.words import WordPIR, word_pirs
from server.scorer import EngineScorer
from server.servings import Serving


@dataclass(frozen=True, slots=True)
class Explanation:
    """A reply's tokens and words with their PIR, and what its prompt went without."""

    contrast: Contrast
    tokens: list[TokenPIR]
    words: list[WordPIR]
    cut: Cut

    def to_json(self) -> dict[str, Any]:
        """Return the explanation as the API shows it."""
        return {
            "contrast": self.contrast,
            "pir": [asdict(token) for token in self.tokens],
            "words": [asdict(word) for word in self.words],
        }


class Explainer:
    """Computes PIR under the three contrasts."""

    def __init__(self, tokenizer: ChatTokenizer) -> None:
        self._tokenizer = tokenizer

    async def explain(
        self,
        serving: Serving,
        reply_ids: Sequence[int],
        contrast: Contrast,
        logprobs: Sequence[float] | None = None,
        inputs: TemplateInputs = MESSAGES_ALONE,
    ) -> Explanation:
        """Score a reply (PerContrast, eq. 2).

        A prompt that leaves no room for the reply is cut, oldest persona context first.

        Args:
            serving: The prompts and weights that the reply came from.
            reply_ids: The reply's token ids, without the one that ends it.
            contrast: What the other side lacks: the persona in the prompt, the adapter's
                weights, or both.
            logprobs: The generation's own log P of `reply_ids`; scored when None.
            inputs: What the template is given besides the conversation.

        Raises:
            EngineAsleepError, EngineUnavailableError, EngineRefusedError: The engine could not
                score.
            perce.cutting.PromptTooLong: The conversation does not fit even without persona.
        """
        case = Case(
            serving.prompts.without_persona,
            [candidate.item for candidate in serving.context],
            reply_ids,
            logprobs,
            inputs,
        )
        [scored] = await contrast_replies_async(
            EngineScorer(serving),
            self._tokenizer,
            [case],
            contrast,
            serving.base.max_length - 1,  # the engine generates a token behind what it scores
        )
        words = await run_in_threadpool(word_pirs, scored.reply, scored.tokens)
        return Explanation(contrast, scored.tokens, words, scored.cut)
