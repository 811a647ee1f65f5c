import pytest
import torch
from transformers import PreTrainedModel

from perce.generation import generate_replies

PROMPTS = [[5, 6, 7, 8, 9, 10, 11], [300], [40, 41], [120, 119, 118, 117]]
UNSAID = 383


def greedy(
    model: PreTrainedModel,
    prompts: list[list[int]],
    end: int,
    most: int,
    batch_size: int = 8,
) -> list[list[int]]:
    replies = generate_replies(model, prompts, end, most, batch_size=batch_size)
    assert all(reply.ended == (len(reply.ids) < most) for reply in replies)
    return [list(reply.ids) for reply in replies]


def stepwise(model: PreTrainedModel, prompt: list[int], end: int, most: int) -> list[int]:
    """The likeliest token again and again, each from a whole forward pass without padding."""
    ids = list(prompt)
    for _ in range(most):
        with torch.no_grad():
            token = int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax())
        if token == end:
            break
        ids.append(token)
    return ids[len(prompt) :]


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_replies_are_those_of_one_prompt_at_a_time(
    tiny_model: PreTrainedModel, batch_size: int
) -> None:
    replies = greedy(tiny_model, PROMPTS, UNSAID, 12, batch_size)
    assert replies == [stepwise(tiny_model, prompt, UNSAID, 12) for prompt in PROMPTS]
    assert [len(reply) for reply in replies] == [12] * 4


def test_a_reply_stops_before_the_end_token_and_may_be_empty(tiny_model: PreTrainedModel) -> None:
    first = stepwise(tiny_model, PROMPTS[0], UNSAID, 12)
    for end in dict.fromkeys(first):
        replies = greedy(tiny_model, PROMPTS, end, 12)
        assert replies == [stepwise(tiny_model, prompt, end, 12) for prompt in PROMPTS]
        assert replies[0] == first[: first.index(end)]


def test_a_models_own_sampling_settings_are_left_aside(tiny_model: PreTrainedModel) -> None:
    tiny_model.generation_config.update(do_sample=True, temperature=9.0, repetition_penalty=50.0)
    expected = [stepwise(tiny_model, prompt, UNSAID, 8) for prompt in PROMPTS]
    assert greedy(tiny_model, PROMPTS, UNSAID, 8) == expected


def test_no_prompts_give_no_replies(tiny_model: PreTrainedModel) -> None:
    assert greedy(tiny_model, [], UNSAID, 8) == []


def test_a_sample_is_drawn_by_the_seed(tiny_model: PreTrainedModel) -> None:
    def drawn(seed: int) -> list[list[int]]:
        torch.manual_seed(seed)
        replies = generate_replies(tiny_model, PROMPTS, UNSAID, 12, temperature=1.5)
        return [list(reply.ids) for reply in replies]

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)
