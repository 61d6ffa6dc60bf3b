"""Ways of asking servers, measured in interleaved rounds, and the table and verdicts that follow."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import onnxruntime as ort
from _serving_load import Load, closed_loop, grpc_loop, tree_seconds
from _serving_models import Array
from _serving_peers import Server

from workbench.service._requests import ServedModel, make_messages

BARE = "session.run"


class Way(NamedTuple):
    """One way of asking: what its row is called, whose processor time counts, and what asks for so many seconds."""

    name: str
    pid: int
    ask: Callable[[float], Load]


class Found(NamedTuple):
    """What one way took in one round: processor µs and load generator's µs per request, and requests per second."""

    cpu_us: float
    own_us: float
    per_second: float


Results = dict[str, list[Found]]


def bare(model: Path, array: Array) -> Way:
    """The inference with nothing around it, in this process."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def ask(seconds: float) -> Load:
        begun, count = time.perf_counter(), 0
        while (now := time.perf_counter() - begun) < seconds:
            session.run(None, {"x": array})
            count += 1
        return Load(count, now, 0.0)

    return Way(BARE, os.getpid(), ask)


def ways_of(servers: Sequence[Server], model: str, array: Array, connections: int, only: str = "") -> list[Way]:
    """Every protocol of every server, or one of them."""

    def way(server: Server, kind: str) -> Way:
        request = server.requests[kind](model, array)
        return Way(f"{server.name}, {kind}", server.pid, lambda s: closed_loop(server.port, request, s, connections))

    return [way(server, kind) for server in servers for kind in server.requests if only in ("", kind)]


def grpc_ways(servers: Sequence[Server], model: str, array: Array, connections: int) -> list[Way]:
    """Every server that answers gRPC."""
    [message] = make_messages(ServedModel(model, "", (("x", "FP32", array.shape),)), [{"x": array}])

    def way(server: Server) -> Way:
        port = server.grpc_port
        return Way(f"{server.name}, gRPC", server.pid, lambda s: grpc_loop(port, message, s, connections))

    return [way(server) for server in servers if server.grpc_port]


def measure(ways: Sequence[Way], rounds: int, seconds: float) -> Results:
    """Goes through all ways, round after round, forwards and backwards; what fails is said and left out."""
    results: Results = {way.name: [] for way in ways}
    for round_ in range(-1, rounds):  # round -1 warms up
        for way in ways if round_ % 2 else ways[::-1]:
            if way.name not in results:
                continue
            try:
                before = tree_seconds(way.pid)
                load = way.ask(seconds)
                used = tree_seconds(way.pid) - before
            except (OSError, RuntimeError) as error:
                print(f"left out: {way.name}: {error}")
                del results[way.name]
                continue
            if round_ >= 0:
                per = 1e6 / load.count
                results[way.name].append(Found(used * per, load.own_seconds * per, load.count / load.seconds))
    return results


def efficiencies(results: Results, name: str) -> list[float]:
    """Round by round, the bare inference's processor time over that of a request."""
    return [alone.cpu_us / one.cpu_us for alone, one in zip(results[BARE], results[name], strict=True)]


def print_table(title: str, results: Results) -> None:
    """A row for each way of asking."""
    print(f"\n{title}")
    print(f"  {'':30}{'requests/s':>22}{'CPU µs/request':>24}{'efficiency':>20}{'load generator':>17}")
    for name, rounds in results.items():
        rates, costs = [one.per_second for one in rounds], [one.cpu_us for one in rounds]
        own = statistics.median(one.own_us for one in rounds)
        shares = [100 * share for share in efficiencies(results, name)]
        print(f"  {name:30}{spread(rates):>22}{spread(costs):>24}{spread(shares, ' %'):>20}{own:>14.0f} µs", flush=True)


def spread(values: Sequence[float], unit: str = "") -> str:
    """The median, and the lowest and highest."""
    return f"{statistics.median(values):.0f}{unit} ({min(values):.0f} to {max(values):.0f})"


def compare(results: Results, ours: str, peer: str, wanted: float) -> None:
    """Our requests per second over those of the fastest way to ask a peer, round by round."""
    rivals = [name for name in results if name.startswith(peer)]
    if not rivals or ours not in results:
        print(f"  not compared: {peer} is left out")
        return
    best = max(rivals, key=lambda name: statistics.median(one.per_second for one in results[name]))
    pairs = zip(results[ours], results[best], strict=True)
    times = statistics.median(mine.per_second / its.per_second for mine, its in pairs)
    verdict(times >= wanted, f"{ours}: {times:.2f} × the requests/s of {best}, at least {wanted:g} × wanted")


def verdict(met: bool, words: str) -> None:
    """A target, and whether it is met."""
    print(f"  {'met   ' if met else 'MISSED'} {words}", flush=True)
