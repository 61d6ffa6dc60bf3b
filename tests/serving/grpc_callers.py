"""Callers over gRPC for the canary's tests, without generated stubs: each on a channel of its own, counted by code."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from tests.serving.proxies import Callers
from workbench.exporters.server.grpc_messages import SERVICE, message_classes

grpc = pytest.importorskip("grpc")
MESSAGES = message_classes()
# Channels of one process share a connection otherwise; and a call that the proxy loses is not to be repeated unseen.
_OPTIONS = (("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0), ("grpc.enable_http_proxy", 0))

Ask = Callable[..., Any]


def grpc_request(samples: int) -> Any:
    """A request that the small model answers."""
    request = MESSAGES["ModelInferRequest"](model_name="looper")
    request.inputs.add(name="x", datatype="FP32", shape=[samples, 4])
    request.raw_input_contents.append(np.full((samples, 4), 0.25, np.float32).tobytes())
    return request


@contextlib.contextmanager
def asking(address: str, call: str = "ModelInfer") -> Iterator[Ask]:
    """A call of the protocol on a connection that stays open; it takes a message, and metadata as keywords."""
    with grpc.insecure_channel(address, options=_OPTIONS) as channel:
        method = channel.unary_unary(
            f"/{SERVICE}/{call}",
            request_serializer=MESSAGES[f"{call}Request"].SerializeToString,
            response_deserializer=MESSAGES[f"{call}Response"].FromString,
        )

        def ask(request: Any, timeout: float = 30.0, **metadata: str) -> Any:
            named = [(name.replace("_", "-"), value) for name, value in metadata.items()]
            return method(request, timeout=timeout, metadata=named)

        yield ask


@dataclass
class GrpcCallers(Callers):
    """Callers in a closed loop, as those over HTTP; a status is the name of gRPC's code, or 200 for OK."""

    samples: int = 2

    def _call(self) -> None:
        request = grpc_request(self.samples)
        with asking(self.address) as ask:
            self._repeat(lambda: ("200", ask(request, **self.headers).model_version), grpc.RpcError)

    def _describe(self, error: Exception) -> str:
        assert isinstance(error, grpc.RpcError)
        return f"{error.code().name}: {error.details()}"  # type: ignore[attr-defined]
