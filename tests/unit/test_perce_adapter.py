import json
from collections.abc import Callable
from pathlib import Path
from shutil import copytree

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.numpy import load_file, save_file
from transformers import PreTrainedModel

from perce.adapter import load_adapter, new_adapter, remove_adapter, save_adapter
from perce.adapter_files import (
    TARGET_MODULES,
    AdapterError,
    BrokenWeights,
    MissingAdapterFile,
    OtherBaseModel,
    UnreadableAdapter,
    UnsupportedAdapter,
    check_adapter,
    model_fingerprint,
)
from perce.hyperparameters import Hyperparameters
from perce.logprobs import reply_logprobs
from perce.merged_lora import merged_lora
from perce.model import UnsupportedModel, load_model
from perce.stacked import UserAdapter, stacked_adapters

PROMPTS, REPLIES = [[5, 9, 200], [7, 8]], [[40, 41, 42], [50, 60]]
Tensors = dict[str, np.ndarray]


def randomized(model: PreTrainedModel) -> PeftModel:
    peft_model = new_adapter(model, Hyperparameters(rank=8))
    generator = torch.Generator().manual_seed(1)
    for name, parameter in peft_model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(0, 0.5, generator=generator)
    return peft_model


def score(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return torch.cat(reply_logprobs(model, PROMPTS, REPLIES))


@pytest.fixture
def folder(tiny_model: PreTrainedModel, tmp_path: Path) -> Path:
    save_adapter(randomized(tiny_model), tmp_path / "v1")
    return tmp_path / "v1"


def test_a_new_adapter_changes_nothing_and_trains_the_seven_projections(
    tiny_model: PreTrainedModel,
) -> None:
    before = score(tiny_model)
    peft_model = new_adapter(tiny_model, Hyperparameters(rank=8))
    assert torch.equal(score(peft_model), before)
    trained = [name for name, p in peft_model.named_parameters() if p.requires_grad]
    assert len(trained) == 2 * 2 * len(TARGET_MODULES)
    assert all("lora_" in name for name in trained)


def test_the_seed_alone_decides_the_first_weights(tiny_model_dir: Path) -> None:
    def weights(seed: int) -> list[torch.Tensor]:
        base = load_model(str(tiny_model_dir), "cpu")
        return [
            p for p in new_adapter(base, Hyperparameters(seed=seed)).parameters() if p.requires_grad
        ]

    state = torch.random.get_rng_state()
    first, other = weights(3), weights(4)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.rand(5)
    assert all(torch.equal(a, b) for a, b in zip(first, weights(3), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_saved_and_loaded_scores_are_equal_and_plain_peft_agrees(
    tiny_model: PreTrainedModel, tiny_model_dir: Path, tmp_path: Path
) -> None:
    peft_model = randomized(tiny_model)
    expected = score(peft_model)
    save_adapter(peft_model, tmp_path / "v1")
    assert sorted(path.name for path in (tmp_path / "v1").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    ours = load_adapter(load_model(str(tiny_model_dir), "cpu"), tmp_path / "v1")
    assert torch.equal(score(ours), expected)
    assert any(p.requires_grad for p in ours.parameters())
    plain = PeftModel.from_pretrained(load_model(str(tiny_model_dir), "cpu"), tmp_path / "v1")
    with torch.no_grad():
        logits = plain(input_ids=torch.tensor([PROMPTS[0] + REPLIES[0]])).logits[0, 2:-1]
    own = logits.log_softmax(-1)[range(3), REPLIES[0]]
    torch.testing.assert_close(own, expected[:3], atol=1e-5, rtol=0)
    frozen = load_adapter(load_model(str(tiny_model_dir), "cpu"), tmp_path / "v1", trainable=False)
    assert not any(p.requires_grad for p in frozen.parameters())


def test_adapters_follow_each_other_on_one_base(
    tiny_model: PreTrainedModel, folder: Path, tiny_model_dir: Path
) -> None:
    base = load_model(str(tiny_model_dir), "cpu")
    before = score(base)
    for _ in range(2):
        peft_model = load_adapter(base, folder)
        assert not torch.equal(score(peft_model), before)
        base = remove_adapter(peft_model)
        assert torch.equal(score(base), before)


def test_a_whole_folder_is_described(folder: Path, tiny_model_dir: Path) -> None:
    info = check_adapter(folder, base_model=str(tiny_model_dir), max_rank=8)
    assert (info.rank, info.alpha) == (8, 32)
    assert set(info.target_modules) == set(TARGET_MODULES)
    assert info.fingerprint == model_fingerprint(str(tiny_model_dir))
    assert info.parameters == sum(t.size for t in load_file(folder / WEIGHTS).values())


WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
A = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
B = A.replace("lora_A", "lora_B")


def config(**changes: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / CONFIG
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


def tensors(edit: Callable[[Tensors], object]) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        state = load_file(folder / WEIGHTS)
        edit(state)
        save_file(state, folder / WEIGHTS)

    return change


def written(name: str, content: bytes) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).write_bytes(content)

    return change


def truncated(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-100])


ONES = np.ones((8, 32), np.float32)
DEFECTS: dict[str, tuple[Callable[[Path], object], type[AdapterError], str]] = {
    "no config": (lambda f: (f / CONFIG).unlink(), MissingAdapterFile, CONFIG),
    "no weights": (lambda f: (f / WEIGHTS).unlink(), MissingAdapterFile, WEIGHTS),
    "config no JSON": (written(CONFIG, b"{"), UnreadableAdapter, "cannot be read"),
    "config no UTF-8": (written(CONFIG, b"\xff"), UnreadableAdapter, "cannot be read"),
    "config no object": (written(CONFIG, b"[]"), UnreadableAdapter, "not a JSON object"),
    "no rank": (config(r=None), UnreadableAdapter, "no number 'r'"),
    "weights garbage": (written(WEIGHTS, b"garbage"), UnreadableAdapter, "cannot be read"),
    "weights cut off": (truncated, UnreadableAdapter, "cannot be read"),
    "other type": (config(peft_type="IA3"), UnsupportedAdapter, "IA3"),
    "DoRA": (config(use_dora=True), UnsupportedAdapter, "DORA"),
    "biases": (config(bias="all"), UnsupportedAdapter, "sets bias to 'all'"),
    "LoRA biases": (config(lora_bias=True), UnsupportedAdapter, "sets lora_bias"),
    "ranks of its own": (
        config(rank_pattern={"q_proj": 4}),
        UnsupportedAdapter,
        "sets rank_pattern",
    ),
    "alphas of its own": (
        config(alpha_pattern={"q_proj": 4}),
        UnsupportedAdapter,
        "sets alpha_pattern",
    ),
    "some layers": (config(layers_to_transform=[0]), UnsupportedAdapter, "layers_to_transform"),
    "layer names": (config(layers_pattern="h"), UnsupportedAdapter, "sets layers_pattern"),
    "layers repeated": (config(layer_replication=[[0, 1]]), UnsupportedAdapter, "replication"),
    "transposed": (config(fan_in_fan_out=True), UnsupportedAdapter, "sets fan_in_fan_out"),
    "parameters": (config(target_parameters=["w"]), UnsupportedAdapter, "target_parameters"),
    "token rows": (config(trainable_token_indices=[1]), UnsupportedAdapter, "token_indices"),
    "aLoRA": (config(alora_invocation_tokens=[1]), UnsupportedAdapter, "alora_invocation"),
    "QALoRA": (config(use_qalora=True), UnsupportedAdapter, "sets use_qalora"),
    "BD-LoRA": (config(use_bdlora={"a": 1}), UnsupportedAdapter, "sets use_bdlora"),
    "PiSSA": (config(init_lora_weights="pissa"), UnsupportedAdapter, "init_lora_weights"),
    "whole modules": (config(modules_to_save=["lm_head"]), UnsupportedAdapter, "lm_head"),
    "rank too high": (config(r=16), UnsupportedAdapter, "exceeds the engine's maximum 8"),
    "wrong rank": (config(r=4), BrokenWeights, "has rank 8, but adapter_config.json says 4"),
    "output layer": (
        tensors(lambda t: t.update({"base_model.model.lm_head.lora_A.weight": ONES})),
        UnsupportedAdapter,
        "lm_head",
    ),
    "embeddings": (
        tensors(lambda t: t.update({"base_model.model.model.embed_tokens.weight": ONES})),
        UnsupportedAdapter,
        "embed_tokens",
    ),
    "NaN": (tensors(lambda t: t[B].fill(np.nan)), BrokenWeights, "NaN or infinity"),
    "infinity": (tensors(lambda t: t[A].fill(np.inf)), BrokenWeights, "NaN or infinity"),
    "no A": (tensors(lambda t: t.pop(A)), BrokenWeights, "q_proj lacks its lora_A"),
    "no B": (tensors(lambda t: t.pop(B)), BrokenWeights, "q_proj lacks its lora_B"),
    "no tensors": (tensors(dict.clear), BrokenWeights, "no tensors"),
    "a vector": (tensors(lambda t: t.update({A: ONES[0]})), BrokenWeights, "shape"),
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_every_defect_is_named_with_its_folder(folder: Path, defect: str) -> None:
    spoil, error, message = DEFECTS[defect]
    spoil(folder)
    with pytest.raises(error, match=message) as raised:
        check_adapter(folder, max_rank=8)
    assert str(folder) in str(raised.value)
    assert "train it anew" in str(raised.value)


@pytest.mark.parametrize("init", [True, False, "gaussian", "orthogonal"])
def test_how_its_weights_began_does_not_matter(folder: Path, init: object) -> None:
    config(init_lora_weights=init)(folder)
    assert check_adapter(folder).rank == 8


def test_a_rank_stabilized_scale_is_the_same_merged_and_stacked(
    folder: Path, tiny_model_dir: Path
) -> None:
    plain = score(load_adapter(load_model(str(tiny_model_dir), "cpu"), folder))
    config(use_rslora=True)(folder)
    model = load_adapter(load_model(str(tiny_model_dir), "cpu"), folder)
    expected = score(model)
    assert (expected - plain).abs().max() > 1e-3
    with merged_lora(model):
        torch.testing.assert_close(score(model), expected, atol=1e-4, rtol=0)
    base = model.get_base_model()
    own = UserAdapter.taken_off(model)
    with stacked_adapters(base, [own], [len(PROMPTS)]):
        torch.testing.assert_close(score(base), expected, atol=1e-4, rtol=0)


def test_another_base_model_is_refused_wherever_the_right_one_lies(
    folder: Path, tiny_model_dir: Path, tmp_path: Path
) -> None:
    moved = copytree(tiny_model_dir, tmp_path / "moved")
    check_adapter(folder, base_model=str(moved))
    (moved / "config.json").write_text((moved / "config.json").read_text() + "\n")
    with pytest.raises(OtherBaseModel, match="trained on"):
        check_adapter(folder, base_model=str(moved))
    with pytest.raises(OtherBaseModel, match="Qwen/Qwen3-4B"):
        check_adapter(folder, base_model="Qwen/Qwen3-4B")


def test_bfloat16_adapters_are_read(folder: Path) -> None:
    from safetensors.torch import load_file as load_torch
    from safetensors.torch import save_file as save_torch

    state = {n: t.bfloat16() for n, t in load_torch(folder / WEIGHTS).items()}
    save_torch(state, folder / WEIGHTS)
    assert check_adapter(folder).rank == 8
    state[B][0, 0] = float("nan")
    save_torch(state, folder / WEIGHTS)
    with pytest.raises(BrokenWeights, match="NaN"):
        check_adapter(folder)


def test_a_model_that_rescales_its_logits_is_refused(tiny_model_dir: Path, tmp_path: Path) -> None:
    folder = copytree(tiny_model_dir, tmp_path / "capped")
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"final_logit_softcapping": 30.0}))
    with pytest.raises(UnsupportedModel, match="final_logit_softcapping"):
        load_model(str(folder), "cpu")
