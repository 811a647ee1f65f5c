"""An HTTP server in a thread, on this machine, for fakes that processes talk to over HTTP.

What it answers is its subclasses' affair.
"""

import json
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar, Self

POLL_S = 0.02
"""How long the end of a server takes at most."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request; its path is with its query."""

    method: str
    path: str
    headers: Message
    body: bytes

    def json(self) -> Any:  # noqa: ANN401 - JSON
        return json.loads(self.body)


@dataclass(frozen=True, slots=True)
class Response:
    """One response; a body in pieces is sent piece by piece, as they come."""

    body: bytes | Iterable[bytes]
    status: int = 200
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)


class LocalServer(ABC):
    """Serves from `with` to its end.

    Attributes:
        port: Where to listen; 0 for any free port.
        url: The address, once it serves.
        base_path: What the address ends in.
        protocol: Under `HTTP/1.1` connections stay open between requests.
    """

    port: int = 0
    url: str = ""
    base_path: ClassVar[str] = ""
    protocol: ClassVar[str] = "HTTP/1.0"

    @abstractmethod
    def respond(self, request: Request) -> Response:
        """Answer one request, in a thread of its own."""

    def __enter__(self) -> Self:
        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), _handler(self))
        self.url = f"http://127.0.0.1:{self._server.server_port}{self.base_path}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(POLL_S,))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def _handler(server: LocalServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = server.protocol

        def _serve(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self._send(server.respond(Request(self.command, self.path, self.headers, body)))

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _serve

        def _send(self, response: Response) -> None:
            pieces = [response.body] if isinstance(response.body, bytes) else response.body
            self.send_response(response.status)
            self.send_header("Content-Type", response.content_type)
            if isinstance(response.body, bytes):
                self.send_header("Content-Length", str(len(response.body)))
            for name, value in response.headers.items():
                self.send_header(name, value)
            self.end_headers()
            for piece in pieces:
                self.wfile.write(piece)

        def log_message(self, format: str, *_: object) -> None:
            """Keep the tests' output free of access logs."""

    return Handler
