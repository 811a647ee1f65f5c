"""The gateway's process: `python -m server`."""

import uvicorn

from perce.retrieval import Encoder
from perce.tokens import ChatTokenizer
from server.app import create_app
from server.engine import connect_engines
from server.logs import configure_logs
from server.services import Services
from server.settings import Settings


def main() -> None:
    """Serve until stopped."""
    configure_logs()
    settings = Settings()
    services = Services.build(
        settings,
        connect_engines(settings),
        ChatTokenizer.load(settings.model),
        Encoder(settings.encoder),
    )
    uvicorn.run(create_app(services), host=settings.host, port=settings.port, access_log=False)


if __name__ == "__main__":
    main()
