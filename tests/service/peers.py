"""Bad peers for the load generator: small TCP servers that do as they are told, and frames of HTTP/2 to tell them."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterator

from hpack import Encoder
from hyperframe.frame import DataFrame, Frame, HeadersFrame, SettingsFrame

from tests.service.test_metrics import answering

SETTINGS = SettingsFrame().serialize()
MODEL = {"name": "m", "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}]}


@contextlib.contextmanager
def peer(meet: Callable[[socket.socket], None]) -> Iterator[int]:
    """A server that treats each connection so; gives its port."""
    met: list[tuple[threading.Thread, socket.socket]] = []

    def run(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):  # the other side may go at any time
            meet(connection)

    def accept() -> None:
        with contextlib.suppress(OSError):  # the listener is shut down in the end
            while True:
                connection, _ = listener.accept()
                met.append((threading.Thread(target=run, args=(connection,)), connection))
                met[-1][0].start()

    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        accepting = threading.Thread(target=accept)
        accepting.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            accepting.join()
            for thread, connection in met:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
                thread.join()


@contextlib.contextmanager
def pages() -> Iterator[str]:
    """What answers for the model over HTTP; load goes to a peer."""
    with answering(lambda path, headers: (200, json.dumps(MODEL))) as url:
        yield url


def answering_calls(answer: Callable[[int], bytes]) -> Callable[[socket.socket], None]:
    """Treats a connection like a service that answers the call of a stream so, once it is whole."""

    def meet(connection: socket.socket) -> None:
        connection.sendall(SETTINGS)
        came = bytearray()
        while data := connection.recv(1 << 16):
            came += data
            if came.startswith(b"PRI"):
                del came[:24]
            while len(came) >= 9 and len(came) >= (end := 9 + int.from_bytes(came[:3], "big")):
                frame, _ = Frame.parse_frame_header(memoryview(bytes(came[:9])))
                frame.parse_body(memoryview(bytes(came[9:end])))
                del came[:end]
                if isinstance(frame, DataFrame) and "END_STREAM" in frame.flags:
                    connection.sendall(answer(frame.stream_id))

    return meet


def head(stream: int, *, end: bool = False, **headers: str) -> bytes:
    """A head; `status` is HTTP's, and `_` stands for the dash of a name."""
    named = [(":status" if name == "status" else name.replace("_", "-"), value) for name, value in headers.items()]
    flags = ["END_HEADERS", *(["END_STREAM"] if end else [])]
    return HeadersFrame(stream, Encoder().encode(named), flags=flags).serialize()


def well(stream: int) -> bytes:
    """The answer to a call: that all is well."""
    content = DataFrame(stream, b"\0\0\0\0\1a").serialize()
    return head(stream, status="200") + content + head(stream, end=True, grpc_status="0")
