"""The worker's process: `python -m adapt`."""

import os
import signal
import sys
import threading

from adapt.worker import Worker
from perce.errors import AttuneError
from server.logs import configure_logs
from server.settings import Settings


def main() -> None:
    """Run until SIGTERM or SIGINT."""
    configure_logs()
    settings = Settings()
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    worker = Worker(settings)
    try:
        worker.start()
    except AttuneError as error:
        sys.exit(f"The worker cannot start. {error}")
    ready = settings.home / "run" / "worker.ready"
    ready.parent.mkdir(parents=True, exist_ok=True)
    ready.touch()
    stopping.wait()
    ready.unlink(missing_ok=True)
    worker.stop()
    # An orderly exit would wait for the end of the training, which others may have taken over.
    os._exit(0)


if __name__ == "__main__":
    main()
