"""What `attune up` checks before it starts anything."""

import json
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from free_ports import free_ports
from typer.testing import CliRunner

from scripts.attune.main import app
from scripts.attune.up.engine import GpuUse, engine_service, engine_threads
from scripts.attune.up.errors import (
    AlreadyRunningError,
    BadModelError,
    BadOptionError,
    LittleDiskError,
    PortTakenError,
)
from scripts.attune.up.home import Home
from scripts.attune.up.model import GPU_MODEL, REFERENCE_NAME, Model, choose_model
from scripts.attune.up.preflight import check_disk, check_ports, check_report, listener
from scripts.attune.up.services import Addresses, services
from server.settings import REFERENCE_MODEL, Settings


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


@pytest.fixture
def model_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"max_position_embeddings": 40_960}))
    (folder / "model.safetensors").touch()
    (folder / "tokenizer.json").touch()
    return folder


def test_a_port_in_use_is_named_with_its_holder_and_its_option(taken_port: int) -> None:
    gateway, engine = free_ports(2)
    with pytest.raises(PortTakenError) as failure:
        check_ports(Addresses("127.0.0.1", gateway, taken_port, engine))
    said = str(failure.value)
    assert said.startswith(f"Port {taken_port}, where the UI belongs, is in use by ")
    assert f"(process {os.getpid()})" in said
    assert said.endswith("--ui-port.")


def test_free_ports_pass() -> None:
    check_ports(Addresses("127.0.0.1", *free_ports(3)))


def test_two_services_on_one_port_are_refused() -> None:
    port, other = free_ports(2)
    with pytest.raises(BadOptionError, match="three different ports"):
        check_ports(Addresses("127.0.0.1", port, port, other))


def test_an_address_of_another_machine_is_refused() -> None:
    with pytest.raises(BadOptionError, match=r"can't listen on 192\.0\.2\.77"):
        check_ports(Addresses("192.0.2.77", *free_ports(3)))


def test_little_disk_is_refused(tmp_path: Path) -> None:
    check_disk(tmp_path, 0.001)
    with pytest.raises(LittleDiskError, match="Attune needs 1000000000"):
        check_disk(tmp_path, 1e9)


def test_a_report_needs_a_folder(tmp_path: Path) -> None:
    check_report(tmp_path / "r.json")
    assert not (tmp_path / "r.json").exists(), "the check left a file behind"
    for bad in (tmp_path, tmp_path / "none" / "r.json"):
        with pytest.raises(BadOptionError, match="can't be written"):
            check_report(bad)


def test_a_report_needs_a_file_that_can_be_written(tmp_path: Path) -> None:
    with pytest.raises(BadOptionError, match=r"can't be written \(File name too long\)"):
        check_report(tmp_path / ("r" * 300))
    earlier = tmp_path / "r.json"
    earlier.write_text("earlier")
    check_report(earlier)
    assert earlier.read_text() == "earlier"


def test_another_users_listener_has_no_name() -> None:
    hidden = SimpleNamespace(status=psutil.CONN_LISTEN, laddr=SimpleNamespace(port=8000), pid=None)
    own = SimpleNamespace(status=hidden.status, laddr=SimpleNamespace(port=8001), pid=os.getpid())
    assert listener(8000, [hidden, own]) is None
    assert f"(process {os.getpid()})" in (listener(8001, [hidden, own]) or "")
    assert listener(8002, [hidden, own]) is None


@pytest.mark.parametrize("option", ["--port", "--ui-port", "--engine-port"])
@pytest.mark.parametrize("port", ["-1", "0", "65536"])
def test_a_port_that_is_none_is_a_usage_error(option: str, port: str) -> None:
    # Without --once, --report is refused before anything starts.
    ran = CliRunner().invoke(app, ["up", "--report", "r.json", option, port])
    assert ran.exit_code == 2
    assert option in ran.output


def test_keys_are_made_once_and_are_the_owners_alone(tmp_path: Path) -> None:
    key = Home(tmp_path / "home").key("admin")
    assert Home(tmp_path / "home").key("admin") == key
    assert key.startswith("attune-") and len(key) == len("attune-") + 40
    assert key != Home(tmp_path / "home").key("engine")
    file = tmp_path / "home" / "admin.key"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "home").stat().st_mode) == 0o700


def test_a_second_up_on_the_same_home_is_refused(tmp_path: Path) -> None:
    with (
        Home(tmp_path).locked("process 7, http://127.0.0.1:8000"),
        pytest.raises(AlreadyRunningError, match=r"already runs on .* \(process 7, http://127"),
        Home(tmp_path).locked("process 8"),
    ):
        pytest.fail("two hold the same folder")
    with Home(tmp_path).locked("process 9"):
        assert (tmp_path / "run" / "up.lock").read_text() == "process 9"


