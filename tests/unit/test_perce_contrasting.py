import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch
from noisy_adapter import noisy_adapter
from peft import PeftModel
from transformers import PreTrainedModel

from perce.contrasting import AlteredReply, Case, contrast_replies, contrast_replies_async
from perce.cutting import Cut, PromptTooLong, kept_items
from perce.local_scorer import LocalScorer
from perce.logprobs import reply_logprobs
from perce.model import load_model
from perce.pir import Contrast
from perce.prompt import ContextItem, PromptPair, prompt_pair
from perce.tokens import ChatTokenizer

PROMPTS = [[5, 9, 200, 31], [7], [11, 12], [8] * 30, [11, 12, 13, 14, 15], [6]]
REPLIES = [[40, 41, 42], [50, 60, 70, 80, 90, 2], [], [33], [44, 45], []]
CONTRASTS: tuple[Contrast, ...] = ("persona", "adapter", "both")


def case(question: str, reply: str, *facts: str) -> Case:
    context = [ContextItem("fact", fact) for fact in facts]
    return Case([{"role": "user", "content": question}], context, reply)


CASES = [
    case(
        "Where do you surf?", "Out at Malibu, caf\u00e9 \U0001f600!", "I love to surf.", "I am 30."
    ),
    case("Hi", "My sister's dog", "I have a dog."),
    case("And now?", "", "I have a dog."),
    case("What do you hate about the weather?", "thunder; honestly?!", "My dog hates thunder."),
]


def ids_of(tokenizer: ChatTokenizer, each: Case) -> list[int]:
    assert isinstance(each.reply, str)
    return tokenizer.reply_ids(each.reply)


def transformers_logprobs(
    model: PreTrainedModel | PeftModel, prompt: list[int], reply: list[int]
) -> list[float]:
    """From all logits of one example, without this project's scoring."""
    with torch.no_grad():
        logits_TV = model(input_ids=torch.tensor([[*prompt, *reply]])).logits[0].double()
    logprobs_TV = torch.log_softmax(logits_TV, -1)
    return [logprobs_TV[len(prompt) + i - 1, token].item() for i, token in enumerate(reply)]


@pytest.mark.parametrize("batch_tokens", [1, 12, 20, 4096])
def test_batches_of_any_size_score_as_one_by_one_in_the_same_order(
    tiny_model: PreTrainedModel, batch_tokens: int
) -> None:
    batched = LocalScorer(tiny_model, batch_tokens).logprobs(PROMPTS, REPLIES, adapter=True)
    assert [len(scores) for scores in batched] == [len(reply) for reply in REPLIES]
    for prompt, reply, scores in zip(PROMPTS, REPLIES, batched, strict=True):
        if reply:
            with torch.no_grad():
                [alone] = reply_logprobs(tiny_model, [prompt], [reply])
            assert scores == pytest.approx(alone.tolist(), abs=1e-5)


@pytest.mark.parametrize(
    ("batch_tokens", "shapes"),
    [(1, [(1, 31), (1, 7), (1, 7), (1, 7)]), (21, [(1, 31), (3, 7)]), (124, [(4, 31)])],
)
def test_batches_stay_within_their_tokens_unless_one_pair_is_longer(
    tiny_model: PreTrainedModel, batch_tokens: int, shapes: list[tuple[int, int]]
) -> None:
    seen: list[tuple[int, ...]] = []
    tiny_model.get_input_embeddings().register_forward_hook(
        lambda _, arguments, __: seen.append(tuple(arguments[0].shape))
    )
    LocalScorer(tiny_model, batch_tokens).logprobs(PROMPTS, REPLIES, adapter=True)
    assert seen == shapes


def test_nothing_to_score_needs_no_pass(tiny_model: PreTrainedModel) -> None:
    scorer = LocalScorer(tiny_model)
    assert scorer.logprobs([], [], adapter=True) == []
    assert scorer.logprobs([[1], [2]], [[], []], adapter=False) == [[], []]


def test_prompts_and_replies_must_pair_up(tiny_model: PreTrainedModel) -> None:
    with pytest.raises(ValueError, match="shorter"):
        LocalScorer(tiny_model).logprobs([[1], [2]], [[3]], adapter=True)


