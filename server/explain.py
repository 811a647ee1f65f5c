"""PIR of a reply through the engine: which of its tokens depend on the user.

Inside a chat the generation's own logprobs are one side, and one short prefill is the
other. For any other text both sides are scored. Token ids are scored, never text that
was tokenized again.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from perce.pir import Contrast, TokenPIR, token_pirs
from perce.tokens import ChatTokenizer
from perce.words import WordPIR, word_pirs
from server.personas import Persona


@dataclass(frozen=True, slots=True)
class Explanation:
    """A reply's tokens and words with their PIR."""

    contrast: Contrast
    tokens: list[TokenPIR]
    words: list[WordPIR]

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
        persona: Persona,
        reply_ids: Sequence[int],
        contrast: Contrast,
        logprobs: Sequence[float] | None = None,
        tools: list[dict[str, Any]] | None = None,
    ) -> Explanation:
        """Score a reply (PerContrast, eq. 2).

        Args:
            persona: The prompts and weights that the reply came from.
            reply_ids: The reply's token ids, without the one that ends it.
            contrast: What the other side lacks: the persona in the prompt, the adapter's
                weights, or both.
            logprobs: The generation's own log P of `reply_ids`; scored when None.
            tools: The tools that the prompt names.

        Raises:
            EngineUnavailableError, EngineRefusedError: The engine could not score.
        """
        prompt = self._tokenizer.prompt_ids(persona.prompts.with_persona, tools)
        if logprobs is None:
            logprobs = await persona.reply_logprobs(persona.model, prompt, reply_ids)
        other_prompt = prompt
        if contrast != "adapter":
            other_prompt = self._tokenizer.prompt_ids(persona.prompts.without_persona, tools)
        other_model = persona.model if contrast == "persona" else persona.base.name
        without = await persona.reply_logprobs(other_model, other_prompt, reply_ids)
        reply = self._tokenizer.decode(reply_ids)
        tokens = token_pirs(reply_ids, self._tokenizer.spans(reply_ids), reply, logprobs, without)
        return Explanation(contrast, tokens, word_pirs(reply, tokens))
