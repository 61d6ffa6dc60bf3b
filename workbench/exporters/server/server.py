"""Runs a serving package: listens, changes the models while it answers, and drains before it ends."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import resource
import signal
import socket
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, cast

import msgspec
import uvicorn

if TYPE_CHECKING:  # type checkers find these files in a package, but they are shipped and run side by side
    from .config import CannotStart, Config
    from .connection import Connection
    from .grpc_service import GrpcService
    from .limits import IDLE_SECONDS, Budget
    from .listeners import HANDSHAKE_SECONDS, FairListener, turn_away
    from .missing import say_missing
    from .models import Loader, Models
    from .service import Service
    from .workers import Report
else:
    from config import CannotStart, Config
    from connection import Connection
    from limits import IDLE_SECONDS, Budget
    from listeners import HANDSHAKE_SECONDS, FairListener, turn_away
    from missing import say_missing
    from models import Loader, Models
    from service import Service
    from workers import Report

NOTICE_SECONDS = 1.0  # after SIGTERM: not ready, but still answering while load balancers look away
FILES = 64  # that a process has open beside its connections, at most

log = logging.getLogger("serve")


class Server(uvicorn.Server):
    """Drains on SIGTERM and SIGINT: not ready first, then no new connections, then the requests in progress end.

    On SIGHUP it reads the configuration again, and changes the models while it answers.

    Args:
        config: uvicorn's settings.
        models: What is served, which is told that it drains.
        loader: What loads new versions.
        report: Told when it listens, with gRPC's port, and what became of a change.
        grpc: What answers gRPC beside it; None without.
        lifeline: A pipe; the other end closes when nobody supervises this process any more. None if nobody does.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        models: Models,
        loader: Loader,
        report: Report,
        grpc: GrpcService | None,
        lifeline: int | None,
    ) -> None:
        super().__init__(config)
        self._models, self._loader, self._lifeline = models, loader, lifeline
        self._report, self._grpc = report, grpc
        self._changing: asyncio.Task[None] | None = None
        self._fair: FairListener | None = None
        self._again = False

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Replaces uvicorn's handlers, which would raise the signal again and so lose the exit code 0."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._drain)
        loop.add_signal_handler(signal.SIGHUP, self._change)
        if self._lifeline is not None:
            loop.add_reader(self._lifeline, self._orphaned)
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listens, and says so; several workers take turns."""
        if sockets and self._models.board.workers > 1:
            await self.lifespan.startup()
            self._fair = FairListener(sockets[0], self._models.board, self.connections, self._make_connection)
            self.servers = cast(list[asyncio.base_events.Server], [self._fair])
            self.started = True
        else:
            await super().startup(sockets)
        self._report({"ready": self._grpc.port if self._grpc else None})

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second: the other workers learn how many connections ended."""
        if self._fair is not None:
            self._fair.tell()
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Turns away who begins to connect and takes in who has begun, before nobody listens any more."""
        self.config.timeout_graceful_shutdown = math.ceil(_patience(self._models, self.config))
        for listener in sockets or []:
            turn_away(listener)
        grpc = [self._grpc.stop(_patience(self._models, self.config), lambda: self.force_exit)] if self._grpc else []
        stopping = asyncio.gather(*grpc)
        await asyncio.sleep(HANDSHAKE_SECONDS)
        await super().shutdown(sockets)
        await stopping

    def connections(self) -> int:
        """How many there are, over both protocols."""
        return len(self.server_state.connections) + (len(self._grpc.connections) if self._grpc else 0)

    def _make_connection(self) -> Connection:
        return Connection(config=self.config, server_state=self.server_state, app_state=self.lifespan.state)

    def _drain(self) -> None:
        if self._models.draining:
            self.should_exit = self.force_exit = True  # asked twice: do not wait for anything
        self._models.draining = True
        asyncio.get_running_loop().call_later(NOTICE_SECONDS, setattr, self, "should_exit", True)

    def _orphaned(self) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(cast(int, self._lifeline))
        log.error("What supervises the workers is gone; this one ends")
        if not self._models.draining:
            self._drain()

    def _change(self) -> None:
        """Changes the models now, or once more after a change that is under way."""
        self._again = self._changing is not None
        if self._changing is None:
            self._changing = asyncio.get_running_loop().create_task(self._change_models())

    async def _change_models(self) -> None:
        self._report({"changed": await self._models.change(self._loader)})
        self._changing = None
        if self._again:
            self._change()


def _patience(models: Models, settings: uvicorn.Config) -> float:
    """Longest time that a request may take from the first byte of its body on, s."""
    return cast(Service, settings.app).limits.body_seconds + models.patience()


async def serve(
    config: Config,
    models: Models,
    loader: Loader,
    listener: socket.socket,
    grpc_listener: socket.socket | None,
    report: Report,
    lifeline: int | None,
) -> None:
    """Serves over HTTP, and over gRPC if it is to, until a signal comes.

    Raises:
        CannotStart: If gRPC's port cannot be used, or what it takes is not installed.
    """
    budget = Budget(config.limits)
    most_files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    room = (most_files - FILES) // (1 if grpc_listener is None else 2)
    limits = msgspec.structs.replace(config.limits, connections=max(1, min(config.limits.connections, room)))
    config = msgspec.structs.replace(config, limits=limits)
    settings = uvicorn.Config(
        cast(Any, Service(config, models, budget)),
        http=Connection,
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=IDLE_SECONDS,
    )
    grpc = _grpc_service(models, config, budget) if grpc_listener is not None else None
    server = Server(settings, models, loader, report, grpc, lifeline)
    if grpc is not None and grpc_listener is not None:
        await grpc.start(grpc_listener, server.connections)
    await server.serve(sockets=[listener])


def _grpc_service(models: Models, config: Config, budget: Budget) -> GrpcService:
    """What answers gRPC; what it takes is imported only where it is asked for.

    Raises:
        CannotStart: If that is not installed.
    """
    try:
        if TYPE_CHECKING:
            from .grpc_service import GrpcService
        else:
            from grpc_service import GrpcService
        return GrpcService(models, config.limits, budget)
    except ImportError as error:
        raise CannotStart(say_missing(error)) from None
