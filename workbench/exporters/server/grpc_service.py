"""The gRPC side of a serving package: the Open Inference Protocol V2, with the checks, limits and counts of HTTP."""

from __future__ import annotations

import logging
import os
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

if TYPE_CHECKING:  # type checkers find these files in a package, but they are shipped and run side by side
    from .config import CannotStart
    from .grpc_messages import SERVICE, message_classes
    from .limits import Limits
    from .protocol import DTYPES, Input, Job, Refusal
    from .service import PLATFORMS, Models, Place
else:
    from config import CannotStart
    from grpc_messages import SERVICE, message_classes
    from limits import Limits
    from protocol import DTYPES, Input, Job, Refusal
    from service import PLATFORMS, Models, Place

CONTENTS = {
    "BOOL": "bool_contents", "INT8": "int_contents", "INT16": "int_contents", "INT32": "int_contents",
    "INT64": "int64_contents", "UINT8": "uint_contents", "UINT16": "uint_contents", "UINT32": "uint_contents",
    "UINT64": "uint64_contents", "FP32": "fp32_contents", "FP64": "fp64_contents",
}  # fmt: skip
CODES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    404: "NOT_FOUND",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
IDLE_MS = 75_000  # as HTTP connections
HEAD_BYTES = 64 * 1024  # of a message, beside its tensors

log = logging.getLogger("serve")


class GrpcService:
    """The server of one port.

    Args:
        models: What it serves.
        limits: How large a message may be.
    """

    def __init__(self, models: Models, limits: Limits) -> None:
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # its own log is not JSON
        import grpc

        self._grpc = grpc
        self._models = models
        self._messages = message_classes()
        self._options = [
            ("grpc.max_receive_message_length", limits.body_bytes + HEAD_BYTES),
            ("grpc.max_send_message_length", -1),
            ("grpc.max_metadata_size", HEAD_BYTES),
            ("grpc.so_reuseport", 0),  # a port in use is an error
            ("grpc.max_connection_idle_ms", IDLE_MS),
            ("grpc.server_handshake_timeout_ms", int(limits.header_seconds * 1000)),
        ]
        self._server: Any = None

    async def start(self, host: str, port: int) -> int:
        """Listens; returns the port.

        Raises:
            CannotStart: If the port cannot be used.
        """
        # What is received at once is what memory must hold; each of these has a place in a queue, or is refused one.
        most = 2 * sum(model.metrics.queue_limit for model in self._models.all)
        self._server = self._grpc.aio.server(options=self._options, maximum_concurrent_rpcs=most)
        unary = self._grpc.unary_unary_rpc_method_handler
        handlers = {
            name: unary(
                self._handler(method),
                request_deserializer=self._messages[f"{name}Request"].FromString,
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

    def _handler(self, method: Callable[[Any], Awaitable[Any]]) -> Callable[[Any, Any], Awaitable[Any]]:
        """A method with its caller's key checked, and its errors as gRPC has them."""
        health = method in (self._server_live, self._server_ready)

        async def handle(request: Any, context: Any) -> Any:
            try:
                if not health:
                    given = dict(context.invocation_metadata()).get("authorization", "")
                    self._models.authorize(given.encode() if isinstance(given, str) else given)
                return await method(request)
            except Refusal as refusal:
                code, words = CODES.get(refusal.status, "INTERNAL"), str(refusal)
            except Exception:
                log.exception("A request failed", extra={"fields": {"event.action": "request"}})
                code, words = "INTERNAL", "The inference failed; the service's log says why."
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
        with Place(served, "grpc"):
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
