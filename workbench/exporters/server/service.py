"""The HTTP side of a serving package: finds the operation, reads the body within the limits, answers, and counts it."""

from __future__ import annotations

import hmac
import ipaddress
import logging
import time
from asyncio import timeout
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import msgspec

if TYPE_CHECKING:  # type checkers find these files in a package, but they are shipped and run side by side
    from .config import Config, ModelConfig
    from .limits import Body, ClientGone, Receive
    from .metrics import CONTENT_TYPE, render
    from .protocol import Array, Job, Refusal
    from .runner import Runner
else:
    from config import Config, ModelConfig
    from limits import Body, ClientGone, Receive
    from metrics import CONTENT_TYPE, render
    from protocol import Array, Job, Refusal
    from runner import Runner

PLATFORMS = {"onnxruntime": "onnxruntime_onnx", "openvino": "openvino"}

Send = Callable[[dict[str, Any]], Awaitable[None]]

log = logging.getLogger("serve")


class Place:
    """One request's place in a model's queue, counted whatever becomes of it; a context manager.

    Args:
        served: The model.
        protocol: What it was asked by.
    """

    __slots__ = ("_begun", "_protocol", "_served")

    def __init__(self, served: Served, protocol: str) -> None:
        self._served = served
        self._protocol = protocol
        self._begun = time.perf_counter()

    def __enter__(self) -> None:
        metrics = self._served.metrics
        if metrics.in_flight >= metrics.queue_limit:
            metrics.answered(self._protocol, 503)
            raise Refusal(503, f"{metrics.in_flight} requests are in progress, which is the limit; try again.")
        metrics.in_flight += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        status = 200 if error is None else getattr(error, "status", 500)
        self._served.metrics.in_flight -= 1
        self._served.metrics.answered(self._protocol, status, time.perf_counter() - self._begun)


class Served:
    """One version of one model that can be asked.

    Args:
        config: The model.
        runner: The same, live.
    """

    def __init__(self, config: ModelConfig, runner: Runner) -> None:
        self.config = config
        self.runner = runner
        self.contract = runner.contract
        self.metrics = runner.metrics

    async def infer(self, job: Job) -> list[Array]:
        """Runs one request within its time.

        Raises:
            Refusal: If it takes too long, or the model does not take its values.
        """
        self.metrics.fed(job.feeds)
        try:
            async with timeout(self.config.request_seconds):
                return await self.runner.infer(job)
        except TimeoutError:
            log.error("A request took more than %s s", self.config.request_seconds)
            raise Refusal(504, f"The inference took more than {self.config.request_seconds} s.") from None

    async def ready(self) -> bool:
        """Whether the model answers."""
        return await self.runner.ready(self.config.request_seconds)


class Models:
    """All that is served.

    Args:
        served: Every version of every model; of several versions, the last answers requests that name none.
        key: What callers must send; None if the service has no key.
    """

    def __init__(self, served: Sequence[Served], key: bytes | None) -> None:
        self.all = served
        self.draining = False
        self._versions: dict[str, dict[str, Served]] = {}
        for model in served:
            self._versions.setdefault(model.config.name, {})[model.config.version] = model
        self._key = key

    def find(self, name: str, version: str = "") -> Served:
        """A model by its name, and its version if the caller says one.

        Raises:
            Refusal: With status 404 and what there is.
        """
        versions = self._versions.get(name)
        if versions is None:
            raise Refusal(404, f"There is no model {name[:80]!r} here; there is {', '.join(self._versions)}.")
        if version and version not in versions:
            raise Refusal(404, f"There is no version {version[:80]!r} of {name!r}; there is {', '.join(versions)}.")
        return versions[version or next(reversed(versions))]

    def versions(self, name: str) -> list[str]:
        """The versions of a model."""
        return list(self._versions[name])

    def authorize(self, header: bytes) -> None:
        """Checks a caller's Authorization header.

        Raises:
            Refusal: With status 401 if it does not hold the key.
        """
        scheme, _, given = header.partition(b" ")
        if self._key and not (scheme.lower() == b"bearer" and hmac.compare_digest(given.strip(), self._key)):
            raise Refusal(401, "The request needs the service's key, in the header Authorization: Bearer KEY.")

    async def ready(self) -> bool:
        """Whether every model answers, and the service is not about to end."""
        return not self.draining and all([await model.ready() for model in self.all])


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
    """

    def __init__(self, config: Config, models: Models) -> None:
        self.limits = config.limits
        self.models = models
        self._log_requests = config.log_requests

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
                page = render(model.metrics for model in self.models.all)
                return Answer(200, page, content_type=CONTENT_TYPE)
            case method, ["v2", "models", name, "versions", version, *operation] if version:
                return await self._model(method, self.models.find(name, version), operation, body, receive)
            case method, ["v2", "models", name, *operation]:
                return await self._model(method, self.models.find(name), operation, body, receive)
        raise Refusal(404, "There is nothing at this path; GET /v2, /v2/models/NAME and /metrics say what there is.")

    async def _model(self, method: str, served: Served, operation: list[str], body: Body, receive: Receive) -> Answer:
        config = served.config
        match method, operation:
            case "POST", ["infer"]:
                return await self._infer(served, body, receive)
            case "GET", ["ready"]:
                return _ready({"name": config.name}, not self.models.draining and await served.ready())
            case "GET", []:
                about = {"name": config.name, "versions": self.models.versions(config.name)}
                tensors = {"inputs": config.inputs, "outputs": config.outputs}
                return _json(200, {**about, "platform": PLATFORMS[config.backend], **tensors})
            case _, ["infer"]:
                raise Refusal(405, "Inference is asked for with POST.")
        raise Refusal(404, f"A model has no operation {'/'.join(operation)[:80]!r}; it has infer and ready.")

    async def _infer(self, served: Served, body: Body, receive: Receive) -> Answer:
        # It has its place before the body is read: what waits here is what memory must hold.
        with Place(served, "http"):
            job = served.contract.decode(await body.read(receive), body.json_length())
            content, json_length = served.contract.encode(job, await served.infer(job))
        if json_length is None:
            return Answer(200, content)
        length = ((b"inference-header-content-length", b"%d" % json_length),)
        return Answer(200, content, length, b"application/octet-stream")


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
