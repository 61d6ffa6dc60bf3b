"""Load over gRPC on services that take no call, or end a connection in the middle: nothing is lost from the count."""

from __future__ import annotations

import itertools
import select
import socket
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from hyperframe.frame import GoAwayFrame, PingFrame, RstStreamFrame

from tests.service.peers import SETTINGS, answering_calls, pages, peer, well
from workbench.service._connection import Connection, Owner
from workbench.service._grpc_wire import GrpcWire
from workbench.service._target import Target
from workbench.service.load import ServiceLoad, load_service
from workbench.service.report import service_load_facts

CLOSED: dict[str, Any] = {"connections": 2, "seconds": 0.5, "warmup_s": 0.0}
OPEN: dict[str, Any] = {**CLOSED, "pattern": "constant", "rate": 20.0, "max_wait_s": 60.0}
BAD_FRAME = b"\xff" * 20


def load(answer: Callable[[int], bytes], options: dict[str, Any]) -> ServiceLoad:
    with pages() as url, peer(answering_calls(answer)) as port:
        return load_service(url, {**options, "model": "m", "tensors": "grpc", "grpc_port": port})


def reset(stream: int) -> bytes:
    return RstStreamFrame(stream, 7).serialize()


def go(stream: int) -> bytes:
    return GoAwayFrame(0, last_stream_id=0).serialize()


@pytest.mark.parametrize("options", [CLOSED, OPEN], ids=["closed", "open"])
@pytest.mark.parametrize("answer", [reset, go])
def test_a_service_that_takes_no_call_refuses_all_and_is_not_stormed(
    answer: Callable[[int], bytes], options: dict[str, Any]
) -> None:
    asked = itertools.count()

    def counted(stream: int) -> bytes:
        next(asked)
        return answer(stream)

    found = load(counted, options)
    assert set(found.statuses) == {503}
    assert found.answered == found.refused
    if options is OPEN:
        assert found.answered == 10  # 20 a second for 0.5 s
    assert next(asked) == 1 + 2 * found.answered  # each goes out twice, but for the one before
    assert found.lost == 0
    assert f"0 of {found.answered} with 200; {found.answered} with 503" in service_load_facts(found)["Answers"]


@pytest.mark.parametrize("options", [CLOSED, OPEN], ids=["closed", "open"])
def test_a_call_that_is_not_taken_goes_out_again(options: dict[str, Any]) -> None:
    lock, numbers = threading.Lock(), itertools.count()

    def every_fifth(stream: int) -> bytes:
        with lock:
            return go(stream) if next(numbers) % 5 == 4 and stream > 1 else well(stream)

    found = load(every_fifth, {**options, "connections": 1})
    assert found.statuses == {200: found.answered}
    assert (found.lost, found.unsent) == (0, 0)
    if options is OPEN:
        assert found.answered == 10


def test_an_answer_counts_though_what_follows_is_no_http2() -> None:
    numbers = itertools.count()

    def sometimes_bad(stream: int) -> bytes:
        return well(stream) + (BAD_FRAME if next(numbers) % 3 == 2 else b"")

    found = load(sometimes_bad, {**OPEN, "connections": 1})
    assert (found.statuses, found.lost, found.reasons) == ({200: 10}, 0, {})


def test_an_answer_counts_though_nothing_more_can_be_sent() -> None:
    """The service asks for a sign of life behind its answer, and the connection no longer takes one."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        owner = Owner(Target(socket.AF_INET, listener.getsockname()), partial(GrpcWire, "127.0.0.1", False, 1.0))
        connection = Connection(owner)
        connection.open()
        there, _ = listener.accept()
        with there, owner.poller:
            connection.ready(select.EPOLLOUT)
            owner.idle.remove(connection)
            connection.send(b"hello", 0)
            there.sendall(SETTINGS + well(1) + PingFrame(0, b"12345678").serialize())
            assert connection.socket is not None
            connection.socket.shutdown(socket.SHUT_WR)
            assert owner.poller.poll(60)
            connection.ready(select.EPOLLIN)
            assert (owner.statuses, owner.lost, owner.busy) == ({200: 1}, 0, 0)
            assert (owner.idle, owner.broken) == ([], [connection])
            connection.close()
