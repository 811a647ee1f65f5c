"""Fixtures of the tests against real services."""

from collections.abc import Callable

import pytest


@pytest.fixture
def report(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Says something in the terminal while the tests run: the figures that a test measured."""
    terminal = request.config.pluginmanager.getplugin("terminalreporter")

    def write(line: str) -> None:
        terminal.ensure_newline()
        terminal.write_line(f"{request.node.name}: {line}")

    return write
