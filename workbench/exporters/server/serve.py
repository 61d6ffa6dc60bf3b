"""Serves one ONNX model over HTTP with the Open Inference Protocol V2: python serve.py [--host HOST] [--port PORT]."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ipaddress
import logging
import math
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import msgspec
import uvicorn

if TYPE_CHECKING:  # type checkers find these files in a package, but they are shipped and run side by side
    from .limits import Body, ClientGone, Connection, Receive
    from .protocol import Refusal
    from .runner import CannotStart, Config, Runner, read_config
else:
    from limits import Body, ClientGone, Connection, Receive
    from protocol import Refusal
    from runner import CannotStart, Config, Runner, read_config

IDLE_SECONDS = 75  # longer than what proxies keep a connection for, so that they are the ones who close it
NOTICE_SECONDS = 1.0  # after SIGTERM: not ready, but still answering while load balancers look away

Send = Callable[[dict[str, Any]], Awaitable[None]]

log = logging.getLogger("serve")


class JsonLines(logging.Formatter):
    """One JSON object per log record."""

    def format(self, record: logging.LogRecord) -> str:
        """Writes one record, without the traceback: repr of the error fits a line."""
        line = {"time": round(record.created, 3), "event": record.levelname.lower(), "message": record.getMessage()}
        line |= getattr(record, "fields", {})
        if record.exc_info:
            line["error"] = repr(record.exc_info[1])
        return msgspec.json.encode(line).decode()


class Answer(NamedTuple):
    """One HTTP response."""

    status: int
    body: bytes
    headers: tuple[tuple[bytes, bytes], ...] = ()
    content_type: bytes = b"application/json"


class Service:
    """The ASGI application: finds the operation, reads the body within the limits, answers.

    Args:
        config: The service's configuration.
        runner: The model.
    """

    def __init__(self, config: Config, runner: Runner) -> None:
        self.limits = config.limits
        self.draining = False
        self._config = config
        self._runner = runner
        self._in_flight = 0

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """Answers one request; uvicorn calls it."""
        body = cast(Body, scope["state"]["body"])
        try:
            answer = await self._answer(scope, body, receive)
        except ClientGone:
            return
        except Refusal as refusal:
            answer = _json(refusal.status, {"error": str(refusal)})
            if refusal.status == 503:
                answer = answer._replace(headers=((b"retry-after", b"1"),))
        except Exception:
            log.exception("A request failed")
            answer = _json(500, {"error": "The inference failed; the service's log says why."})
        headers = [
            (b"content-type", answer.content_type), (b"content-length", b"%d" % len(answer.body)), *answer.headers
        ]  # fmt: skip
        if not body.complete:
            headers.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": answer.body, "more_body": not body.complete})
        if not body.complete:
            await body.linger(receive)
            await send({"type": "http.response.body", "body": b""})

    async def _answer(self, scope: dict[str, Any], body: Body, receive: Receive) -> Answer:
        match scope["method"], scope["path"].split("/")[1:]:
            case "GET", ["v2"]:
                return _json(200, {"name": "serve.py", "version": "1", "extensions": ["binary_tensor_data"]})
            case "GET", ["v2", "health", "live"]:
                return _json(200, {"live": True})
            case "GET", ["v2", "health", "ready"]:
                return await self._ready({})
            case method, ["v2", "models", name, "versions", version, *operation]:
                return await self._model(method, name, version, operation, body, receive)
            case method, ["v2", "models", name, *operation]:
                return await self._model(method, name, self._config.version, operation, body, receive)
        raise Refusal(404, "There is nothing at this path; GET /v2 and /v2/models/NAME say what there is.")

    async def _model(
        self, method: str, name: str, version: str, operation: list[str], body: Body, receive: Receive
    ) -> Answer:
        if name != self._config.name:
            raise Refusal(404, f"There is no model {name[:80]!r} here; this is {self._config.name!r}.")
        if version != self._config.version:
            raise Refusal(404, f"There is no version {version[:80]!r} of {name!r}; this is {self._config.version!r}.")
        match method, operation:
            case "POST", ["infer"]:
                return await self._infer(body, receive)
            case "GET", ["ready"]:
                return await self._ready({"name": name})
            case "GET", []:
                tensors = {"inputs": self._config.inputs, "outputs": self._config.outputs}
                return _json(200, {"name": name, "versions": [version], "platform": "onnxruntime_onnx", **tensors})
            case _, ["infer"]:
                raise Refusal(405, "Inference is asked for with POST.")
        raise Refusal(404, f"Model {name!r} has no operation {'/'.join(operation)[:80]!r}; it has infer and ready.")

    async def _ready(self, answer: dict[str, Any]) -> Answer:
        ready = not self.draining and await self._runner.ready(self.limits.request_seconds)
        return _json(200 if ready else 503, {**answer, "ready": ready})

    async def _infer(self, body: Body, receive: Receive) -> Answer:
        # Counted before the body is read: what waits here is what memory must hold.
        if self._in_flight >= self.limits.queue:
            raise Refusal(503, f"{self._in_flight} requests are in progress, which is the limit; try again.")
        self._in_flight += 1
        try:
            job = self._runner.contract.decode(await body.read(receive), body.json_length())
            async with asyncio.timeout(self.limits.request_seconds):
                results = await self._runner.infer(job)
        except TimeoutError:
            log.error("A request took more than %s s", self.limits.request_seconds)
            raise Refusal(504, f"The inference took more than {self.limits.request_seconds} s.") from None
        finally:
            self._in_flight -= 1
        content, json_length = self._runner.contract.encode(job, results)
        if json_length is None:
            return Answer(200, content)
        length = ((b"inference-header-content-length", b"%d" % json_length),)
        return Answer(200, content, length, b"application/octet-stream")


def _json(status: int, answer: dict[str, Any]) -> Answer:
    return Answer(status, msgspec.json.encode(answer))


class Server(uvicorn.Server):
    """Drains on SIGTERM and SIGINT: not ready first, then no new connections, then the requests in progress end.

    Args:
        config: uvicorn's settings.
        service: The application, which is told that it drains.
    """

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Replaces uvicorn's handlers, which would raise the signal again and so lose the exit code 0."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._drain)
        yield

    def _drain(self) -> None:
        if self._service.draining:
            self.should_exit = self.force_exit = True  # asked twice: do not wait for anything
        self._service.draining = True
        asyncio.get_running_loop().call_later(NOTICE_SECONDS, setattr, self, "should_exit", True)


def _listen(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, OverflowError) as error:
        raise CannotStart(
            f"{host} port {port} cannot be used: {error}. Choose others with --host and --port."
        ) from None


def main() -> int:
    """Serves until a signal comes; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", default=8000, type=int, help="port, 0 for a free one (default: %(default)s)")
    arguments = parser.parse_args()
    lines = logging.StreamHandler(sys.stderr)
    lines.setFormatter(JsonLines())
    logging.basicConfig(level=logging.WARNING, handlers=[lines])
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)  # its warnings are about single malformed requests
    log.setLevel(logging.INFO)

    folder = Path(__file__).resolve().parent
    try:
        config = read_config(folder / "config.json")
        runner = Runner(config, folder)
        listener = _listen(arguments.host, arguments.port)
    except CannotStart as reason:
        print(f"serve.py cannot start. {reason}", file=sys.stderr)
        return 2
    host, port = listener.getsockname()[:2]
    if not ipaddress.ip_address(host).is_loopback:
        log.warning("Listening on %s with no authentication set: whoever reaches this port can use the model", host)
    service = Service(config, runner)
    settings = uvicorn.Config(
        cast(Any, service),
        loop="uvloop",
        http=Connection,
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=IDLE_SECONDS,
        timeout_graceful_shutdown=math.ceil(config.limits.body_seconds + config.limits.request_seconds),
    )
    about = {"model": config.name, "version": config.version, "provider": config.provider, "threads": config.threads}
    log.info("Serving", extra={"fields": {"event": "start", "host": host, "port": port, **about}})
    Server(settings, service).run(sockets=[listener])
    log.info("Stopped", extra={"fields": {"event": "stop"}})
    return 0


if __name__ == "__main__":
    sys.exit(main())
