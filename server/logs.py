"""How gateway and worker log: one line an event, and tracebacks without values of variables.

Variables hold what people wrote, and keys; structlog's own tracebacks show them.
"""

import structlog


def configure_logs() -> None:
    """Set up logging for this process; call it once, at its entry point."""
    *others, _console = structlog.get_config()["processors"]
    console = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    structlog.configure(processors=[*others, console])
