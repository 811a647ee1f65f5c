"""Where things are and how large they may get: one typed object, passed in.

Read from the environment (prefix `ATTUNE_`) at a process's entry point and nowhere else.
Training hyperparameters are not settings: see `perce.hyperparameters.Hyperparameters`.
"""

import os
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

# Training beside an engine on the same cores: more threads wait for each other at every
# operation, and both get slower.
_HALF_THE_CORES = max(1, (os.cpu_count() or 2) // 2)
REFERENCE_MODEL = Path(__file__).resolve().parent.parent / "perce" / "reference"


class Settings(BaseSettings):
    """The settings of one Attune installation, shared by gateway and worker."""

    model_config = SettingsConfigDict(env_prefix="ATTUNE_", frozen=True)

    home: Path = Field(Path(".attune"), description="Folder of all state: database, adapters, keys")
    model: str = Field(str(REFERENCE_MODEL), description="Hugging Face name or folder of the model")
    host: str = Field("127.0.0.1", description="Address that the gateway binds to")
    port: int = Field(8000, description="Port of the gateway")
    engine_urls: tuple[str, ...] = Field(
        ("http://127.0.0.1:8001",), description="Every vLLM engine that serves the model"
    )
    engine_key: SecretStr = Field(SecretStr(""), description="Key between gateway and engines")
    admin_key: SecretStr = Field(SecretStr(""), description="Key that manages users")
    database_url: str = Field("", description="SQLAlchemy URL; empty: SQLite in `home`")
    jobs_url: str = Field(
        "", description="URL of the job queue's database; empty: SQLite in `home`"
    )
    encoder: str = Field("", description="Sentence encoder; empty: the packaged MiniLM")
    context_tokens: int = Field(384, ge=0, description="Token budget of the persona context")
    context_texts: int = Field(3, ge=0, description="Most earlier texts in a persona context")
    max_message_chars: int = Field(100_000, ge=1, description="Longest request body's text")
    learning_rate: float | None = Field(
        None, gt=0, description="Of refreshes; empty: chosen by the model's width"
    )
    max_length: int = Field(2048, ge=64, description="Longest training example in tokens")
    replay_share: float = Field(
        0.5, ge=0, lt=1, description="Of the texts in training that were learnt before"
    )
    max_texts: int = Field(2000, ge=8, description="Most texts learnt from, the newest ones")
    population_texts: int = Field(
        2000, ge=8, description="Most texts that the population's adapter is trained on"
    )
    gate_tolerance: float = Field(
        0.02, ge=0, description="Rise of the held-out loss (nats per token) that is no worse"
    )
    gate_general_tolerance: float = Field(
        0.25, ge=0, description="Rise of the general set's loss (nats per token) that is no worse"
    )
    gate_word_order: float = Field(
        0.25, ge=0, description="Nats per token that learnt texts must be likelier than shuffled"
    )
    gate_confidence: float = Field(
        0.95, ge=0.5, lt=1, description="Of the intervals that tell a difference from chance"
    )
    engine_max_rank: int = Field(16, ge=1, description="Largest LoRA rank that engines serve")
    train_device: str = Field("", description="Of training, as 'cpu' or 'cuda:1'; empty: chosen")
    train_gpu: Literal["shared", "dedicated", "window"] = Field(
        "shared",
        description="How training gets a GPU: a share of the engine's memory, one of its own, or "
        "the engine's while that sleeps",
    )
    train_memory_share: float | None = Field(
        None, gt=0, lt=1, description="Of a shared GPU's memory; empty: what the engine leaves"
    )
    train_threads: int = Field(_HALF_THE_CORES, ge=1, description="CPU threads of training")
    train_niceness: int = Field(
        10, ge=0, le=19, description="How much training on a CPU steps back for the engine"
    )
    engine_memory_share: float = Field(
        0.55, gt=0, lt=1, description="Of its GPU's memory that the engine takes, if shared"
    )
    sleeping_engine_urls: tuple[str, ...] = Field(
        (), description="Engines on training's GPU, for train_gpu 'window'; empty: all"
    )
    fleet_size: int = Field(1, ge=1, description="Users whose adapters are trained together")
    worker_count: int = Field(
        1, ge=1, description="Workers that share the queue: what a night's plan reckons with"
    )
    worker_id: str = Field("worker-1", description="Names this worker among several")
    worker_lease_s: float = Field(
        60.0, ge=1, description="Silence of a worker after which others take its work over"
    )
    engine_timeout_s: float = Field(120.0, gt=0, description="Longest wait for an engine's reply")
    keep_versions: int = Field(5, ge=1, description="Adapter versions kept per user for rollback")
    adapters_disk_gb: float | None = Field(
        None, gt=0, description="GiB that all adapters may take: beyond, the oldest retired ones go"
    )
    upkeep_every_s: float = Field(
        60.0, gt=0, description="Seconds between looks at engines, leases and the disk budget"
    )

    def store_url(self) -> str:
        """SQLAlchemy URL of the store."""
        return self.database_url or f"sqlite:///{self.home.resolve() / 'attune.db'}"

    def queue_url(self) -> str:
        """URL of the database that holds jobs and schedules."""
        return self.jobs_url or f"sqlite:///{self.home.resolve() / 'jobs.db'}"

    def adapters_dir(self) -> Path:
        """Folder of all published adapters: one folder per user, one per version in it."""
        return self.home.resolve() / "adapters"
