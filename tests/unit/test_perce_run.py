"""A training step, adding up the parts of its batch, is held to the paper's formula."""

import pytest
import torch
from paper_loss import perce_loss
from torch.optim.optimizer import register_optimizer_step_pre_hook

from perce.example import Example
from perce.hyperparameters import Hyperparameters, Normalize
from perce.run import Run

EXAMPLES = [Example((1, 2, 3), (1, 3), tuple(range(10, 10 + n))) for n in (1, 3, 2)]


@pytest.mark.parametrize("normalize", ["tokens", "weights"])
def test_a_batch_in_parts_has_the_loss_and_the_gradient_of_eq_4(normalize: Normalize) -> None:
    hyper = Hyperparameters(
        batch_size=3, group_size=1, epochs=1, max_grad_norm=1e9, normalize=normalize
    )
    scores = torch.nn.Parameter(torch.tensor([-0.3, 0.2, 0.9, -1.1, 0.4, 1.3]))
    without_N = torch.tensor([-1.5, -1.2, -9.9, -4.0, -1.4, -3.2])
    run = Run([scores], EXAMPLES, hyper)
    sizes = [len(example.reply_ids) for example in run.batch]
    own = torch.split_with_sizes(-scores.exp(), sizes)
    bare = torch.split_with_sizes(without_N, sizes)
    for example, own_N, bare_N in zip(run.batch, own, bare, strict=True):
        nll = run.loss([example], [own_N], {example: bare_N})
        nll.backward(retain_graph=True)  # type: ignore[no-untyped-call]  # torch
    seen = list[torch.Tensor]()
    hook = register_optimizer_step_pre_hook(
        lambda *_: seen.append(torch.zeros(0) if scores.grad is None else scores.grad.clone())
    )
    expected_scores = scores.detach().clone().requires_grad_()
    step = run.update(started=0.0)
    hook.remove()

    logprobs_N = -expected_scores.exp()
    weights_N = (logprobs_N.detach() - without_N).clip(hyper.clip_min, hyper.clip_max)
    assert len(set(weights_N.tolist())) > 2
    expected = perce_loss(logprobs_N, weights_N, normalize)
    (gradient,) = torch.autograd.grad(expected, expected_scores)
    assert step.loss == pytest.approx(expected.item(), rel=1e-5)
    torch.testing.assert_close(seen, [gradient], atol=1e-6, rtol=1e-5)
