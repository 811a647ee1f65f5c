"""The reference model as vLLM serves it and as transformers runs it: the same replies."""

from pathlib import Path

import httpx
import torch
from running_stack import Stack
from transformers import AutoModelForCausalLM, AutoTokenizer

from perce.prompt import prompt_pair
from scripts.reference.evaluation import probes

REFERENCE = Path(__file__).parents[2] / "perce" / "reference"
PROMPTS = 20
TOKENS = 48


def test_vllm_and_transformers_reply_alike(stack: Stack) -> None:
    tokenizer = AutoTokenizer.from_pretrained(REFERENCE)
    model = AutoModelForCausalLM.from_pretrained(REFERENCE, dtype=torch.float32).eval()
    ends = set(model.generation_config.eos_token_id)
    replies = []
    for probe in probes(PROMPTS, seed=3):
        messages = list(prompt_pair(probe.messages[:-1], probe.context).with_persona)
        prompt = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=True, return_dict=False
        )
        served = httpx.post(
            f"{stack.engine_url}/v1/completions",
            json={
                "model": "attune-reference",
                "prompt": prompt,
                "max_tokens": TOKENS,
                "temperature": 0,
                "return_token_ids": True,
            },
            headers={"Authorization": f"Bearer {stack.engine_key}"},
            timeout=300,
        ).json()["choices"][0]["token_ids"]
        with torch.no_grad():
            ids = model.generate(
                torch.tensor([prompt]), max_new_tokens=TOKENS, do_sample=False, temperature=None
            )[0, len(prompt) :].tolist()
        replies.append((_before_end(served, ends), _before_end(ids, ends)))
    assert [ours for ours, _ in replies] == [theirs for _, theirs in replies]
    assert len({tuple(reply) for reply, _ in replies}) > PROMPTS // 2  # not one reply to all


def _before_end(ids: list[int], ends: set[int]) -> list[int]:
    return next((ids[:at] for at, token in enumerate(ids) if token in ends), ids)
