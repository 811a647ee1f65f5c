"""A tiny chat model, made on the spot (a byte-level BPE tokenizer and a random Qwen3); a store, a
registry and a gateway with a user in a folder of the test's own."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from fastapi.testclient import TestClient
from gateway_command import GatewayCommand
from pydantic import SecretStr
from scripted_engine import ScriptedEngine, WordEncoder
from scripted_gateway import ScriptedGateway
from shared_workshop import SharedWorkshop
from shelf import Shelf
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from perce.model import load_model
from perce.retrieval import Encoder
from perce.tokens import ChatTokenizer
from server import adapter_store, pointer, registry
from server.app import create_app
from server.context import ContextSource
from server.engine import Engine
from server.services import Services
from server.settings import Settings
from server.store.database import Database
from server.store.tables.adapters import Adapter
from server.store.users import find_user

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message.role not in ['system', 'user', 'assistant', 'tool'] %}"
    "{{ raise_exception('Unknown role ' + message.role) }}{% endif %}"
    "<|im_start|>{{ message.role }}\n{{ message.content }}"
    "{% for call in message.tool_calls or [] %}"
    "\n{{ call.function.name }}({{ call.function.arguments.items() | list }}){% endfor %}"
    "<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CORPUS = [
    "I love paddling out at Malibu before work, the waves are soft and the café opens at 7.",
    "My sister's dog hates thunder; honestly, so do I! Grüße, naïve façade, ¿qué tal?",
    "system user assistant About the user: Texts the user wrote before: Hello 😀🎉 日本語",
]


def _save_tokenizer(folder: Path) -> None:
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=384,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(CORPUS * 3, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>", "<|im_end|>"],
        chat_template=CHAT_TEMPLATE,
    )
    tokenizer.save_pretrained(str(folder))


@pytest.fixture(scope="session")
def tiny_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random two-layer Qwen3 (hidden size 32) and its tokenizer."""
    folder = tmp_path_factory.mktemp("tiny-qwen3")
    _save_tokenizer(folder)
    config = Qwen3Config(
        vocab_size=384,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        initializer_range=0.2,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Qwen3ForCausalLM(config)
    # The order is a trap: the first id is not the one that ends a reply.
    model.generation_config = GenerationConfig(eos_token_id=[0, 2], pad_token_id=0)
    model.save_pretrained(str(folder))
    return folder


@pytest.fixture(scope="session")
def chat_tokenizer(tiny_model_dir: Path) -> ChatTokenizer:
    return ChatTokenizer.load(str(tiny_model_dir))


@pytest.fixture
def tiny_model(tiny_model_dir: Path) -> Iterator[PreTrainedModel]:
    yield load_model(str(tiny_model_dir), device="cpu")


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = Database(f"sqlite:///{tmp_path / 'attune.db'}")
    opened.migrate(tmp_path)
    yield opened
    opened.close()


@pytest.fixture
def shelf(tmp_path: Path) -> Iterator[Shelf]:
    made = Shelf(tmp_path)
    yield made
    made.database.close()


@pytest.fixture
def workshop(
    tmp_path: Path, chat_tokenizer: ChatTokenizer, scripted_engine: ScriptedEngine
) -> SharedWorkshop:
    """Where refreshes, of people and of the population, run through the real durable queue."""
    return SharedWorkshop(tmp_path, chat_tokenizer, scripted_engine)


@pytest.fixture
def services(
    tmp_path: Path,
    scripted_engine: ScriptedEngine,
    reference_tokenizer: ChatTokenizer,
    word_encoder: Encoder,
) -> Services:
    settings = Settings(home=tmp_path, admin_key=SecretStr("attune-admin"))
    engine = Engine("http://engine", transport=scripted_engine.transport())
    return Services.build(settings, (engine,), reference_tokenizer, word_encoder)


@pytest.fixture
def gateway(services: Services) -> Iterator[TestClient]:
    headers = {"Authorization": "Bearer attune-admin"}
    with TestClient(create_app(services), headers=headers, raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
def mina(gateway: TestClient) -> str:
    """A user with a fact and texts; returns her key."""
    key: str = gateway.post("/v1/users", json={"name": "mina"}).json()["key"]
    gateway.post("/v1/users/mina/facts", json={"text": "i have a sourdough named gerald."})
    rows = [{"query": f"post {i}", "text": f"bread number {i}", "order": i} for i in range(8)]
    body = "\n".join(json.dumps(row) for row in rows)
    assert gateway.post("/v1/users/mina/history", content=body).json()["imported"] == 8
    return key


@pytest.fixture
def source(services: Services, mina: str) -> Callable[[WordEncoder], ContextSource]:
    """Makes another gateway's source of contexts over the same store."""

    def made(encoder: WordEncoder) -> ContextSource:
        return ContextSource(services.database, encoder, services.settings, services.tokenizer)

    return made


@pytest.fixture
def publish(services: Services, mina: str, tmp_path: Path) -> Callable[[], Adapter]:
    """Publishes the next version of mina's adapter."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "adapter_config.json").write_text("{}")

    def published() -> Adapter:
        with services.database.write() as session:
            user = find_user(session, "mina")
            base = services.damage.base.fingerprint
            provenance = registry.Provenance(base, "perce", None)
            added = registry.add_candidate(
                session, user, provenance, {}, services.settings.adapters_dir()
            )
            files = adapter_store.place(source, Path(added.folder))
            registry.attach_files(session, added.id, files.checksums, files.size_bytes)
            pointer.promote(session, added.id)
        return added

    return published


@pytest.fixture
def adapter(publish: Callable[[], Adapter]) -> Adapter:
    """An active adapter version of mina's."""
    return publish()


@pytest.fixture
def fake_gateway() -> Iterator[ScriptedGateway]:
    with ScriptedGateway() as gateway:
        yield gateway


@pytest.fixture
def attune(fake_gateway: ScriptedGateway, capsys: pytest.CaptureFixture[str]) -> GatewayCommand:
    return GatewayCommand(fake_gateway.url, capsys)
