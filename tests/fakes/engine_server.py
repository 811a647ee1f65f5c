"""The scripted engine on a real port, for processes that talk to an engine over HTTP."""

import threading
from dataclasses import dataclass
from typing import ClassVar

import httpx
from local_server import LocalServer, Request, Response
from scripted_engine import ScriptedEngine


@dataclass
class EngineServer(LocalServer):
    """Serves a scripted engine from `with` to its end."""

    engine: ScriptedEngine
    protocol: ClassVar[str] = "HTTP/1.1"

    def __post_init__(self) -> None:
        self._transport = self.engine.transport()
        self._one_at_a_time = threading.Lock()  # The ids of its replies count its requests.

    def respond(self, request: Request) -> Response:
        asked = httpx.Request(request.method, f"http://engine{request.path}", content=request.body)
        with self._one_at_a_time:
            answer = self._transport.handle_request(asked)
        kind = answer.headers.get("content-type", "text/plain")
        return Response(answer.read(), answer.status_code, kind)
