"""The engine's command line and environment: vLLM's own OpenAI server, one process.

Every flag was tried on vLLM 0.32; docs/log.md has the start-up times that led to them.
"""

import os
import sys

from scripts.attune.up.model import Model
from scripts.attune.up.process import Service, answers

# Without this list (no lm_head) a prompt_logprobs request in a batch kills a CPU engine.
LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
MAX_LORAS = 8
MAX_CPU_LORAS = 64
MAX_LORA_RANK = 16
KV_CACHE_GB = 1
"""Of main memory, on a machine without GPU."""
GPU_SHARE = 0.55
"""Of the GPU's memory; the rest is for the worker's training."""

_LOCAL_START_S = 600.0
_FETCHED_START_S = 7200.0


def engine_service(model: Model, port: int, key: str, gpu: bool) -> Service:
    """The engine, which only gateway and worker on this machine may reach."""
    command = [
        *(sys.executable, "-m", "vllm.entrypoints.openai.api_server"),
        *("--model", model.source, "--served-model-name", model.name),
        *("--host", "127.0.0.1", "--port", str(port), "--disable-uvicorn-access-log"),
        *("--max-model-len", str(model.max_length or "auto")),
        *("--enable-lora", "--max-loras", str(MAX_LORAS), "--max-cpu-loras", str(MAX_CPU_LORAS)),
        *("--max-lora-rank", str(MAX_LORA_RANK), "--lora-target-modules", *LORA_TARGETS),
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
    if gpu:
        command += ["--gpu-memory-utilization", str(GPU_SHARE)]
    else:
        # float32 makes a scored reply's logprobs those of its generation. One engine process
        # in place of two (vLLM splits off its worker unless both settings say otherwise)
        # halves the start-up, which is nearly all imports.
        command += ["--dtype", "float32", "--enforce-eager"]
        command += ["--distributed-executor-backend", "uni"]
        environment |= {
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "VLLM_CPU_KVCACHE_SPACE": str(KV_CACHE_GB),
            "OMP_NUM_THREADS": str(max(1, len(os.sched_getaffinity(0)) - 1)),
        }
    return Service(
        name="engine",
        command=tuple(command),
        environment=environment,
        ready=answers(f"http://127.0.0.1:{port}", "/health"),
        start_timeout_s=_LOCAL_START_S if model.local else _FETCHED_START_S,
    )
