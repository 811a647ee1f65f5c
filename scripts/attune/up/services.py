"""The four services of one installation, with the environment that each reads."""

import sys
from dataclasses import dataclass

from scripts.attune.up.engine import GpuUse, engine_service
from scripts.attune.up.home import Home
from scripts.attune.up.model import Model
from scripts.attune.up.process import Service, answers
from server.settings import Settings


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where the services listen; the engine always on loopback."""

    host: str
    gateway_port: int
    ui_port: int
    engine_port: int

    @property
    def reachable_host(self) -> str:
        """A name under which this machine reaches what binds to `host`."""
        return {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(self.host, self.host)

    @property
    def gateway(self) -> str:
        """Base address of the gateway."""
        return f"http://{self.reachable_host}:{self.gateway_port}"

    @property
    def ui(self) -> str:
        """Address of the UI."""
        return f"http://{self.reachable_host}:{self.ui_port}"

    @property
    def engine(self) -> str:
        """Base address of the engine."""
        return f"http://127.0.0.1:{self.engine_port}"


def services(home: Home, model: Model, addresses: Addresses, gpu: bool) -> list[Service]:
    """Engine, gateway, worker and UI, ready to be started together.

    Raises:
        BadOptionError: The settings give engine and training what they cannot both have.
    """
    admin_key, engine_key = home.key("admin"), home.key("engine")
    offline = {"HF_HUB_OFFLINE": "1"} if model.local else {}
    shared = {
        "ATTUNE_HOME": str(home.folder),
        "ATTUNE_MODEL": model.source,
        "ATTUNE_HOST": addresses.host,
        "ATTUNE_PORT": str(addresses.gateway_port),
        "ATTUNE_ENGINE_URLS": f'["{addresses.engine}"]',
        "ATTUNE_ENGINE_KEY": engine_key,
        "ATTUNE_ADMIN_KEY": admin_key,
        "DO_NOT_TRACK": "1",
        "PYTHONUNBUFFERED": "1",
        # A thread that waits must sleep: engine, training and retrieval share the cores.
        "OMP_WAIT_POLICY": "PASSIVE",
    } | offline
    ui = {
        "ATTUNE_GATEWAY_URL": addresses.gateway,
        "ATTUNE_KEY": admin_key,
        "ATTUNE_UI_HOST": addresses.host,
        "ATTUNE_UI_PORT": str(addresses.ui_port),
        "GRADIO_ANALYTICS_ENABLED": "False",
        "PYTHONUNBUFFERED": "1",
    }
    run = (sys.executable, "-m")
    settings = Settings()
    use = GpuUse.of(settings) if gpu else None
    return [
        engine_service(model, addresses.engine_port, engine_key, settings.engine_max_rank, use),
        Service("gateway", (*run, "server"), shared, answers(addresses.gateway, "/healthz")),
        Service(
            "worker",
            (*run, "adapt"),
            shared,
            home.worker_ready.exists,
            clear=(home.worker_ready,),
        ),
        Service("ui", (*run, "ui"), ui, answers(addresses.ui, "/")),
    ]
