"""Serves ONNX models with the Open Inference Protocol V2: python serve.py --help."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ctypes
import ipaddress
import logging
import math
import signal
import socket
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import uvicorn
import uvloop

if TYPE_CHECKING:  # type checkers find these files in a package, but they are shipped and run side by side
    from .config import KEY_VARIABLE, CannotStart, Config, read_config, read_key
    from .grpc_service import GrpcService
    from .limits import Connection
    from .logs import EcsLines, log_to_stderr
    from .runner import Runner
    from .service import Models, Served, Service
else:
    sys.dont_write_bytecode = True  # a package stays as its checksums say
    from config import KEY_VARIABLE, CannotStart, Config, read_config, read_key
    from grpc_service import GrpcService
    from limits import Connection
    from logs import EcsLines, log_to_stderr
    from runner import Runner
    from service import Models, Served, Service

IDLE_SECONDS = 75  # longer than what proxies keep a connection for, so that they are the ones who close it
SO_ATTACH_FILTER = 26  # which Python's socket module does not name
# A socket filter: load the byte with the flags of TCP, and keep nothing of a packet that has SYN.
DROP_SYN = ((0x30, 0, 0, 13), (0x45, 0, 1, 0x02), (0x06, 0, 0, 0), (0x06, 0, 0, 0xFFFFFFFF))
HANDSHAKE_SECONDS = 0.2  # in which connections that have begun are accepted
NOTICE_SECONDS = 1.0  # after SIGTERM: not ready, but still answering while load balancers look away

log = logging.getLogger("serve")


class Server(uvicorn.Server):
    """Drains on SIGTERM and SIGINT: not ready first, then no new connections, then the requests in progress end.

    Args:
        config: uvicorn's settings.
        models: What is served, which is told that it drains.
    """

    def __init__(self, config: uvicorn.Config, models: Models) -> None:
        super().__init__(config)
        self._models = models

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Replaces uvicorn's handlers, which would raise the signal again and so lose the exit code 0."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._drain)
        yield

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Turns away who begins to connect and takes in who has begun, before nobody listens any more."""
        for listener in sockets or []:
            _turn_away(listener)
        await asyncio.sleep(HANDSHAKE_SECONDS)
        await super().shutdown(sockets)

    def _drain(self) -> None:
        if self._models.draining:
            self.should_exit = self.force_exit = True  # asked twice: do not wait for anything
        self._models.draining = True
        asyncio.get_running_loop().call_later(NOTICE_SECONDS, setattr, self, "should_exit", True)


def _turn_away(listener: socket.socket) -> None:
    """Has the kernel drop the first packet of new connections: who connects while a listener is closed is cut off.

    They try again after a second and are refused, so that their proxy turns to another instance. Linux only; elsewhere
    that moment stays.
    """
    if sys.platform == "linux":
        code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in DROP_SYN))
        with contextlib.suppress(OSError):
            filter_ = struct.pack("HP", len(DROP_SYN), ctypes.addressof(code))
            listener.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, filter_)


def _listen(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, OverflowError) as error:
        raise CannotStart(
            f"{host} port {port} cannot be used: {error}. Choose others with --host and --port."
        ) from None


def _check_open(listener: socket.socket, key: bytes | None, said_open: bool) -> None:
    """An address that others can reach needs a key, or a word that it is meant to have none."""
    address = str(listener.getsockname()[0])
    if key is None and not ipaddress.ip_address(address).is_loopback:
        if not said_open:
            listener.close()
            raise CannotStart(
                f"On {address} whoever reaches the port could use the model: this package has no key. Export it with "
                f"api_key=environment and set {KEY_VARIABLE}, or say --open if something else keeps strangers out."
            )
        log.warning("Listening on %s with no authentication set: whoever reaches this port can use the model", address)


async def _serve(config: Config, models: Models, listener: socket.socket, grpc_port: int) -> None:
    """Serves over HTTP, and over gRPC if it is to, until a signal comes."""
    host, port = listener.getsockname()[:2]
    patience = config.limits.body_seconds + max(model.request_seconds for model in config.models)
    settings = uvicorn.Config(
        cast(Any, Service(config, models)),
        http=Connection,
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=IDLE_SECONDS,
        timeout_graceful_shutdown=math.ceil(patience),
    )
    start = {"event.action": "start", "server.address": host, "server.port": port}
    async with contextlib.AsyncExitStack() as ends:
        if config.grpc:
            service = GrpcService(models, config.limits)
            start["labels.grpc_port"] = await service.start(host, grpc_port)
            ends.push_async_callback(service.stop, patience)
        about = [f"{model.name} {model.version} on {model.backend}, {model.provider}" for model in config.models]
        log.info("Serving %s", "; ".join(about), extra={"fields": start})
        await Server(settings, models).serve(sockets=[listener])
    log.info("Stopped", extra={"fields": {**start, "event.action": "stop"}})


def main() -> int:
    """Serves until a signal comes; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", default=8000, type=int, help="port, 0 for a free one (default: %(default)s)")
    parser.add_argument("--grpc-port", type=int, help="port for gRPC (default: the one after that)")
    parser.add_argument("--open", action="store_true", help="listen to other machines although there is no key")
    arguments = parser.parse_args()
    handler = log_to_stderr()

    folder = Path(__file__).resolve().parent
    try:
        config = read_config(folder / "config.json")
        names = dict.fromkeys(model.name for model in config.models)
        handler.setFormatter(EcsLines({"service.name": ",".join(names)}))
        key = read_key(config)
        protocols = ("http", "grpc") if config.grpc else ("http",)
        served = [Served(model, Runner(model, folder, config.allow_nan, protocols)) for model in config.models]
        listener = _listen(arguments.host, arguments.port)
        _check_open(listener, key, arguments.open)
        next_port = arguments.port + 1 if arguments.port else 0
        grpc_port = next_port if arguments.grpc_port is None else arguments.grpc_port
        uvloop.run(_serve(config, Models(served, key), listener, grpc_port))
    except CannotStart as reason:
        print(f"serve.py cannot start. {reason}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
