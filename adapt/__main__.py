"""The worker's process: `python -m adapt`."""

import signal
import threading

from adapt.worker import Worker
from server.settings import Settings


def main() -> None:
    """Run until SIGTERM or SIGINT."""
    settings = Settings()
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    worker = Worker(settings)
    worker.start()
    ready = settings.home / "run" / "worker.ready"
    ready.parent.mkdir(parents=True, exist_ok=True)
    ready.touch()
    stopping.wait()
    ready.unlink(missing_ok=True)
    worker.stop()


if __name__ == "__main__":
    main()
