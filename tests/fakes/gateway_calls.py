"""How tests chat with the gateway and read its answers."""

import json
from typing import Any

from fastapi.testclient import TestClient
from httpx2 import Response

HELLO = [{"role": "user", "content": "how is the bread?"}]


def chat(gateway: TestClient, **extra: object) -> Response:
    body = {"user": "mina", "messages": HELLO, **extra}
    return gateway.post("/v1/chat/completions", json=body)


def events(text: str) -> list[Any]:
    data = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    return [json.loads(one) if one != "[DONE]" else one for one in data]


def error_of(response: Response) -> tuple[int, str]:
    """The status and message of an error, which must be in OpenAI's shape."""
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return response.status_code, error["message"]
