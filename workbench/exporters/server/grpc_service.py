"""The gRPC side of a serving package: the Open Inference Protocol V2, with the checks, limits and counts of HTTP."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

if TYPE_CHECKING:  # type checkers find these files in a package, but they are shipped and run side by side
    from .config import CannotStart
    from .grpc_messages import SERVICE, message_classes
    from .limits import Budget, Limits
    from .models import Models, Place
    from .protocol import DTYPES, Input, Job, Refusal
    from .service import PLATFORMS
else:
    from config import CannotStart
    from grpc_messages import SERVICE, message_classes
    from limits import Budget, Limits
    from models import Models, Place
    from protocol import DTYPES, Input, Job, Refusal
    from service import PLATFORMS

CONTENTS = {
    "BOOL": "bool_contents", "INT8": "int_contents", "INT16": "int_contents", "INT32": "int_contents",
    "INT64": "int64_contents", "UINT8": "uint_contents", "UINT16": "uint_contents", "UINT32": "uint_contents",
    "UINT64": "uint64_contents", "FP32": "fp32_contents", "FP64": "fp64_contents",
}  # fmt: skip
CODES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    404: "NOT_FOUND",
    408: "DEADLINE_EXCEEDED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
IDLE_MS = 75_000  # until a connection without a call is closed, as over HTTP
PING_MS, PONG_MS = 30_000, 10_000  # how often it is asked whether a silent caller is still there, and for how long
ARRIVING = 64  # messages that are received at once
CALLS = 1024  # at once, beside those that have a place in a queue
STREAMS = 128  # requests at once on one connection
HEAD_BYTES = 64 * 1024  # of a message, beside its tensors

log = logging.getLogger("serve")


class GrpcService:
    """The server of one port.

    Args:
        models: What it serves.
        limits: How large and how slow a message may be.
        budget: What it and all others may take together.
    """

    def __init__(self, models: Models, limits: Limits, budget: Budget) -> None:
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # its own log is not JSON
        import grpc

        self._grpc = grpc
        self._models = models
        self._limits, self._budget = limits, budget
        self._arriving: dict[_Message, None] = {}
        self._messages = message_classes()
        self._options = [
            ("grpc.max_receive_message_length", limits.body_bytes + HEAD_BYTES),
            ("grpc.max_send_message_length", -1),
            ("grpc.max_metadata_size", HEAD_BYTES),
            ("grpc.max_connection_idle_ms", IDLE_MS),
            ("grpc.server_handshake_timeout_ms", int(limits.header_seconds * 1000)),
            ("grpc.max_concurrent_streams", STREAMS),
            ("grpc.keepalive_time_ms", PING_MS),
            ("grpc.keepalive_timeout_ms", PONG_MS),
        ]
        self._server: Any = None

    async def start(self, host: str, port: int, *, shared: bool = False) -> int:
        """Listens; returns the port.

        Args:
            host: Address.
            port: Port; a free one if 0.
            shared: Whether other processes listen there too.

        Raises:
            CannotStart: If the port cannot be used.
        """
        self._options.append(("grpc.so_reuseport", int(shared)))  # else a port in use is an error
        most = CALLS + 2 * sum(model.config.queue for model in self._models.all)
        self._server = self._grpc.aio.server(options=self._options, maximum_concurrent_rpcs=most)
        # On the wire a call with one message is a stream of one. Taken as such, its message is received when we ask for
        # it: after the key and the queue were looked at, and for no longer than it may take.
        stream = self._grpc.stream_unary_rpc_method_handler
        handlers = {
            name: stream(
                self._handler(method, self._messages[f"{name}Request"], self._messages[f"{name}Response"]()),
                response_serializer=self._messages[f"{name}Response"].SerializeToString,
            )
            for name, method in {
                "ServerLive": self._server_live,
                "ServerReady": self._server_ready,
                "ServerMetadata": self._server_metadata,
                "ModelReady": self._model_ready,
                "ModelMetadata": self._model_metadata,
                "ModelInfer": self._model_infer,
            }.items()
        }
        self._server.add_generic_rpc_handlers((self._grpc.method_handlers_generic_handler(SERVICE, handlers),))
        try:
            bound: int = self._server.add_insecure_port(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
        except RuntimeError:
            raise CannotStart(f"{host} port {port} cannot be used for gRPC. Choose another with --grpc-port.") from None
        await self._server.start()
        return bound

    async def stop(self, seconds: float) -> None:
        """Takes no more requests, and lets those under way end."""
        await self._server.stop(seconds)

    def _handler(
        self, method: Callable[[Any], Awaitable[Any]], kind: Any, empty: Any
    ) -> Callable[[Any, Any], Awaitable[Any]]:
        """A method with its caller's key checked, its message received, and its errors as gRPC has them."""
        health = method in (self._server_live, self._server_ready)

        async def handle(messages: Any, context: Any) -> Any:
            arrival = _Message(self._limits, self._budget, self._arriving, messages, kind)
            try:
                if not health:
                    given = dict(context.invocation_metadata()).get("authorization", "")
                    self._models.authorize(given.encode() if isinstance(given, str) else given)
                if (request := await arrival.receive()) is None:
                    return empty  # to nobody: the caller is gone, or was told by gRPC that its message is too large
                return await method(request)
            except Refusal as refusal:
                code, words = CODES.get(refusal.status, "INTERNAL"), str(refusal)
            except Exception:
                log.exception("A request failed", extra={"fields": {"event.action": "request"}})
                code, words = "INTERNAL", "The inference failed; the service's log says why."
            finally:
                arrival.release()
            await context.abort(getattr(self._grpc.StatusCode, code), words)

        return handle

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


