"""The training loop of the reference model: seeded, resumable, on CPU or CUDA.

Beside the loss of the next token there is that of guided heads (`scripts.reference.guidance`).
Two-dimensional weights are trained with Muon (Jordan et al. 2024; the RMS-matching scale
of Liu et al. 2025, so that AdamW's learning rates fit), the rest with AdamW.
"""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from torch import nn
from transformers import Qwen3Config, Qwen3ForCausalLM

from scripts.persona.mix import STAGES, Mix, Stage
from scripts.reference.batches import Batch, batches
from scripts.reference.encoding import Encoded, Encoder
from scripts.reference.guidance import HEADS, guided_loss, layer_inputs
from scripts.reference.muon import Muon

_PLAIN_ATTENTION = 640


@dataclass(frozen=True, slots=True)
class Run:
    """Hyperparameters of a training run.

    Attributes:
        tokens: Padded tokens to train on, in all.
        step_tokens: Padded tokens of an optimizer step, at least.
        batch_tokens: Padded tokens of a forward pass, several of which make a step: on CPU its
            activations should fit the cache.
        widths: Widths of packed rows, in tokens; the last one is the longest example's.
        stages: What it is trained on, one after the other.
        learning_rate: Peak learning rate, of both optimizers.
        weight_decay: Decoupled, of both.
        warmup_steps: Steps of linear warm-up.
        decay_share: Share of the tokens, at the end, over which the rate falls to zero.
        seed: Seeds weights and data.
        minutes: Where above zero, this process also ends, its rate decayed, after so long; on a
            shared machine that keeps an appointment at the price of exact repetition.
        compiled: Compile the step; minutes to start with, then about 1.4 times as fast.
        guidance: What the loss of guided heads weighs beside that of the next token.
    """

    tokens: int
    step_tokens: int = 8192
    batch_tokens: int = 2048
    widths: tuple[int, ...] = (256, 320, 384, 512, 2048)
    stages: tuple[Stage, ...] = STAGES
    learning_rate: float = 3e-3
    weight_decay: float = 0.0
    warmup_steps: int = 60
    decay_share: float = 0.6
    seed: int = 0
    minutes: float = 0.0
    compiled: bool = False
    guidance: float = 1.0

    def __post_init__(self) -> None:
        if min(self.tokens, self.step_tokens, self.batch_tokens, *self.widths) <= 0:
            raise ValueError("tokens, step_tokens, batch_tokens and widths must be positive.")
        if not 0 < self.decay_share <= 1:
            raise ValueError("decay_share must lie in (0, 1].")

    def rate(self, step: int, done: float) -> float:
        """Learning rate at a step with a share `done` of the tokens seen."""
        warm = min(1.0, (step + 1) / self.warmup_steps)
        return self.learning_rate * warm * min(1.0, max(0.0, (1 - done) / self.decay_share))


@dataclass(slots=True)
class Progress:
    """Where a run stands."""

    step: int = 0
    tokens: int = 0
    counted: int = 0
    examples: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Losses:
    """Losses of a step, in nats.

    Attributes:
        loss: Mean over the tokens that count.
        guided: Mean over the queries of each entry of `HEADS`.
    """

    loss: float
    guided: list[float]


def new_model(vocab_size: int, seed: int) -> Qwen3ForCausalLM:
    """Make the model, 5.4 M parameters at a vocabulary of 2,560, with seeded weights."""
    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=vocab_size,
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        bos_token_id=None,
        eos_token_id=2,
        pad_token_id=0,
    )
    return Qwen3ForCausalLM(config)