def test_a_folder_is_served_under_its_name_with_its_own_length_capped(model_folder: Path) -> None:
    model = choose_model(str(model_folder), gpu=False)
    assert model == Model(str(model_folder), "mine", local=True, max_length=8_192)
    assert choose_model(str(model_folder), gpu=True).max_length == 32_768


def test_the_defaults_are_the_reference_model_and_qwen3_on_a_gpu() -> None:
    reference = choose_model(None, gpu=False)
    assert (reference.name, reference.source) == (REFERENCE_NAME, str(REFERENCE_MODEL))
    assert reference.max_length == 2_048
    assert choose_model(None, gpu=True) == Model(GPU_MODEL, GPU_MODEL, False, None)


@pytest.mark.parametrize(
    ("missing", "reason"),
    [
        ("config.json", "no config.json"),
        ("model.safetensors", "no weights"),
        ("tokenizer.json", "no tokenizer"),
    ],
)
def test_half_a_model_folder_is_refused(model_folder: Path, missing: str, reason: str) -> None:
    (model_folder / missing).unlink()
    with pytest.raises(BadModelError, match=reason):
        choose_model(str(model_folder), gpu=False)


@pytest.mark.parametrize("named", ["/no/such/folder", "./none", "qwen", "a b/c"])
def test_what_is_neither_folder_nor_name_is_refused(named: str) -> None:
    with pytest.raises(BadModelError, match="no such folder"):
        choose_model(named, gpu=False)


def test_no_key_stands_on_a_command_line(tmp_path: Path, model_folder: Path) -> None:
    home = Home(tmp_path / "home")
    model = choose_model(str(model_folder), gpu=False)
    started = services(home, model, Addresses("0.0.0.0", 8000, 7860, 8001), gpu=False)
    assert [service.name for service in started] == ["engine", "gateway", "worker", "ui"]
    secrets = {home.key("admin"), home.key("engine")}
    assert not any(secret in word for s in started for word in s.command for secret in secrets)
    engine, gateway, _, ui = (service.environment for service in started)
    assert engine["VLLM_API_KEY"] == gateway["ATTUNE_ENGINE_KEY"] == home.key("engine")
    assert ui["ATTUNE_KEY"] == gateway["ATTUNE_ADMIN_KEY"] == home.key("admin")
    assert ui["ATTUNE_GATEWAY_URL"] == "http://127.0.0.1:8000"
    assert "ATTUNE_ENGINE_KEY" not in ui


def test_the_engine_computes_in_float32_without_a_gpu_and_fetches_only_by_name() -> None:
    local = engine_service(Model("/m", "m", True, 2_048), 8001, "k", 16, gpu=None)
    assert "float32" in local.command and "--enforce-eager" in local.command
    assert local.environment["HF_HUB_OFFLINE"] == "1"
    fetched = engine_service(Model("a/b", "a/b", False, None), 8001, "k", 16, gpu=GpuUse(0.55))
    assert "float32" not in fetched.command and "--enforce-eager" not in fetched.command
    assert "HF_HUB_OFFLINE" not in fetched.environment
    assert fetched.command[fetched.command.index("--max-model-len") + 1] == "auto"


@pytest.mark.parametrize(
    ("settings", "use"),
    [
        ({}, GpuUse(0.55)),
        ({"engine_memory_share": 0.3}, GpuUse(0.3)),
        ({"train_gpu": "dedicated", "train_device": "cuda:1"}, GpuUse(0.9)),
        ({"train_gpu": "window"}, GpuUse(0.9, sleeps=True)),
    ],
)
def test_the_engine_leaves_training_its_part_of_the_gpu(
    settings: dict[str, object], use: GpuUse
) -> None:
    assert GpuUse.of(Settings.model_validate(settings)) == use
    service = engine_service(Model("/m", "m", True, 2_048), 8001, "k", 32, use)
    at = service.command.index("--gpu-memory-utilization")
    assert service.command[at + 1] == f"{use.memory_share:g}"
    assert service.command[service.command.index("--max-lora-rank") + 1] == "32"
    assert ("--enable-sleep-mode" in service.command) == use.sleeps
    assert service.environment.get("VLLM_SERVER_DEV_MODE") == ("1" if use.sleeps else None)


def test_the_engine_s_gpu_is_not_given_to_training_alone() -> None:
    settings = Settings(train_gpu="dedicated", train_device="cuda:0")
    with pytest.raises(BadOptionError, match="cuda:1"):
        GpuUse.of(settings)


@pytest.mark.parametrize("cores", [1, 2, 3, 4, 8, 64])
def test_the_engine_has_more_threads_than_training(cores: int) -> None:
    assert engine_threads(cores) > max(1, cores // 2)