class _Message:
    """The message of one call. Its size is known only once it is there; before, the number of messages is limited.

    Args:
        limits: How slow it may be.
        budget: What it and all others may take together.
        arriving: Those that are not whole yet, the oldest first: it goes when there are too many, as it is the slowest.
        stream: gRPC's stream of messages, of which there is one.
        kind: The class of the message.
    """

    def __init__(self, limits: Limits, budget: Budget, arriving: dict[_Message, None], stream: Any, kind: Any) -> None:
        self._limits, self._budget, self._arriving, self._stream, self._kind = limits, budget, arriving, stream, kind
        self._held = 0
        self._given_up: asyncio.Future[None] | None = None

    async def receive(self) -> Any:
        """Waits for the message; None if the call ends without one.

        Raises:
            Refusal: If it does not arrive in time, is none, or others take all memory that there is for messages.
        """
        loop, arriving = asyncio.get_running_loop(), self._arriving
        if len(arriving) >= ARRIVING:
            next(iter(arriving)).give_up()
        self._given_up = loop.create_future()
        coming = loop.create_task(self._next())
        arriving[self] = None
        try:
            # The task is never cancelled, which gRPC would not bear; it ends with the call.
            await asyncio.wait(
                (coming, self._given_up),
                timeout=self._limits.body_seconds,
                return_when=asyncio.FIRST_COMPLETED,
            )
        finally:
            arriving.pop(self, None)
        if not coming.done():
            if self._given_up.done():
                raise Refusal(408, "The message was slow, and others needed its place.")
            raise Refusal(408, f"The message did not arrive within {self._limits.body_seconds} s.")
        if (raw := coming.result()) is None:
            return None
        if not self._budget.take(len(raw)):
            raise Refusal(503, f"Messages take all {self._limits.total} bytes that there are for them; try again.")
        self._held = len(raw)
        try:
            return self._kind.FromString(raw)
        except Exception as error:  # protobuf's own, which is imported only where it is needed
            raise Refusal(400, f"The message cannot be read: {error}.") from None

    def give_up(self) -> None:
        """Ends the wait for it."""
        del self._arriving[self]
        if self._given_up is not None and not self._given_up.done():
            self._given_up.set_result(None)

    def release(self) -> None:
        """Gives its memory back to the others."""
        self._budget.give_back(self._held)
        self._held = 0

    async def _next(self) -> bytes | None:
        try:
            raw: bytes = await anext(self._stream)
        except Exception:  # the call ended: gRPC has told the caller why, or we did
            return None
        return raw


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