@pytest.mark.parametrize("contrast", CONTRASTS)
def test_contrasts_equal_those_from_all_logits_of_transformers(
    tiny_model_dir: Path, chat_tokenizer: ChatTokenizer, contrast: Contrast
) -> None:
    base = load_model(str(tiny_model_dir), "cpu")
    own = noisy_adapter(load_model(str(tiny_model_dir), "cpu"))
    scored = contrast_replies(LocalScorer(own, 64), chat_tokenizer, CASES, contrast)
    largest = 0.0
    for each, result in zip(CASES, scored, strict=True):
        tokens = result.tokens
        ids = ids_of(chat_tokenizer, each)
        full = chat_tokenizer.prompt_ids(prompt_pair(each.messages, each.context).with_persona)
        bare = chat_tokenizer.prompt_ids(prompt_pair(each.messages, each.context).without_persona)
        other = own if contrast == "persona" else base
        likely = transformers_logprobs(own, full, ids)
        otherwise = transformers_logprobs(other, full if contrast == "adapter" else bare, ids)
        assert [token.token_id for token in tokens] == ids
        assert [token.logprob for token in tokens] == pytest.approx(likely, abs=1e-4)
        assert [token.logprob_without for token in tokens] == pytest.approx(otherwise, abs=1e-4)
        assert [each.reply[token.start : token.end] for token in tokens] == [
            token.text for token in tokens
        ]
        largest = max([largest, *(abs(token.pir) for token in tokens)])
    assert largest > 0.5


def test_a_model_without_adapter_has_no_adapter_contrast(
    tiny_model: PreTrainedModel, chat_tokenizer: ChatTokenizer
) -> None:
    scorer = LocalScorer(tiny_model)
    scored = contrast_replies(scorer, chat_tokenizer, CASES, "adapter")
    assert {token.pir for result in scored for token in result.tokens} == {0.0}
    both = contrast_replies(scorer, chat_tokenizer, CASES, "both")
    assert both == contrast_replies(scorer, chat_tokenizer, CASES)


@dataclass
class ScriptedScorer:
    """Answers each pass with the next number for every token, and remembers what was asked."""

    script: list[float]
    passes: list[tuple[list[list[int]], list[list[int]], bool]] = field(default_factory=list)

    def logprobs(
        self, prompts: Sequence[Sequence[int]], replies: Sequence[Sequence[int]], adapter: bool
    ) -> list[list[float]]:
        self.passes.append(([list(p) for p in prompts], [list(r) for r in replies], adapter))
        return [[self.script[len(self.passes) - 1] - row] * len(r) for row, r in enumerate(replies)]


@pytest.mark.parametrize(
    ("contrast", "persona_stays", "adapter_stays"),
    [("persona", False, True), ("adapter", True, False), ("both", False, False)],
)
def test_a_contrast_takes_away_what_its_name_says(
    chat_tokenizer: ChatTokenizer, contrast: Contrast, persona_stays: bool, adapter_stays: bool
) -> None:
    scorer = ScriptedScorer([-0.5, -1.75])
    scored = contrast_replies(scorer, chat_tokenizer, CASES, contrast)
    (full, replies, on), (other, same, still_on) = scorer.passes
    assert (on, still_on) == (True, adapter_stays)
    assert replies == same == [ids_of(chat_tokenizer, each) for each in CASES]

    def rendered(pairs: list[PromptPair], persona: bool) -> list[list[int]]:
        sides = [pair.with_persona if persona else pair.without_persona for pair in pairs]
        return [chat_tokenizer.prompt_ids(side) for side in sides]

    pairs = [prompt_pair(each.messages, each.context) for each in CASES]
    assert full == rendered(pairs, persona=True)
    assert other == rendered(pairs, persona=persona_stays)
    for row, result in enumerate(scored):
        assert all(token.logprob == -0.5 - row for token in result.tokens)
        assert all(token.pir == 1.25 and token.personal for token in result.tokens)


def test_each_reply_gets_its_own_tokens_in_order(chat_tokenizer: ChatTokenizer) -> None:
    scored = contrast_replies(ScriptedScorer([0.0, 0.0]), chat_tokenizer, CASES)
    texts = ["".join(token.text for token in result.tokens) for result in scored]
    assert texts[1:] == [each.reply for each in CASES[1:]] == [one.reply for one in scored[1:]]
    assert scored[2].tokens == []
    assert any(token.text.startswith(" ") for token in scored[1].tokens)
    assert contrast_replies(ScriptedScorer([0.0, 0.0]), chat_tokenizer, []) == []


