"""The engine's command line and environment: vLLM's own OpenAI server, one process.

Every flag was tried on vLLM 0.32; docs/log.md has the start-up times that led to them.
"""

import os
import sys
from dataclasses import dataclass

from perce.adapter_files import TARGET_MODULES
from scripts.attune.up.errors import BadOptionError
from scripts.attune.up.model import Model
from scripts.attune.up.process import Service, answers
from server.settings import Settings

MAX_LORAS = 8
MAX_CPU_LORAS = 64
KV_CACHE_GB = 1
"""Of main memory, on a machine without GPU."""
FULL_SHARE = 0.9
"""Of its GPU's memory, where the engine has it to itself while it is awake."""


@dataclass(frozen=True, slots=True)
class GpuUse:
    """What of a GPU the engine takes.

    Attributes:
        memory_share: Of its memory.
        sleeps: Whether the worker may put it to sleep.
    """

    memory_share: float
    sleeps: bool = False

    @classmethod
    def of(cls, settings: Settings) -> "GpuUse":
        """Leave training what the settings give it.

        Raises:
            BadOptionError: Training's own GPU would be the engine's.
        """
        if settings.train_gpu == "shared":
            return cls(settings.engine_memory_share)
        if settings.train_gpu == "dedicated" and settings.train_device == "cuda:0":
            raise BadOptionError(
                "`attune up` runs the engine on the first GPU, and ATTUNE_TRAIN_DEVICE=cuda:0 "
                "dedicates that to training: name another one, such as cuda:1."
            )
        return cls(FULL_SHARE, sleeps=settings.train_gpu == "window")


_LOCAL_START_S = 600.0
_FETCHED_START_S = 7200.0


def engine_service(model: Model, port: int, key: str, max_rank: int, gpu: GpuUse | None) -> Service:
    """The engine, which only gateway and worker on this machine may reach.

    Args:
        model: What it serves.
        port: Where it listens.
        key: What it lets in.
        max_rank: Largest rank of the adapters that it serves.
        gpu: What of the GPU it takes; None for the CPU.
    """
    command = [
        *(sys.executable, "-m", "vllm.entrypoints.openai.api_server"),
        *("--model", model.source, "--served-model-name", model.name),
        *("--host", "127.0.0.1", "--port", str(port), "--disable-uvicorn-access-log"),
        *("--max-model-len", str(model.max_length or "auto")),
        *("--enable-lora", "--max-loras", str(MAX_LORAS), "--max-cpu-loras", str(MAX_CPU_LORAS)),
        # Without the list (no lm_head) a prompt_logprobs request in a batch kills a CPU engine.
        *("--max-lora-rank", str(max_rank), "--lora-target-modules", *TARGET_MODULES),
    ]
    environment = {
        "VLLM_API_KEY": key,
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "PYTHONUNBUFFERED": "1",
    }
    if model.local:
        environment["HF_HUB_OFFLINE"] = "1"
    if gpu is not None:
        command += ["--gpu-memory-utilization", f"{gpu.memory_share:g}"]
        if gpu.sleeps:
            command.append("--enable-sleep-mode")
            environment["VLLM_SERVER_DEV_MODE"] = "1"
    else:
        # float32 makes a scored reply's logprobs those of its generation. One engine process
        # in place of two (vLLM splits off its worker unless both settings say otherwise)
        # halves the start-up, which is nearly all imports.
        command += ["--dtype", "float32", "--enforce-eager"]
        command += ["--distributed-executor-backend", "uni"]
        environment |= {
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "VLLM_CPU_KVCACHE_SPACE": str(KV_CACHE_GB),
            "OMP_NUM_THREADS": str(engine_threads(len(os.sched_getaffinity(0)))),
        }
    return Service(
        name="engine",
        command=tuple(command),
        environment=environment,
        ready=answers(f"http://127.0.0.1:{port}", "/health"),
        start_timeout_s=_LOCAL_START_S if model.local else _FETCHED_START_S,
    )


def engine_threads(cores: int) -> int:
    """Threads of an engine on a CPU: more than training has, which takes half the cores."""
    return max(2, cores - 1)