class Trainer:
    """Trains a model on the mix and keeps checkpoints.

    Args:
        model: The model, in float32.
        encoder: Turns examples into tokens.
        mix: The examples.
        run: Hyperparameters.
        folder: Where checkpoints and the loss log go.
        device: The torch device.
    """

    def __init__(
        self,
        model: Qwen3ForCausalLM,
        encoder: Encoder,
        mix: Mix,
        run: Run,
        folder: Path,
        device: str = "cpu",
    ) -> None:
        self.model = model.to(device)
        self.encoder, self.mix, self.run, self.folder = encoder, mix, run, folder
        self.device = device
        self._bfloat16 = _has_bfloat16(device)
        self.progress = Progress()
        self._started, self._done_before = time.monotonic(), 0.0
        matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
        rest = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
        self.optimizers: tuple[torch.optim.Optimizer, ...] = (
            Muon(matrices, lr=run.learning_rate, weight_decay=run.weight_decay),
            torch.optim.AdamW(
                rest, lr=run.learning_rate, betas=(0.9, 0.98), weight_decay=run.weight_decay
            ),
        )
        # Compiled once for each width of rows; the head stays out, for the number of tokens
        # that count is different in every batch.
        body = partial(layer_inputs, model)
        self._body: Callable[[torch.Tensor, torch.Tensor], list[torch.Tensor]] = (
            torch.compile(body, dynamic=False) if run.compiled else body
        )

    def train(self, report: Callable[[Progress], None], every_steps: int) -> None:
        """Train to the end of the run; call `report` and save a checkpoint now and then."""
        log = self.folder / "loss.jsonl"
        # A model that is loaded is in evaluation mode, and each mode is compiled anew.
        self.model.train()
        self._done_before = self._tokens_done()
        self._started = time.monotonic()
        for stage in self.run.stages:
            if self._done() >= stage.until:
                continue
            for step in self._steps(stage):
                started = time.monotonic()
                losses = self._step(step)
                self.progress.seconds += time.monotonic() - started
                with log.open("a", encoding="utf-8") as file:
                    file.write(json.dumps({**asdict(self.progress), **asdict(losses)}) + "\n")
                if self.progress.step % every_steps == 0:
                    self.save()
                    report(self.progress)
                if self._done() >= stage.until:
                    break
        self.save()
        report(self.progress)

    def save(self) -> None:
        """Write a checkpoint from which `resume` goes on."""
        state = {
            "model": self.model.state_dict(),
            "optimizers": [o.state_dict() for o in self.optimizers],
            "progress": asdict(self.progress),
        }
        torch.save(state, self.folder / "checkpoint.tmp")
        (self.folder / "checkpoint.tmp").replace(self.folder / "checkpoint.pt")

    def resume(self) -> None:
        """Go on from the checkpoint in the folder, if there is one."""
        path = self.folder / "checkpoint.pt"
        if not path.exists():
            return
        state = torch.load(path, map_location=self.device, weights_only=True)
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.progress = Progress(**state["progress"])

    def _tokens_done(self) -> float:
        return self.progress.tokens / self.run.tokens

    def _done(self) -> float:
        if not self.run.minutes:
            return self._tokens_done()
        used = (time.monotonic() - self._started) / (60 * self.run.minutes)
        return max(self._tokens_done(), self._done_before + (1 - self._done_before) * used)

    def _steps(self, stage: Stage) -> Iterator[list[Batch]]:
        """Batches, in groups that make a step."""
        step: list[Batch] = []
        for batch in self._batches(stage):
            step.append(batch)
            if sum(b.ids_BT.numel() for b in step) >= self.run.step_tokens:
                yield step
                step = []

    def _batches(self, stage: Stage) -> Iterator[Batch]:
        def encoded() -> Iterator[Encoded]:
            for example in self.mix.examples(stage, self.progress.examples):
                self.progress.examples += 1
                yield self.encoder.example(example)

        return batches(encoded(), self.run.batch_tokens, self.run.widths, self.encoder.pad)

    def _step(self, step: list[Batch]) -> Losses:
        rate = self.run.rate(self.progress.step, self._done())
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
        counted = sum(len(batch.labels_N) for batch in step)
        weight = sum(float(batch.weights_N.sum()) for batch in step)
        queries = [sum(b.queries(heads.kind) for b in step) for heads in HEADS]
        total, total_guided = 0.0, [0.0] * len(HEADS)
        for batch in step:
            loss_N, guided = self._losses(batch)
            objective = loss_N @ batch.weights_N.to(self.device) / weight
            for number, summed in enumerate(guided):
                mean = summed / max(1, queries[number])
                objective = objective + self.run.guidance * mean / len(HEADS)
                total_guided[number] += float(mean.detach())
            torch.autograd.backward(objective)
            total += float(loss_N.detach().sum()) / counted
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.progress.step += 1
        self.progress.tokens += sum(batch.ids_BT.numel() for batch in step)
        self.progress.counted += counted
        return Losses(total, total_guided)

    def _losses(self, batch: Batch) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Cross-entropy of each token that counts, and the sums of the guided heads' losses."""
        # On a CPU with bfloat16, plain attention is faster than the fused kernel until its T x T
        # weights outgrow the cache (measured: 1.3 times at 128 to 512 tokens, 0.7 times at 2,048);
        # in float32 it never is (0.92 times at 256 tokens).
        short = batch.ids_BT.shape[1] <= _PLAIN_ATTENTION
        plain = self.device == "cpu" and self._bfloat16 and short
        self.model.set_attn_implementation("eager" if plain else "sdpa")
        ids_BT, position_BT = batch.ids_BT.to(self.device), batch.position_BT.to(self.device)
        at_N, labels_N = batch.at_N.to(self.device), batch.labels_N.to(self.device)
        with torch.autocast(self.device, torch.bfloat16, enabled=self._bfloat16):
            *inputs, hidden_BTC = self._body(ids_BT, position_BT)
            logits_NV = self.model.lm_head(hidden_BTC.flatten(0, 1)[at_N])
        loss_N = nn.functional.cross_entropy(logits_NV.float(), labels_N, reduction="none")
        guided = [
            guided_loss(
                self.model, heads, inputs[heads.layer], position_BT, batch.looks[heads.kind]
            )
            for heads in HEADS
        ]
        return loss_N, guided


def _has_bfloat16(device: str) -> bool:
    """Whether a device multiplies in bfloat16; a CPU that only emulates it takes minutes a step."""
    able = torch.cpu.get_capabilities()
    return device != "cpu" or bool(able.get("avx512_bf16") or able.get("amx_bf16"))
