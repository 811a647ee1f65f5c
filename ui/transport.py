"""JSON over HTTP to the gateway, and one clear sentence where that fails.

Retries are not its business: a person is waiting, and sees the gateway's message at once.
"""

import json
from collections.abc import Iterator
from typing import Any

import httpx

from ui.login import is_loopback

CONNECT_TIMEOUT_S = 5.0


class GatewayError(Exception):
    """The gateway refused a request, could not be reached, or is not Attune's.

    Attributes:
        message: What happened and what to do, in the gateway's words where it answered.
        status: The HTTP status; None where no answer came.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.status = status


class Transport:
    """The connection to one address with one key.

    Args:
        url: The gateway's base address.
        key: Sent as a bearer token; none is sent where it is empty.
        timeout_s: Longest silence within a request; None waits for as long as it takes.
        inner: Replaces the network; for tests.

    Raises:
        GatewayError: Address or key cannot be used. Every method raises it too.
    """

    def __init__(
        self,
        url: str,
        key: str,
        timeout_s: float | None,
        inner: httpx.BaseTransport | None = None,
    ) -> None:
        self.url = url.rstrip("/")
        try:
            self._http = httpx.Client(
                base_url=self.url,
                headers={"Authorization": f"Bearer {key}"} if key else {},
                timeout=httpx.Timeout(timeout_s, connect=CONNECT_TIMEOUT_S),
                transport=inner,
                # A proxy of the environment cannot reach what is on this machine alone.
                trust_env=not is_loopback(httpx.URL(self.url).host),
            )
        except httpx.InvalidURL as error:
            raise GatewayError(
                f"{url!r} is no address: use one such as http://127.0.0.1:8000."
            ) from error
        except UnicodeEncodeError as error:
            raise GatewayError("The key holds a letter that no key has: copy it again.") from error

    def close(self) -> None:
        """Close all connections."""
        self._http.close()

    def request(self, method: str, path: str, **content: Any) -> httpx.Response:  # noqa: ANN401
        """Send a request; `content` is httpx's `json`, `content` or `params`."""
        try:
            response = self._http.request(method, path, **content)
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error
        if response.is_error:
            raise _refusal(response)
        return response

    def json(self, method: str, path: str, **content: Any) -> dict[str, Any]:  # noqa: ANN401
        """Send a request whose answer is a JSON object."""
        response = self.request(method, path, **content)
        try:
            answer = response.json()
        except ValueError as error:
            raise self._stranger() from error
        if not isinstance(answer, dict):
            raise self._stranger()
        return answer

    def events(self, path: str, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Post a request whose answer is a stream of JSON objects, up to `[DONE]`."""
        try:
            with self._http.stream("POST", path, json=body) as response:
                if response.is_error:
                    response.read()
                    raise _refusal(response)
                for line in response.iter_lines():
                    if not line.startswith("data:"):
                        continue
                    data = line.removeprefix("data:").strip()
                    if data == "[DONE]":
                        return
                    yield _event(json.loads(data))
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error
        except ValueError as error:
            raise self._stranger() from error

    def _unreachable(self, error: httpx.HTTPError) -> GatewayError:
        if isinstance(error, httpx.ReadTimeout):
            return GatewayError(
                f"The gateway at {self.url} did not answer in time. See its log, then try again."
            )
        if isinstance(error, httpx.RemoteProtocolError | httpx.ReadError):
            return GatewayError(
                f"The gateway at {self.url} broke off its answer. See its log, then try again."
            )
        return GatewayError(
            f"No gateway answers at {self.url}. Start it with ./scripts/up, or name its address."
        )

    def _stranger(self) -> GatewayError:
        return GatewayError(
            f"What answers at {self.url} is not Attune's gateway. Check the address."
        )


def _event(event: dict[str, Any]) -> dict[str, Any]:
    """An event of a stream; one that carries an error is raised."""
    if "error" in event:
        raise GatewayError(str(event["error"]["message"]))
    return event


def _refusal(response: httpx.Response) -> GatewayError:
    """The error that an answer carries, in OpenAI's shape or from whatever stands between."""
    try:
        message = str(response.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        said = f"{response.status_code} {response.reason_phrase}".strip()
        message = f"{response.url} answered {said}. Is it the gateway?"
    return GatewayError(message, response.status_code)
