"""Adapter folders on disk: what must hold before an engine or a training run loads one.

Torch-free. An adapter folder is PEFT's: `adapter_config.json` and
`adapter_model.safetensors`. vLLM trusts such a folder blindly (it drops parts on the output
layer without a word, and NaN would poison a whole batch), so every folder is checked here.
"""

import json
import re
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, deserialize, safe_open

from perce.errors import AttuneError

TARGET_MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""The projections that adapters train; never the embeddings or the output layer."""

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
FINGERPRINT_KEY = "base_model_fingerprint"
"""Key, in the safetensors metadata, of the base model that the adapter was trained on."""

_FLOATS = {"BF16": "", "F16": "<f2", "F32": "<f4", "F64": "<f8"}
_TENSOR_NAME = re.compile(
    r"(?P<module>.+\.(?P<projection>\w+))\.lora_(?P<side>[AB])(\.default)?\.weight"
)


class AdapterError(AttuneError):
    """An adapter folder cannot be used; roll back to another version or train it anew."""


class MissingAdapterFile(AdapterError):
    """A file of the adapter folder is not there."""


class UnreadableAdapter(AdapterError):
    """A file of the adapter folder is broken."""


class UnsupportedAdapter(AdapterError):
    """The adapter touches parts of the model that Attune does not serve adapters on."""


class BrokenWeights(AdapterError):
    """The adapter's tensors are incomplete, of the wrong shape, or not finite."""


class OtherBaseModel(AdapterError):
    """The adapter was trained on another base model."""


@dataclass(frozen=True, slots=True)
class AdapterInfo:
    """What a checked adapter folder holds.

    Attributes:
        rank: LoRA rank.
        alpha: LoRA alpha.
        target_modules: The projections it has tensors on, sorted.
        base_model: Name or folder of the base model that it names.
        fingerprint: `model_fingerprint` of that model; None where another tool saved it.
        parameters: Numbers in all its tensors.
        size_bytes: Size of the weights file.
    """

    rank: int
    alpha: float
    target_modules: tuple[str, ...]
    base_model: str
    fingerprint: str | None
    parameters: int
    size_bytes: int


def check_adapter(
    folder: Path | str, base_model: str | None = None, max_rank: int | None = None
) -> AdapterInfo:
    """Read an adapter folder and make sure that it is whole and fits the base model.

    Args:
        folder: A PEFT adapter folder.
        base_model: Name or folder of the model it is to be used with; None skips that check.
        max_rank: Largest rank that the engine serves; None for any.

    Raises:
        AdapterError: One of its subclasses, with the folder and the defect in the message.
    """
    folder = Path(folder)
    config = _read_config(folder)
    _check_config(folder, config, max_rank)
    shapes, metadata = _read_weights(folder)
    targets = _check_pairs(folder, shapes, config["r"])
    info = AdapterInfo(
        rank=config["r"],
        alpha=config["lora_alpha"],
        target_modules=targets,
        base_model=config.get("base_model_name_or_path") or "",
        fingerprint=metadata.get(FINGERPRINT_KEY),
        parameters=sum(rows * columns for rows, columns in shapes.values()),
        size_bytes=(folder / WEIGHTS_FILE).stat().st_size,
    )
    if base_model is not None:
        _check_base_model(folder, info, base_model)
    return info


def model_fingerprint(model: str) -> str:
    """Identify a base model: a hash of its config and weights, or its name if not local.

    Args:
        model: A Hugging Face model name or a local folder.

    Returns:
        `sha256:` and the hash over config.json and all safetensors files, by name, of a local
        folder; else the name itself.
    """
    if not model or not Path(model).is_dir():
        return model
    folder = Path(model)
    files = [folder / "config.json", *sorted(folder.glob("*.safetensors"))]
    stamps = tuple((str(f), f.stat().st_size, f.stat().st_mtime_ns) for f in files if f.is_file())
    return f"sha256:{_hash_files(stamps)}"


@lru_cache(maxsize=16)
def _hash_files(stamps: tuple[tuple[str, int, int], ...]) -> str:
    """Hash files; the cache keeps a large model from being read for every adapter."""
    digest = sha256()
    for path, size, _ in stamps:
        digest.update(f"{Path(path).name} {size}\n".encode())
        with Path(path).open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise MissingAdapterFile(_message(folder, f"{CONFIG_FILE} is missing"))
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UnreadableAdapter(
            _message(folder, f"{CONFIG_FILE} cannot be read: {error}")
        ) from error
    if not isinstance(config, dict):
        raise UnreadableAdapter(_message(folder, f"{CONFIG_FILE} is not a JSON object"))
    for key in ("r", "lora_alpha"):
        if not isinstance(config.get(key), int | float):
            raise UnreadableAdapter(_message(folder, f"{CONFIG_FILE} has no number {key!r}"))
    return config


