"""`attune up`: the whole installation on one machine, from one command."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from scripts.attune.up.demo import load_personas, read_personas
from scripts.attune.up.display import Display, RefreshBar
from scripts.attune.up.errors import BadOptionError, MainJobError, MainJobInterruptedError
from scripts.attune.up.home import Home
from scripts.attune.up.model import Model, choose_model, has_gpu
from scripts.attune.up.once import Measured, Question, run_main_job
from scripts.attune.up.preflight import check_disk, check_ports, check_report
from scripts.attune.up.process import ROOT
from scripts.attune.up.report import show_report, write_report
from scripts.attune.up.services import Addresses, services
from scripts.attune.up.supervisor import Supervisor
from scripts.attune.up.task import done_meanwhile
from ui.gateway import Gateway

_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
MAX_PORT = 65_535


def up(
    once: Annotated[
        bool, typer.Option("--once", help="Run the main job without a person, then stop.")
    ] = False,
    report: Annotated[
        Path | None, typer.Option(help="With --once: write what was measured to this JSON file.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            envvar="ATTUNE_MODEL",
            help="Hugging Face name or folder; else the reference model, or Qwen3-4B on a GPU.",
        ),
    ] = None,
    home: Annotated[
        Path, typer.Option(envvar="ATTUNE_HOME", help="Folder of the installation's state.")
    ] = ROOT / ".attune",
    host: Annotated[
        str,
        typer.Option(
            envvar="ATTUNE_HOST",
            help="Address that gateway and UI bind to; elsewhere than on 127.0.0.1 the UI asks for "
            "the admin key. Neither speaks TLS: put a proxy in front of them.",
        ),
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(envvar="ATTUNE_PORT", min=1, max=MAX_PORT, help="Port of the gateway.")
    ] = 8000,
    ui_port: Annotated[int, typer.Option(min=1, max=MAX_PORT, help="Port of the UI.")] = 7860,
    engine_port: Annotated[
        int, typer.Option(min=1, max=MAX_PORT, help="Port of the engine, on loopback.")
    ] = 8001,
) -> None:
    """Start engine, gateway, worker and UI, and keep them running until Ctrl-C."""
    if report is not None and not once:
        raise BadOptionError("--report is what --once writes: add --once, or leave it out.")
    if report is not None:
        check_report(report)
    gpu = has_gpu()
    chosen = choose_model(model, gpu)
    addresses = Addresses(host, port, ui_port, engine_port)
    place = Home(home)
    with place.locked(f"process {os.getpid()}, {addresses.gateway}"):
        check_disk(place.folder)
        check_ports(addresses)
        installation = Installation(place, chosen, addresses, gpu)
        if once:
            installation.run_once(report)
        else:
            installation.run()


class Installation:
    """One run of all services.

    Args:
        home: The folder of its state, locked.
        model: What the engine serves.
        addresses: Where the services listen.
        gpu: Whether the engine has a GPU.
    """

    def __init__(self, home: Home, model: Model, addresses: Addresses, gpu: bool) -> None:
        self._home = home
        self._model = model
        self._addresses = addresses
        self._gpu = gpu
        self._console = Console()
        self._display = Display(self._console)
        self._services = services(home, model, addresses, gpu)
        self._supervisor = Supervisor(self._services, home.logs, self._display.event)

    def run(self) -> None:
        """Start, tell how to use it, and keep it running until Ctrl-C or SIGTERM."""
        with _signals_interrupt():
            try:
                self._start()
                self._print_welcome()
                self._supervisor.watch(until=lambda: False)
            except KeyboardInterrupt:
                self._display.note("stopping")
            finally:
                self._stop()

    def run_once(self, report: Path | None) -> None:
        """Start, run the main job, report, stop.

        Raises:
            MainJobError: Something did not hold.
        """
        with _signals_interrupt():
            try:
                seconds = self._start()
                measured = Measured(
                    install_s=float(os.environ.get("ATTUNE_INSTALL_S", "0")),
                    engine_start_s=seconds["engine"],
                    exact=not self._gpu,
                )
                with self._gateway() as gateway, RefreshBar(self._console) as bar:
                    job = done_meanwhile(
                        self._supervisor,
                        lambda leave: run_main_job(gateway, Question(), measured, bar.show, leave),
                    )
            except KeyboardInterrupt:
                raise MainJobInterruptedError() from None
            finally:
                self._stop()
        show_report(self._console, job)
        if report is not None:
            write_report(report, job.as_json())
        if failures := job.failures():
            raise MainJobError(f"The main job does not hold: {'; '.join(failures)}.")
        self._display.note("\nThe main job holds.")

    def _start(self) -> dict[str, float]:
        """Start all services and load the demo personas; returns the services' start times."""
        with self._display.starting([service.name for service in self._services]):
            seconds = self._supervisor.start()
        if not self._home.demo_loaded.exists():
            with self._gateway() as gateway:
                done_meanwhile(self._supervisor, lambda _: self._load_personas(gateway))
        return seconds

    def _stop(self) -> None:
        # A second Ctrl-C must not leave half of the services behind; the grace is short.
        for number in _STOP_SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        self._supervisor.stop()

    def _load_personas(self, gateway: Gateway) -> None:
        with self._console.status("loading the demo personas"):
            load_personas(
                gateway,
                read_personas(),
                lambda persona: self._display.note(f"{persona.name}: {persona.tagline}"),
            )
        self._home.demo_loaded.touch()

    def _gateway(self) -> Gateway:
        return Gateway(self._addresses.gateway, self._home.key("admin"))

    def _print_welcome(self) -> None:
        key = self._home.key("admin")
        rows = (
            ("UI", self._addresses.ui),
            ("Gateway", f"{self._addresses.gateway}/v1  (OpenAI's API)"),
            ("Model", self._model.name),
            ("Key", f"{key}  (manages users; also in {self._home.folder / 'admin.key'})"),
            ("Logs", str(self._home.logs)),
        )
        self._console.print()
        for name, value in rows:
            self._console.print(Text(f"{name:<9}{value}"), soft_wrap=True)
        self._console.print(Text("\nTry:", style="dim"))
        self._console.print(Text(self._curl(key)), soft_wrap=True)
        self._console.print(Text("\nCtrl-C stops everything.", style="dim"))

    def _curl(self, key: str) -> str:
        question = Question()
        body = (
            f'{{"model": "{self._model.name}", "user": "{question.user}", '
            f'"messages": [{{"role": "user", "content": "{question.query}"}}]}}'
        )
        return (
            f"curl {self._addresses.gateway}/v1/chat/completions "
            f"-H 'Authorization: Bearer {key}' "
            f"-H 'Content-Type: application/json' -d '{body}'"
        )


@contextmanager
def _signals_interrupt() -> Iterator[None]:
    """SIGTERM and SIGHUP end this process in order, as Ctrl-C does."""
    before = {number: signal.signal(number, _interrupt) for number in _STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
