"""What can be known to fail before anything is started."""

import errno
import os
import shutil
import socket
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import psutil

from scripts.attune.up.errors import BadOptionError, LittleDiskError, PortTakenError
from scripts.attune.up.services import Addresses

NEEDED_GB = 1.0


def check_disk(folder: Path, needed_gb: float = NEEDED_GB) -> None:
    """Check that the folder's disk has room.

    Raises:
        LittleDiskError: It has too little.
    """
    free_gb = shutil.disk_usage(folder).free / 1e9
    if free_gb < needed_gb:
        raise LittleDiskError(folder, free_gb, needed_gb)


def check_ports(addresses: Addresses) -> None:
    """Check that every service can bind to its port.

    Raises:
        PortTakenError: Another program listens there.
        BadOptionError: Two services were given the same port, or the host is not this machine's.
    """
    wanted = {
        "gateway": (addresses.host, addresses.gateway_port, "--port"),
        "UI": (addresses.host, addresses.ui_port, "--ui-port"),
        "engine": ("127.0.0.1", addresses.engine_port, "--engine-port"),
    }
    ports = [port for _, port, _ in wanted.values()]
    if len(set(ports)) < len(ports):
        raise BadOptionError(
            f"Gateway, UI and engine need three different ports and were given {ports}: "
            "change --port, --ui-port or --engine-port."
        )
    for service, (host, port, option) in wanted.items():
        _check_port(service, host, port, option)


def check_report(report: Path) -> None:
    """Check that a report can be written, before minutes of work go into it.

    Raises:
        BadOptionError: It cannot.
    """
    there = os.path.lexists(report)
    try:
        # By opening it: modes do not tell what a read-only disk, or a name, makes impossible.
        with report.open("a"):
            pass
    except OSError as error:
        raise BadOptionError(
            f"--report {report} can't be written ({error.strerror}): name a file that can, in a "
            "folder that exists."
        ) from None
    if not there:
        report.unlink()


def _check_port(service: str, host: str, port: int, option: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # As servers do: a connection that is closing does not hold the port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise PortTakenError(port, service, option, _holder(port)) from None
            raise BadOptionError(
                f"The {service} can't listen on {host}:{port} ({error.strerror}): choose an "
                f"address of this machine with --host, or another port with {option}."
            ) from None


def _holder(port: int) -> str | None:
    try:
        return listener(port, psutil.net_connections("tcp"))
    except psutil.Error:
        return None


def listener(port: int, connections: Iterable[Any]) -> str | None:
    """Name the program that listens on a port, as far as this user may see.

    Args:
        port: The port.
        connections: As psutil lists them; those of other users have no process id.

    Raises:
        psutil.Error: The program has ended meanwhile.
    """
    for connection in connections:
        if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port:
            if connection.pid is None:
                return None
            process = psutil.Process(connection.pid)
            return f"{process.name()} (process {process.pid})"
    return None
