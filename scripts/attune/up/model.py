"""Which model is served, under which name, and whether it can be."""

import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from scripts.attune.up.errors import BadModelError
from server.settings import REFERENCE_MODEL

GPU_MODEL = "Qwen/Qwen3-4B-Instruct-2507"
REFERENCE_NAME = "attune-reference"
LONGEST_ON_CPU = 8_192
LONGEST_ON_GPU = 32_768
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


@dataclass(frozen=True, slots=True)
class Model:
    """The model that the engine serves.

    Attributes:
        source: Its folder or its name on the model hub.
        name: What clients call it.
        local: Whether `source` is a folder, so that nothing is fetched.
        max_length: Longest sequence in tokens; None lets the engine choose what fits.
    """

    source: str
    name: str
    local: bool
    max_length: int | None


def has_gpu() -> bool:
    """Whether this machine has an NVIDIA GPU whose driver answers."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return False
    return subprocess.run([tool, "-L"], capture_output=True, check=False).returncode == 0


def choose_model(named: str | None, gpu: bool) -> Model:
    """The model that was named, or this machine's default.

    Args:
        named: A folder or a Hugging Face name; None for the default: the reference model,
            or with a GPU a model of its size.
        gpu: Whether there is a GPU.

    Raises:
        BadModelError: It is neither a folder with a model nor a possible name.
    """
    source = named or (GPU_MODEL if gpu else str(REFERENCE_MODEL))
    folder = Path(source).expanduser()
    if folder.is_dir():
        return _from_folder(folder.resolve(), source, LONGEST_ON_GPU if gpu else LONGEST_ON_CPU)
    if source.startswith((".", "/", "~")) or not _HUB_NAME.fullmatch(source):
        raise BadModelError(source, "there is no such folder, and no model has such a name")
    return Model(source, source, local=False, max_length=None)


def _from_folder(folder: Path, named: str, limit: int) -> Model:
    try:
        config = json.loads((folder / "config.json").read_text())
    except OSError:
        raise BadModelError(named, "the folder has no config.json") from None
    except ValueError:
        raise BadModelError(named, "its config.json is no JSON") from None
    if not any(folder.glob("*.safetensors")):
        raise BadModelError(named, "the folder has no weights (*.safetensors)")
    if not any((folder / file).exists() for file in ("tokenizer.json", "tokenizer_config.json")):
        raise BadModelError(named, "the folder has no tokenizer")
    name = REFERENCE_NAME if folder == REFERENCE_MODEL else folder.name
    own = int(config.get("max_position_embeddings", limit))
    return Model(str(folder), name, local=True, max_length=min(own, limit))
