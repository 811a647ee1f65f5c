"""A stack that a test has for itself, so that it may kill its services as often as it likes."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from free_ports import free_ports
from running_stack import Stack

from scripts.attune.up.home import Home
from scripts.attune.up.model import choose_model
from scripts.attune.up.services import Addresses, services
from scripts.attune.up.supervisor import Event, RestartPolicy, Supervisor

# `attune up` gives up on a service that dies again and again, which is what these tests are for.
NEVER_GIVE_UP = RestartPolicy(first_wait_s=0.2, longest_wait_s=0.5, most_deaths=10_000)


@contextmanager
def private_stack(folder: Path, environment: Mapping[str, str]) -> Iterator[Stack]:
    """Run engine, gateway and worker under the supervisor of `attune up`, without demo users.

    Args:
        folder: The installation's home.
        environment: Settings of gateway and worker beside the usual ones.
    """
    home = Home(folder)
    addresses = Addresses("127.0.0.1", *free_ports(3))
    kept = [
        replace(service, environment={**service.environment, **environment})
        for service in services(home, choose_model(None, gpu=False), addresses, gpu=False)
        if service.name != "ui"
    ]
    events: list[Event] = []
    supervisor = Supervisor(kept, home.logs, events.append, NEVER_GIVE_UP)
    started, stopping = threading.Event(), threading.Event()
    broken: list[BaseException] = []

    def keep_running() -> None:
        # The kernel ends a service with the thread that started it: one thread does it all.
        try:
            supervisor.start()
            started.set()
            supervisor.watch(until=stopping.is_set)
        except BaseException as error:
            broken.append(error)
        finally:
            started.set()
            supervisor.stop()

    thread = threading.Thread(target=keep_running)
    thread.start()
    started.wait()
    try:
        if not broken:
            yield Stack(
                gateway_url=addresses.gateway,
                ui_url=addresses.ui,
                engine_url=addresses.engine,
                admin_key=home.key("admin"),
                engine_key=home.key("engine"),
                home=home.folder,
            )
    finally:
        stopping.set()
        thread.join()
    if broken:
        raise broken[0]