def test_a_reply_that_the_tokenizer_alters_is_refused(
    reference_tokenizer: ChatTokenizer,
) -> None:
    composed, decomposed = "A caf\u00e9.", "A cafe\u0301."
    scorer = ScriptedScorer([0.0, 0.0])
    [scored] = contrast_replies(scorer, reference_tokenizer, [case("Where?", composed)])
    assert scored.tokens[-1].end == len(composed)
    with pytest.raises(AlteredReply, match="NFC"):
        contrast_replies(scorer, reference_tokenizer, [case("Where?", decomposed)])


class AwaitedScorer(ScriptedScorer):
    """The same script for the protocol's asynchronous form."""

    async def logprobs(  # type: ignore[override]  # on purpose: the other protocol
        self, prompts: Sequence[Sequence[int]], replies: Sequence[Sequence[int]], adapter: bool
    ) -> list[list[float]]:
        return ScriptedScorer.logprobs(self, prompts, replies, adapter)


@pytest.mark.parametrize("contrast", CONTRASTS)
def test_an_awaited_scorer_is_asked_the_same(
    chat_tokenizer: ChatTokenizer, contrast: Contrast
) -> None:
    at_once, awaited = ScriptedScorer([-0.5, -1.75]), AwaitedScorer([-0.5, -1.75])
    expected = contrast_replies(at_once, chat_tokenizer, CASES, contrast)
    scored = asyncio.run(contrast_replies_async(awaited, chat_tokenizer, CASES, contrast))
    assert scored == expected
    assert awaited.passes == at_once.passes


def test_what_the_generation_scored_is_not_scored_again(chat_tokenizer: ChatTokenizer) -> None:
    ids = ids_of(chat_tokenizer, CASES[1])
    known = replace(CASES[1], reply=ids, logprobs=[-0.25] * len(ids))
    scorer = ScriptedScorer([-1.0, -2.0])
    first, second = contrast_replies(scorer, chat_tokenizer, [known, CASES[0]], max_length=40)
    assert [len(prompts) for prompts, _, _ in scorer.passes] == [1, 2]
    assert {token.logprob for token in first.tokens} == {-0.25}
    assert {token.logprob for token in second.tokens} == {-1.0}
    assert first.reply == CASES[1].reply
    assert first.cut == Cut()


HISTORY = [
    ContextItem("fact", "I love to surf."),
    *(ContextItem("text", f"text number {n} " * 3, f"query {n}") for n in range(3)),
]


@pytest.mark.parametrize(
    ("dropped", "kept"),
    [
        (0, [0, 1, 2, 3]),
        (1, [0, 2, 3]),
        (3, [0]),
        (4, []),
    ],
)
def test_a_long_prompt_loses_its_oldest_texts_first_and_says_so(
    chat_tokenizer: ChatTokenizer, dropped: int, kept: list[int]
) -> None:
    asked = [{"role": "user", "content": "Where do you surf?"}]
    whole, fitting = (
        chat_tokenizer.prompt_ids(prompt_pair(asked, context).with_persona)
        for context in (HISTORY, [HISTORY[index] for index in kept])
    )
    scorer = ScriptedScorer([-1.0, -2.0])
    reply = chat_tokenizer.reply_ids("Malibu")
    [scored] = contrast_replies(
        scorer,
        chat_tokenizer,
        [Case(asked, HISTORY, "Malibu")],
        max_length=len(fitting) + len(reply),
    )
    assert scorer.passes[0][:2] == ([fitting], [reply])
    assert kept_items(HISTORY, dropped) == kept
    assert scored.cut.items == tuple(index for index in range(4) if index not in kept)
    assert scored.cut.tokens == len(whole) - len(fitting)


def test_conversation_and_reply_are_never_cut(chat_tokenizer: ChatTokenizer) -> None:
    long = case("Why? " * 50, "Because.", "I am 30.")
    with pytest.raises(PromptTooLong, match="Shorten the conversation or the reply"):
        contrast_replies(ScriptedScorer([0.0, 0.0]), chat_tokenizer, [long], max_length=60)
