"""What is on this machine is reached past the proxy that the environment names."""

import asyncio
from dataclasses import dataclass, field

import pytest
from local_server import LocalServer, Request, Response

from scripts.attune.up.process import answers
from server.engine import Engine
from ui.transport import GatewayError, Transport


@dataclass
class Anything(LocalServer):
    """Answers everything, and notes what for."""

    asked: list[str] = field(default_factory=list)

    def respond(self, request: Request) -> Response:
        self.asked.append(request.path)
        return Response(b"{}")


def name_proxy(environment: pytest.MonkeyPatch, url: str) -> None:
    for name in ("no_proxy", "NO_PROXY", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        environment.delenv(name, raising=False)
    environment.setenv("http_proxy", url)


@pytest.fixture
def nothing_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy that does not answer."""
    name_proxy(monkeypatch, "http://127.0.0.1:1")


@pytest.mark.usefixtures("nothing_there")
def test_services_are_probed_past_it() -> None:
    with Anything() as service:
        assert answers(service.url, "/healthz")()
    assert service.asked == ["/healthz"]


@pytest.mark.usefixtures("nothing_there")
def test_engines_are_asked_past_it() -> None:
    async def check(url: str) -> None:
        engine = Engine(url)
        await engine.check()
        await engine.close()

    with Anything() as service:
        asyncio.run(check(service.url))
    assert service.asked == ["/health"]


@pytest.mark.usefixtures("nothing_there")
def test_a_gateway_on_this_machine_is_asked_past_it() -> None:
    with Anything() as service:
        transport = Transport(service.url, "", 5.0)
        assert transport.json("GET", "/readyz") == {}
        transport.close()
    assert service.asked == ["/readyz"]


def test_another_machines_gateway_is_asked_through_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with Anything() as proxy:
        name_proxy(monkeypatch, proxy.url)
        transport = Transport("http://gateway.invalid:8000", "", 5.0)
        assert transport.json("GET", "/readyz") == {}
        transport.close()
    assert proxy.asked == ["http://gateway.invalid:8000/readyz"]


def test_an_address_that_is_none_is_still_one_sentence() -> None:
    with pytest.raises(GatewayError, match="is no address"):
        Transport("http://[::1", "", 5.0)
