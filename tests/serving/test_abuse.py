"""A service that is abused in every way that we know, over HTTP and gRPC, while others ask it as they should."""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.exporters.callers import Callers
from tests.exporters.serving import INFER, Server, X, serving, tensors, with_model, write_model, write_package
from tests.serving.abuse import LARGE, break_off, crawl, send_large, watched, wrong_requests

MEMORY = 32_000_000  # bytes that the service may grow by
PATIENCE = 2.0  # s, of heads and bodies
LIMITS = {
    "body_bytes": 16_000_000,
    "total_body_bytes": 64_000_000,
    "connections": 256,
    "header_seconds": PATIENCE,
    "body_seconds": PATIENCE,
}
REQUEST = {"inputs": tensors()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As an export would set it up, but for the time that callers have."""
    config = {**with_model(queue=64, request_seconds=20), "limits": LIMITS}
    folder = write_package(tmp_path_factory.mktemp("abused"), config)
    write_model(folder / "model.onnx")
    return folder


@contextlib.contextmanager
def asked_properly(server: Server) -> Iterator[Callers]:
    """Callers whose every request must be answered, whatever others do."""
    with Callers(server, REQUEST, count=2, pause=0.01) as callers:
        callers.wait_for(20)
        yield callers
        callers.wait_for(20)
    assert (callers.lost, set(callers.statuses)) == ([], {"200"})
    assert all(answer == callers.answers[0][1] for _, answer in callers.answers)


@contextlib.contextmanager
def asked_anew(server: Server) -> Iterator[None]:
    """A caller with a new connection for each request, who must be answered as well."""
    ending = threading.Event()

    def ask() -> int:
        count = 0
        while not ending.wait(0.02):
            assert server.infer(REQUEST)[0] == 200
            count += 1
        return count

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        asking = pool.submit(ask)
        try:
            yield
        finally:
            ending.set()
        assert asking.result() > 10


def warm_up(server: Server) -> None:
    """What every service takes that is asked as it should be."""
    for _ in range(200):
        assert server.infer(REQUEST)[0] == 200


def abuse_over_http(server: Server, slow: int) -> None:
    for name, (body, headers) in wrong_requests().items():
        status, _, answer = server.call("POST", INFER, body, headers)
        assert 400 <= status < 500, (name, status)
        assert 10 < len(json.loads(answer)["error"]) < 1000, name
    assert send_large(server, chunked=False) in (b"HTTP/1.1 413", b"")
    assert send_large(server, chunked=True) in (b"HTTP/1.1 413", b"")
    break_off(server, 100)
    with asked_anew(server):
        answers = crawl(server, slow, 4 * PATIENCE)
    statuses = {answer[:12] for answer in answers}
    assert statuses <= {b"", b"HTTP/1.1 408", b"HTTP/1.1 503"}, statuses
    assert statuses >= {b"", b"HTTP/1.1 408"}


def test_abuse_over_http_is_refused_and_costs_little(folder: Path) -> None:
    with serving(folder) as server:
        warm_up(server)
        with watched(server.process.pid) as growth, asked_properly(server):
            abuse_over_http(server, 60)
            assert growth() < MEMORY, growth()


@pytest.mark.serving
def test_three_hundred_slow_connections_again_and_again(folder: Path) -> None:
    with serving(folder) as server:
        warm_up(server)
        grown = []
        with watched(server.process.pid) as growth, asked_properly(server):
            for _ in range(4):
                abuse_over_http(server, 300)
                grown.append(growth())
            print("memory grown by, MB:", [round(size / 1e6, 1) for size in grown])
            assert grown[-1] < MEMORY, grown


class Grpc:
    """A caller over gRPC that sends what it likes.

    Args:
        address: Of the service.
    """

    def __init__(self, address: str) -> None:
        self.client = pytest.importorskip("tritonclient.grpc")
        self.grpc = pytest.importorskip("grpc")
        options = [("grpc.max_send_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
        self.channel = self.grpc.insecure_channel(address, options)
        path = "/inference.GRPCInferenceService/ModelInfer"
        self.one, self.stream = self.channel.unary_unary(path), self.channel.stream_unary(path)

    def message(self, **changes: Any) -> Any:
        request = self.client.service_pb2.ModelInferRequest(model_name="looper")
        first = {"name": "x", "datatype": "FP32", "shape": [2, 4], **changes}
        request.inputs.add(**first)
        request.inputs.add(name="steps", datatype="INT64", shape=[1])
        request.raw_input_contents.extend([X.tobytes(), np.array([2]).tobytes()])
        return request

    def code(self, content: bytes) -> str:
        """How a message is answered."""
        try:
            self.one(content, timeout=30)
        except self.grpc.RpcError as error:
            return str(error.code().name)
        return "OK"

    def wrong(self) -> dict[str, bytes]:
        """Messages that must be refused, by what is wrong with them."""
        nan = self.message()
        nan.raw_input_contents[0] = np.full(8, np.nan, np.float32).tobytes()
        more, short, none = self.message(), self.message(), self.message()
        more.raw_input_contents.append(b"more")
        short.raw_input_contents[1] = b"\1"
        del none.inputs[:]
        named = {
            "wrong name": self.message(name="z"),
            "a very long name": self.message(name="z" * 1_000_000),
            "wrong datatype": self.message(datatype="FP64"),
            "no datatype": self.message(datatype="COMPLEX"),
            "wrong shape": self.message(shape=[2, 5]),
            "ten thousand axes": self.message(shape=[1] * 10_000),
            "negative sizes": self.message(shape=[-2, 4]),
            "huge sizes": self.message(shape=[2**62, 4]),
            "NaN": nan,
            "bytes after the tensors": more,
            "bytes missing": short,
            "no inputs": none,
        }
        whole = self.message().SerializeToString()
        rest = {"no message": b"\xff" * 1000, "half a message": whole[: len(whole) // 2], "nothing": b""}
        return {name: message.SerializeToString() for name, message in named.items()} | rest

    def slow(self) -> str:
        """How a message is answered that never comes."""
        ending = threading.Event()

        def messages() -> Iterator[bytes]:
            ending.wait(20)
            yield from ()

        try:
            self.stream(messages(), timeout=15)
        except self.grpc.RpcError as error:
            return str(error.code().name)
        finally:
            ending.set()
        return "OK"


def abuse_over_grpc(address: tuple[str, int], slow: int) -> None:
    caller = Grpc(f"{address[0]}:{address[1]}")
    for name, content in caller.wrong().items():
        assert caller.code(content) in ("INVALID_ARGUMENT", "NOT_FOUND"), name
    assert caller.code(bytes(LARGE)) == "RESOURCE_EXHAUSTED"
    with concurrent.futures.ThreadPoolExecutor(slow) as pool:
        codes = set(pool.map(lambda _: caller.slow(), range(slow)))
    assert codes <= {"DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "UNAVAILABLE"}, codes
    caller.channel.close()
    starts = (b"", b"PRI * HTTP/2.0", b"GET / HTTP/1.1\r\n\r\n")
    with contextlib.ExitStack() as ends:
        waiting = [ends.enter_context(socket.create_connection(address, timeout=20)) for _ in range(slow)]
        for place, connection in enumerate(waiting):
            connection.sendall(starts[place % len(starts)])
        begun = time.monotonic()
        for connection in waiting:
            with contextlib.suppress(ConnectionResetError):
                while connection.recv(65536):  # it may say what it expects; then it closes
                    pass
        assert time.monotonic() - begun < 4 * PATIENCE


@pytest.mark.parametrize(
    ("slow", "rounds"), [(30, 1), pytest.param(100, 3, marks=pytest.mark.serving)], ids=["short", "long"]
)
def test_abuse_over_grpc_is_refused_and_costs_little(folder: Path, tmp_path: Path, slow: int, rounds: int) -> None:
    pytest.importorskip("grpc")
    config = json.loads((folder / "config.json").read_text())
    package = write_package(tmp_path / "package", {**config, "grpc": True})
    (package / "model.onnx").write_bytes((folder / "model.onnx").read_bytes())
    with serving(package, "--grpc-port", "0") as server:
        address = ("127.0.0.1", server.log[-1]["labels.grpc_port"])
        proper = Grpc(f"127.0.0.1:{address[1]}")
        right = proper.message().SerializeToString()
        warm_up(server)
        expected = {proper.one(right, timeout=10) for _ in range(100)}
        ending, answers, grown = threading.Event(), list[bytes](), []

        def ask() -> None:
            while not ending.wait(0.01):
                answers.append(proper.one(right, timeout=10))

        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            asking = pool.submit(ask)
            try:
                with watched(server.process.pid) as growth, asked_properly(server):
                    for _ in range(rounds):
                        abuse_over_grpc(address, slow)
                        grown.append(growth())
            finally:
                ending.set()
            asking.result()
        print("memory grown by, MB:", [round(size / 1e6, 1) for size in grown])
        assert set(answers) == expected
        assert len(expected) == 1
        assert grown[-1] < MEMORY, grown