# Fields of PEFT's that change what an adapter computes, with what they may say besides nothing.
# The engine passes over some of them without a word, and PEFT, which trains, heeds them all.
# `use_rslora` is not among them: both compute the scale that it asks for.
_PLAIN: dict[str, tuple[object, ...]] = {
    "bias": ("none",),
    "lora_bias": (),
    "rank_pattern": (),
    "alpha_pattern": (),
    "layers_to_transform": (),
    "layers_pattern": (),
    "layer_replication": (),
    "fan_in_fan_out": (),
    "target_parameters": (),
    "trainable_token_indices": (),
    "alora_invocation_tokens": (),
    "use_qalora": (),
    "use_bdlora": (),
    # Others, such as PiSSA, change the base model's weights when PEFT loads the adapter.
    "init_lora_weights": (True, "gaussian", "orthogonal", "eva"),
}


def _check_config(folder: Path, config: dict[str, Any], max_rank: int | None) -> None:
    if config.get("peft_type") != "LORA" or config.get("use_dora"):
        kind = "DORA" if config.get("use_dora") else config.get("peft_type")
        raise UnsupportedAdapter(_message(folder, f"its type is {kind}, not plain LORA"))
    if config.get("modules_to_save"):
        modules = ", ".join(config["modules_to_save"])
        raise UnsupportedAdapter(_message(folder, f"it replaces whole modules ({modules})"))
    for field, plain in _PLAIN.items():
        if config.get(field) and config[field] not in plain:
            raise UnsupportedAdapter(
                _message(
                    folder,
                    f"{CONFIG_FILE} sets {field} to {config[field]!r}, and training and engine "
                    "would not agree on what that computes",
                )
            )
    if max_rank is not None and config["r"] > max_rank:
        raise UnsupportedAdapter(
            _message(folder, f"its rank {config['r']} exceeds the engine's maximum {max_rank}")
        )


def _read_weights(folder: Path) -> tuple[dict[str, tuple[int, int]], dict[str, str]]:
    """Read shapes and metadata of the weights file, making sure that all values are finite."""
    path = folder / WEIGHTS_FILE
    if not path.is_file():
        raise MissingAdapterFile(_message(folder, f"{WEIGHTS_FILE} is missing"))
    try:
        with safe_open(path, framework="numpy") as weights:
            metadata = weights.metadata() or {}
        tensors = dict(deserialize(path.read_bytes()))  # type: ignore[no-untyped-call]  # Rust
    except (OSError, SafetensorError) as error:
        raise UnreadableAdapter(
            _message(folder, f"{WEIGHTS_FILE} cannot be read: {error}")
        ) from error
    shapes: dict[str, tuple[int, int]] = {}
    for name, tensor in tensors.items():
        if len(tensor["shape"]) != 2:
            raise BrokenWeights(_message(folder, f"{name} has shape {tensor['shape']}"))
        if tensor["dtype"] not in _FLOATS:
            raise UnsupportedAdapter(_message(folder, f"{name} is of type {tensor['dtype']}"))
        if not _all_finite(tensor["data"], tensor["dtype"]):
            raise BrokenWeights(_message(folder, f"{name} holds NaN or infinity"))
        rows, columns = tensor["shape"]
        shapes[name] = (rows, columns)
    return shapes, metadata


def _all_finite(data: bytes, dtype: str) -> bool:
    if dtype == "BF16":  # NumPy has none: it is the upper half of a float32
        values = (np.frombuffer(data, "<u2").astype("<u4") << 16).view("<f4")
    else:
        values = np.frombuffer(data, _FLOATS[dtype])
    return bool(np.isfinite(values).all())


def _check_pairs(folder: Path, shapes: dict[str, tuple[int, int]], rank: int) -> tuple[str, ...]:
    """Make sure that each adapted projection has its A and B of the right rank."""
    sides: dict[str, set[str]] = {}
    targets = set()
    for name, shape in shapes.items():
        match = _TENSOR_NAME.fullmatch(name)
        if match is None or match["projection"] not in TARGET_MODULES:
            raise UnsupportedAdapter(
                _message(
                    folder,
                    f"it holds {name}, but only LoRA on the projections "
                    f"{', '.join(TARGET_MODULES)} can be served",
                )
            )
        own_rank = shape[0] if match["side"] == "A" else shape[1]
        if own_rank != rank:
            raise BrokenWeights(
                _message(folder, f"{name} has rank {own_rank}, but {CONFIG_FILE} says {rank}")
            )
        sides.setdefault(match["module"], set()).add(match["side"])
        targets.add(match["projection"])
    if not sides:
        raise BrokenWeights(_message(folder, f"{WEIGHTS_FILE} holds no tensors"))
    for module, found in sides.items():
        for side in {"A", "B"} - found:
            raise BrokenWeights(_message(folder, f"{module} lacks its lora_{side}"))
    return tuple(sorted(targets))


def _check_base_model(folder: Path, info: AdapterInfo, base_model: str) -> None:
    wanted = model_fingerprint(base_model)
    found = info.fingerprint or model_fingerprint(info.base_model)
    if found != wanted:
        raise OtherBaseModel(
            _message(
                folder,
                f"it was trained on {info.base_model or 'an unnamed model'} ({found}), "
                f"not on {base_model} ({wanted})",
            )
        )


def _message(folder: Path, defect: str) -> str:
    return (
        f"The adapter in {folder} cannot be used: {defect}. "
        "Roll back to another version or train it anew."
    )
