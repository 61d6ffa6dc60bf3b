"""The gRPC side of a serving package: the Open Inference Protocol V2, with the checks, limits and counts of HTTP."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

if TYPE_CHECKING:  # type checkers find these files in a package, but they are shipped and run side by side
    from .config import CannotStart
    from .grpc_connection import GrpcConnection
    from .grpc_messages import SERVICE, message_classes
    from .limits import Budget, Limits
    from .listeners import BACKLOG, HANDSHAKE_SECONDS, FairListener, turn_away
    from .models import Models, Place
    from .protocol import DTYPES, Input, Job, Refusal
    from .service import PLATFORMS
else:
    from config import CannotStart
    from grpc_connection import GrpcConnection
    from grpc_messages import SERVICE, message_classes
    from limits import Budget, Limits
    from listeners import BACKLOG, HANDSHAKE_SECONDS, FairListener, turn_away
    from models import Models, Place
    from protocol import DTYPES, Input, Job, Refusal
    from service import PLATFORMS

CONTENTS = {
    "BOOL": "bool_contents", "INT8": "int_contents", "INT16": "int_contents", "INT32": "int_contents",
    "INT64": "int64_contents", "UINT8": "uint_contents", "UINT16": "uint_contents", "UINT32": "uint_contents",
    "UINT64": "uint64_contents", "FP32": "fp32_contents", "FP64": "fp64_contents",
}  # fmt: skip
TICK_SECONDS = 1.0  # how often it is looked what takes too long, at least
CALLS = 1024  # at once, beside those that have a place in a queue

Method = Callable[[bytes | memoryview], Awaitable[bytes]]

log = logging.getLogger("serve")


class GrpcService:
    """What answers on one port.

    Args:
        models: What it serves.
        limits: How large and how slow a message may be, and how many connections there may be.
        budget: What all messages and bodies may take together.
    """

    def __init__(self, models: Models, limits: Limits, budget: Budget) -> None:
        self.limits, self.budget = limits, budget
        self.connections: dict[GrpcConnection, None] = {}  # in the order in which they came
        self._models = models
        self._messages = message_classes()
        self._calls = 0
        self._server: asyncio.Server | FairListener | None = None
        self._listener: socket.socket
        self._ticking: asyncio.TimerHandle | None = None
        methods = {
            "ServerLive": self._server_live,
            "ServerReady": self._server_ready,
            "ServerMetadata": self._server_metadata,
            "ModelReady": self._model_ready,
            "ModelMetadata": self._model_metadata,
            "ModelInfer": self._model_infer,
        }
        self._methods = {f"/{SERVICE}/{name}".encode(): self._method(name, do) for name, do in methods.items()}
        self._health = {f"/{SERVICE}/{name}".encode() for name in ("ServerLive", "ServerReady")}

    async def start(self, listener: socket.socket, load: Callable[[], int]) -> None:
        """Listens.

        Args:
            listener: A socket that has its port; several workers share it.
            load: How many connections this worker has over whatever protocol.

        Raises:
            CannotStart: If the port cannot be used.
        """
        loop, self._listener = asyncio.get_running_loop(), listener
        try:
            if self._models.board.workers > 1:
                self._server = FairListener(listener, self._models.board, load, lambda: GrpcConnection(self))
            else:
                self._server = await loop.create_server(lambda: GrpcConnection(self), sock=listener, backlog=BACKLOG)
        except OSError as error:
            host, port = listener.getsockname()[:2]
            raise CannotStart(f"{host} port {port} cannot be used for gRPC: {error.strerror}.") from None
        self._tick()

    async def stop(self, seconds: float, forced: Callable[[], bool]) -> None:
        """Takes no more callers, tells those who are there to go elsewhere, and lets calls under way end.

        Args:
            seconds: Which these get.
            forced: Whether nothing is to be waited for any more.
        """
        loop = asyncio.get_running_loop()
        turn_away(self._listener)
        await asyncio.sleep(HANDSHAKE_SECONDS)
        if self._server is not None:
            self._server.close()
        end = loop.time() + seconds
        for connection in list(self.connections):
            connection.drain()
        while self.connections and loop.time() < end and not forced():
            await asyncio.sleep(0.02)
        for connection in list(self.connections):
            connection.abort()
        if self._ticking is not None:
            self._ticking.cancel()

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._listener.getsockname()[1])

    def joined(self, connection: GrpcConnection) -> None:
        """Takes note of a connection; where there are too many, the slowest goes."""
        self.connections[connection] = None
        if len(self.connections) > self.limits.connections:
            others = (other for other in self.connections if other is not connection)
            slow = [(patience, other) for other in others if (patience := other.patience()) is not None]
            _, chosen = min(slow, key=lambda pair: pair[0], default=(None, connection))
            del self.connections[chosen]
            chosen.abort()

    def left(self, connection: GrpcConnection) -> None:
        """Takes note of its end."""
        self.connections.pop(connection, None)

    def begin(self, head: Mapping[bytes, bytes]) -> Method:
        """What a call is of.

        Args:
            head: Its headers.

        Raises:
            Refusal: If there is no such method, its caller may not call it, or there are too many calls.
        """
        path = head.get(b":path", b"")
        if (method := self._methods.get(path)) is None:
            raise Refusal(501, f"There is no method {path[:120].decode(errors='replace')!r} here.")
        if path not in self._health:
            self._models.authorize(head.get(b"authorization", b""))
        if self._calls >= CALLS + 2 * sum(model.config.queue for model in self._models.all):
            self._make_room()
        self._calls += 1
        return method

    def _make_room(self) -> None:
        """Gives up the call that waits for its message for longest.

        Raises:
            Refusal: If none has waited for longer than usual.
        """
        arriving = [call for one in self.connections for call in one.calls.values() if not call.whole]
        oldest = min(arriving, key=lambda call: call.since, default=None)
        if oldest is None or asyncio.get_running_loop().time() - oldest.since < self.budget.grace:
            raise Refusal(503, f"{self._calls} calls are open, which is the limit; try again.")
        oldest.give_up()

    def ended(self) -> None:
        """Takes note of the end of a call that has begun."""
        self._calls -= 1

    def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        for connection in list(self.connections):
            try:
                connection.look(loop.time())
            except Exception:  # one must not keep the others from being looked at
                log.exception("A connection failed", extra={"fields": {"event.action": "connection"}})
                connection.abort()
        pause = min(TICK_SECONDS, self.limits.header_seconds / 4, self.limits.body_seconds / 4)
        self._ticking = loop.call_later(pause, self._tick)

    def _method(self, name: str, do: Callable[[Any], Awaitable[Any]]) -> Method:
        kind = self._messages[f"{name}Request"]

        async def call(message: bytes | memoryview) -> bytes:
            try:
                request = kind.FromString(message)
            except Exception as error:  # protobuf's own, which is imported only where it is needed
                raise Refusal(400, f"The message cannot be read: {error}.") from None
            answer: bytes = (await do(request)).SerializeToString()
            return answer

        return call

    async def _server_live(self, request: Any) -> Any:
        return self._messages["ServerLiveResponse"](live=True)

    async def _server_ready(self, request: Any) -> Any:
        return self._messages["ServerReadyResponse"](ready=await self._models.ready())

    async def _server_metadata(self, request: Any) -> Any:
        return self._messages["ServerMetadataResponse"](name="serve.py", version="2")

    async def _model_ready(self, request: Any) -> Any:
        served = self._models.find(request.name, request.version)
        return self._messages["ModelReadyResponse"](ready=not self._models.draining and await served.ready())

    async def _model_metadata(self, request: Any) -> Any:
        config = self._models.find(request.name, request.version).config
        tensor = self._messages["TensorMetadata"]
        return self._messages["ModelMetadataResponse"](
            name=config.name,
            versions=self._models.versions(config.name),
            platform=PLATFORMS[config.backend],
            inputs=[tensor(**msgspec.structs.asdict(one)) for one in config.inputs],
            outputs=[tensor(**msgspec.structs.asdict(one)) for one in config.outputs],
        )

    async def _model_infer(self, request: Any) -> Any:
        served = self._models.find(request.model_name, request.model_version)
        with Place(served, "grpc") as place:
            place.take()
            contract, raw = served.contract, list(request.raw_input_contents)
            if raw and len(raw) != len(request.inputs):
                raise Refusal(400, f"There are {len(request.inputs)} inputs, but {len(raw)} raw_input_contents.")
            parts = [
                (_input(one, typed=not raw), raw[place] if raw else None) for place, one in enumerate(request.inputs)
            ]
            names = contract.wanted([one.name for one in request.outputs])
            job = Job(request.id, contract.feeds(parts), names, set())
            results = await served.infer(job)
            response = self._messages["ModelInferResponse"](
                model_name=served.config.name, model_version=served.config.version, id=request.id
            )
            kinds = [contract.outputs[name].datatype for name in names]
            # A response has one form only: that of the request, where all its datatypes have it.
            in_raw = bool(raw) or not CONTENTS.keys() >= set(kinds)
            for name, datatype, array in zip(names, kinds, results, strict=True):
                added = response.outputs.add(name=name, datatype=datatype, shape=array.shape)
                data = np.ascontiguousarray(array, DTYPES[datatype])
                if in_raw:
                    response.raw_output_contents.append(data.tobytes())
                else:
                    getattr(added.contents, CONTENTS[datatype]).extend(data.ravel().tolist())
            return response


def _input(tensor: Any, typed: bool) -> Input:
    """One input; its values are read from where its datatype has them."""
    if min(tensor.shape, default=0) < 0:
        raise Refusal(400, f"Input {tensor.name[:80]!r} has a negative size.")
    data: list[Any] | None = None
    if typed:
        if tensor.datatype not in CONTENTS:
            raise Refusal(400, f"Input {tensor.name[:80]!r}: {tensor.datatype[:20]} goes into raw_input_contents only.")
        kinds = [field.name for field, _ in tensor.contents.ListFields()]
        if kinds not in ([], [CONTENTS[tensor.datatype]]):
            raise Refusal(
                400, f"Input {tensor.name[:80]!r}: {tensor.datatype} belongs into {CONTENTS[tensor.datatype]}."
            )
        data = list(getattr(tensor.contents, CONTENTS[tensor.datatype]))
    return Input(tensor.name, list(tensor.shape), tensor.datatype, data)
