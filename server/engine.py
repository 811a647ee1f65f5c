"""The client of one vLLM engine: chat, streams, scoring, and loading adapters.

Everything that Attune knows about vLLM's HTTP is here. The facts relied on were tried on
vLLM 0.32; which adapter version a request uses is `server.registry`'s business.
"""

import json
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from server.errors import EngineRefusedError, EngineUnavailableError
from server.settings import Settings

_RESTARTING = (
    "The engine does not answer ({}): it is starting or restarting; try again in a minute."
)


@dataclass(frozen=True, slots=True)
class ServedModel:
    """The base model that an engine serves: its name, and the longest sequence in tokens."""

    name: str
    max_length: int


class Engine:
    """One vLLM engine over HTTP. It must be reachable by the gateway and the worker alone."""

    def __init__(
        self,
        url: str,
        key: str = "",
        timeout_s: float = 120.0,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.url = url
        self._served: ServedModel | None = None
        self._http = httpx.AsyncClient(
            base_url=url,
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(timeout_s, connect=5.0),
            limits=httpx.Limits(max_connections=None),
            transport=transport,
            trust_env=False,  # engines are on loopback or a private network, behind no proxy
        )

    async def close(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    async def served_model(self) -> ServedModel:
        """Return the base model that the engine serves; asked once, as it never changes.

        Raises:
            EngineUnavailableError: The engine does not answer.
        """
        if self._served is None:
            models = (await self.get("/v1/models"))["data"]
            base = next(model for model in models if model.get("parent") is None)
            self._served = ServedModel(base["id"], int(base["max_model_len"]))
        return self._served

    async def check(self) -> None:
        """Ask the engine whether it is well.

        Raises:
            EngineUnavailableError: It is not, or does not answer.
        """
        await self._send("GET", "/health", None)

    async def get(self, path: str) -> dict[str, Any]:
        """GET a JSON object.

        Raises:
            EngineUnavailableError, EngineRefusedError: See the classes.
        """
        return await self._json("GET", path, None)

    async def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """POST a JSON object and return the JSON object that comes back.

        Raises:
            EngineUnavailableError, EngineRefusedError: See the classes.
        """
        return await self._json("POST", path, body)

    async def stream(self, path: str, body: dict[str, Any]) -> AsyncGenerator[dict[str, Any]]:
        """POST a request with `"stream": true` and yield the chunks.

        Raises:
            EngineUnavailableError: The engine did not answer, or went away in the middle.
            EngineRefusedError: The engine answered with an error.
        """
        try:
            async with self._http.stream("POST", path, json=body) as response:
                if response.is_error:
                    await response.aread()
                    raise _refusal(response)
                finished = False
                async for line in response.aiter_lines():
                    data = line.removeprefix("data:").strip()
                    if data == "[DONE]":
                        finished = True
                    elif line.startswith("data:"):
                        yield _chunk(data)
        except httpx.TransportError as error:
            raise EngineUnavailableError(_RESTARTING.format(type(error).__name__)) from error
        if not finished:
            raise EngineUnavailableError(_RESTARTING.format("the stream broke off"))

    async def reply_logprobs(
        self, model: str, prompt_ids: Sequence[int], reply_ids: Sequence[int]
    ) -> list[float]:
        """Score a reply: log P of each reply token given the prompt and the tokens before it.

        One full prefill: vLLM takes such requests past the prefix cache.

        Args:
            model: The base model's or an adapter version's name.
            prompt_ids: Token ids of the rendered prompt; at least one.
            reply_ids: Token ids of the reply.

        Returns:
            Natural-log probabilities, one for each id in `reply_ids`.

        Raises:
            EngineUnavailableError, EngineRefusedError: See the classes.
        """
        if not reply_ids:
            return []
        body = {
            "model": model,
            "prompt": [*prompt_ids, *reply_ids],
            "max_tokens": 1,
            "prompt_logprobs": 0,
            "temperature": 0.0,
        }
        answer = await self.post("/v1/completions", body)
        scored = answer["choices"][0]["prompt_logprobs"][len(prompt_ids) :]
        return [
            float(candidates[str(token)]["logprob"])
            for token, candidates in zip(reply_ids, scored, strict=True)
        ]

    async def loaded_adapters(self) -> set[str]:
        """Return the names of the adapter versions that the engine holds.

        Raises:
            EngineUnavailableError, EngineRefusedError: See the classes.
        """
        models = (await self.get("/v1/models"))["data"]
        return {model["id"] for model in models if model.get("parent") is not None}

    async def load_adapter(self, name: str, folder: Path) -> None:
        """Load an adapter version; loading one that is loaded already is no error.

        Raises:
            EngineUnavailableError, EngineRefusedError: See the classes.
        """
        body = {"lora_name": name, "lora_path": str(folder)}
        try:
            await self._send("POST", "/v1/load_lora_adapter", body)
        except EngineRefusedError as error:
            if "already been loaded" not in str(error):
                raise

    async def unload_adapter(self, name: str) -> None:
        """Unload an adapter version; one that is not loaded is no error.

        Raises:
            EngineUnavailableError, EngineRefusedError: See the classes.
        """
        try:
            await self._send("POST", "/v1/unload_lora_adapter", {"lora_name": name})
        except EngineRefusedError as error:
            if error.status != httpx.codes.NOT_FOUND:
                raise

    async def warm(self, name: str, folder: Path) -> None:
        """Load an adapter version and run one token through it, so that no user waits for it.

        Raises:
            EngineUnavailableError, EngineRefusedError: See the classes.
        """
        await self.load_adapter(name, folder)
        body = {"model": name, "prompt": [0], "max_tokens": 1, "temperature": 0.0}
        await self.post("/v1/completions", body)

    async def sleep(self) -> None:
        """Finish what runs, then free the GPU: weights go to main memory, caches go away.

        GPU only; needs `--enable-sleep-mode` and `VLLM_SERVER_DEV_MODE=1`. Without
        `mode=wait` vLLM would abort the running requests.

        Raises:
            EngineUnavailableError, EngineRefusedError: See the classes.
        """
        await self._send("POST", "/sleep?level=1&mode=wait", None)

    async def wake_up(self) -> None:
        """Take the GPU again; an engine that is awake is no error.

        Raises:
            EngineUnavailableError, EngineRefusedError: See the classes.
        """
        await self._send("POST", "/wake_up", None)

    async def _json(self, method: str, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
        response = await self._send(method, path, body)
        try:
            answer = response.json()
        except json.JSONDecodeError as error:
            raise EngineUnavailableError(_RESTARTING.format("its answer broke off")) from error
        if not isinstance(answer, dict):
            raise EngineRefusedError(502, f"The engine answered {path} with no JSON object.")
        return answer

    async def _send(self, method: str, path: str, body: dict[str, Any] | None) -> httpx.Response:
        try:
            response = await self._http.request(method, path, json=body)
        except httpx.TransportError as error:
            raise EngineUnavailableError(_RESTARTING.format(type(error).__name__)) from error
        if response.is_error:
            raise _refusal(response)
        return response


def connect_engines(settings: Settings) -> tuple[Engine, ...]:
    """Make a client for each engine of the settings."""
    key = settings.engine_key.get_secret_value()
    return tuple(Engine(url, key, settings.engine_timeout_s) for url in settings.engine_urls)


def _chunk(data: str) -> dict[str, Any]:
    """Parse one chunk of a stream; vLLM reports errors of a running stream as a chunk."""
    chunk: dict[str, Any] = json.loads(data)
    if "error" in chunk:
        error = chunk["error"]
        if _died(error):
            raise EngineUnavailableError(_RESTARTING.format("it died"))
        raise EngineRefusedError(int(error.get("code") or 500), str(error.get("message", error)))
    return chunk


def _refusal(response: httpx.Response) -> EngineRefusedError | EngineUnavailableError:
    """Turn an error response of the engine into an error of ours."""
    try:
        body = response.json()
    except json.JSONDecodeError:
        body = {"message": response.text}
    error = body.get("error", body) if isinstance(body, dict) else {"message": str(body)}
    if response.status_code == httpx.codes.SERVICE_UNAVAILABLE or _died(error):
        return EngineUnavailableError(_RESTARTING.format("it is not ready"))
    message = error.get("message", error) if isinstance(error, dict) else error
    return EngineRefusedError(response.status_code, f"The engine refused: {message}")


def _died(error: object) -> bool:
    """Tell vLLM's report of its own death from an error about the request."""
    return "EngineDeadError" in str(error) or "EngineCore" in str(error)
