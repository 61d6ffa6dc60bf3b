"""Load on services that answer badly: what is lost is counted, and what cannot be sent is said."""

from __future__ import annotations

import contextlib
import http.server
import itertools
import json
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.service.peers import peer
from tests.service.test_metrics import answering
from workbench.errors import ServiceError
from workbench.service.load import load_service
from workbench.service.metrics import read_service
from workbench.service.report import service_load_facts


@contextlib.contextmanager
def moody(moods: dict[int, str], datatype: str = "FP32") -> Iterator[str]:
    """A service that answers the n-th request as `moods` says: not at all, with what is no HTTP, or too late."""
    numbers = itertools.count(1)

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answer({"name": "moody", "inputs": [{"name": "x", "datatype": datatype, "shape": [-1, 2]}]})

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            mood = moods.get(next(numbers), "well")
            if mood == "late":
                ended.wait(120)
            if mood == "garbage":
                self.wfile.write(b"hello\r\n\r\n")
            if mood == "well":
                self._answer({"outputs": []})
            else:
                self.close_connection = True

        def _answer(self, content: object) -> None:
            text = json.dumps(content).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: Any) -> None:
            pass

    ended = threading.Event()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"http://localhost:{server.server_port}"
        finally:
            ended.set()
            server.shutdown()
            thread.join()


def test_requests_without_an_answer_are_lost_and_the_others_are_not() -> None:
    moods = {5: "close", 9: "garbage", 12: "late", 14: "close"}  # the first is the one that is tried before
    options: dict[str, Any] = {"pattern": "constant", "rate": 40.0, "seconds": 0.5, "warmup_s": 0.0, "model": "moody"}
    patience = {"timeout_s": 2.0, "max_wait_s": 30.0}  # more than a busy machine needs for an answer
    with moody(moods) as url:
        begun = time.monotonic()
        found = load_service(url, {**options, **patience})
    assert (found.statuses, found.lost) == ({200: 16}, 4)
    assert "4 lost (2 × closed without an answer, 1 × " in service_load_facts(found)["Answers"]
    assert found.reasons == {"closed without an answer": 2, "no HTTP": 1, "no answer in time": 1}
    assert time.monotonic() - begun < 60  # it did not wait for the late one


def test_what_no_requests_can_be_made_for_is_said() -> None:
    with moody({}, "BYTES") as url, pytest.raises(ServiceError, match="Input 'x' of moody is BYTES"):
        load_service(url, {"model": "moody"})
    served = [f'workbench_in_flight{{model="{name}",version="1"}} 0' for name in ("digits", "letters")]
    text = "".join(f"{line}\n" for line in served)
    with (
        answering(lambda path, headers: (200, text)) as url,
        pytest.raises(ServiceError, match=r"serves digits, letters\. Name the model"),
    ):
        load_service(url)


def test_a_proxy_is_thought_of_only_where_something_answers() -> None:
    with (
        answering(lambda path, headers: (404, "")) as url,
        pytest.raises(ServiceError, match=r"status 404\. .* Of a proxy, .* name the model with the option `model`\."),
    ):
        load_service(url)
    with answering(lambda path, headers: (401, "")) as locked, pytest.raises(ServiceError, match=r"key\.$"):
        load_service(locked)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.shutdown(socket.SHUT_RDWR)
        with pytest.raises(ServiceError, match=r"\(Connection refused\)\. Check that .* its address\.$"):
            load_service(f"127.0.0.1:{listener.getsockname()[1]}")


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (bytes.fromhex("000006040000000000000400100000") + b"\n", "it speaks HTTP/2, as gRPC does"),
        (bytes.fromhex("15030300020246"), "it speaks TLS"),
        (b"\x1b[2J\x00hello\n", r"no HTTP, but '·\[2J·hello'"),
    ],
)
def test_what_speaks_no_http_is_said_in_what_can_be_printed(words: bytes, reason: str) -> None:
    def meet(connection: socket.socket) -> None:
        connection.recv(1 << 16)
        connection.sendall(words)

    with peer(meet) as port, pytest.raises(ServiceError, match=rf"does not answer \({reason}\)\. Check") as refused:
        read_service(f"http://127.0.0.1:{port}")
    assert str(refused.value).isprintable()
