"""The HTTP side of a serving package: finds the operation, reads the body within the limits, answers, and counts it."""

from __future__ import annotations

import ipaddress
import logging
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import msgspec

if TYPE_CHECKING:  # type checkers find these files in a package, but they are shipped and run side by side
    from .batching import Alone
    from .config import Config
    from .limits import Body, Budget, ClientGone, Receive
    from .metrics import CONTENT_TYPE, render
    from .models import Models, Place, Served
    from .protocol import Refusal
else:
    from batching import Alone
    from config import Config
    from limits import Body, Budget, ClientGone, Receive
    from metrics import CONTENT_TYPE, render
    from models import Models, Place, Served
    from protocol import Refusal

PLATFORMS = {"onnxruntime": "onnxruntime_onnx", "openvino": "openvino", "tensorrt": "tensorrt_plan"}

CHUNK_BYTES = 16 * 1024

Send = Callable[[dict[str, Any]], Awaitable[None]]

log = logging.getLogger("serve")


class Answer(NamedTuple):
    """One HTTP response."""

    status: int
    body: bytes
    headers: tuple[tuple[bytes, bytes], ...] = ()
    content_type: bytes = b"application/json"


class Service:
    """The ASGI application.

    Args:
        config: The service's configuration.
        models: What it serves.
        budget: The memory for bodies, which gRPC shares.
    """

    def __init__(self, config: Config, models: Models, budget: Budget) -> None:
        self.limits = config.limits
        self.budget = budget
        # What connections read into until it is known where to: one for all, as what was read is taken out at once.
        self.chunk = memoryview(bytearray(CHUNK_BYTES))
        self.models = models
        self._log_requests = config.log_requests
        self._alone = Alone()

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """Answers one request; uvicorn calls it."""
        begun = time.perf_counter_ns()
        body = cast(Body, scope["state"]["body"])
        try:
            answer = await self._answer(scope, body, receive)
        except ClientGone:
            return
        except Refusal as refusal:
            answer = _json(refusal.status, {"error": str(refusal)})
            if refusal.status == 503:
                answer = answer._replace(headers=((b"retry-after", b"1"),))
            elif refusal.status == 401:
                answer = answer._replace(headers=((b"www-authenticate", b"Bearer"),))
        except Exception:
            log.exception("A request failed", extra={"fields": _ecs(scope, 500, begun)})
            answer = _json(500, {"error": "The inference failed; the service's log says why."})
        headers = [
            (b"content-type", answer.content_type), (b"content-length", b"%d" % len(answer.body)), *answer.headers
        ]  # fmt: skip
        if not body.complete or self.models.draining:  # then callers turn to another instance by themselves
            headers.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": answer.body, "more_body": not body.complete})
        if self._log_requests:
            log.info("Request answered", extra={"fields": _ecs(scope, answer.status, begun)})
        if not body.complete:
            await body.linger(receive)
            await send({"type": "http.response.body", "body": b""})

    async def _answer(self, scope: dict[str, Any], body: Body, receive: Receive) -> Answer:
        path = scope["path"].split("/")[1:]
        # Health tells no secret, and the probes of a cluster have no key; nor has a Prometheus beside the service.
        if path[:2] != ["v2", "health"] and not (path == ["metrics"] and _is_local(scope)):
            self.models.authorize(dict(scope["headers"]).get(b"authorization", b""))
        match scope["method"], path:
            case "GET", ["v2"]:
                return _json(200, {"name": "serve.py", "version": "2", "extensions": ["binary_tensor_data"]})
            case "GET", ["v2", "health", "live"]:
                return _json(200, {"live": True})
            case "GET", ["v2", "health", "ready"]:
                return _ready({}, await self.models.ready())
            case "GET", ["metrics"]:
                page = render((model.metrics for model in self.models.all), self.models.board)
                return Answer(200, page, content_type=CONTENT_TYPE)
            case _, ["v2", "models", name, "versions", version, *operation] if version:
                return await self._model(scope, self.models.find(name, version), operation, body, receive)
            case _, ["v2", "models", name, *operation]:
                return await self._model(scope, self.models.find(name), operation, body, receive)
        raise Refusal(404, "There is nothing at this path; GET /v2, /v2/models/NAME and /metrics say what there is.")

    async def _model(
        self, scope: dict[str, Any], served: Served, operation: list[str], body: Body, receive: Receive
    ) -> Answer:
        config = served.config
        match scope["method"], operation:
            case "POST", ["infer"]:
                return await self._infer(scope, served, body, receive)
            case "GET", ["ready"]:
                return _ready({"name": config.name}, not self.models.draining and await served.ready())
            case "GET", []:
                about = {"name": config.name, "versions": self.models.versions(config.name)}
                tensors = {"inputs": config.inputs, "outputs": config.outputs}
                return _json(200, {**about, "platform": PLATFORMS[config.backend], **tensors})
            case _, ["infer"]:
                raise Refusal(405, "Inference is asked for with POST.")
        raise Refusal(404, f"A model has no operation {'/'.join(operation)[:80]!r}; it has infer and ready.")

    async def _infer(self, scope: dict[str, Any], served: Served, body: Body, receive: Receive) -> Answer:
        with Place(served, "http") as place:
            try:
                content = await body.read(receive)
                place.take()
                job = served.contract.decode(content, body.json_length())
                alone = self._alone.asks(scope["client"], time.monotonic())
                answer, json_length = served.contract.encode(job, await served.infer(job, alone))
            finally:
                body.release()
        if json_length is None:
            return Answer(200, answer)
        length = ((b"inference-header-content-length", b"%d" % json_length),)
        return Answer(200, answer, length, b"application/octet-stream")


def _json(status: int, answer: dict[str, Any]) -> Answer:
    return Answer(status, msgspec.json.encode(answer))


def _ready(answer: dict[str, Any], ready: bool) -> Answer:
    return _json(200 if ready else 503, {**answer, "ready": ready})


def _is_local(scope: dict[str, Any]) -> bool:
    return bool(scope["client"]) and ipaddress.ip_address(scope["client"][0]).is_loopback


def _ecs(scope: dict[str, Any], status: int, begun: int) -> dict[str, Any]:
    """Fields of the Elastic Common Schema that describe one request."""
    return {
        "event.action": "request",
        "event.duration": time.perf_counter_ns() - begun,  # ns
        "event.outcome": "success" if status < 400 else "failure",
        "http.request.method": scope["method"],
        "http.response.status_code": status,
        "url.path": scope["path"][:200],
        "client.ip": scope["client"][0] if scope["client"] else "",
    }
