"""Measures exported packages beside KServe, MLServer, FastAPI, BentoML and Triton: python -m benchmarks serving.

One run, in interleaved rounds: all servers are up, one at a time is loaded, and each round passes through all of them,
so that the machine's moods fall on all alike. The same ONNX file, the same input, one thread within an inference, one
process each, and ours in as many as the measurement before its export finds best too. The first run makes an
environment for each peer in `.venv-peers` and fetches Triton.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import onnxruntime as ort

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # Triton is started as the tests start it

from _serving_batches import compare_batches
from _serving_models import build_mlp, build_net, changed, pack, sample_of
from _serving_peers import PEERS, Server, running_package, running_peer, running_triton, set_up
from _serving_rounds import bare, compare, efficiencies, grpc_ways, measure, print_table, verdict, ways_of

SCENARIOS = ("binary", "small", "grpc", "json", "batches")
MODELS = {"net": build_net, "mlp": build_mlp, "mlp-alone": build_mlp}  # the last is served without batches
ROUNDS, SECONDS = 15, 0.5  # of each way of asking


def main() -> None:
    """Prints a table for each figure, with its target."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scenarios", nargs="*", help=f"some of {', '.join(SCENARIOS)}; all if none is named")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of each way of asking in each round")
    arguments = parser.parse_args()
    chosen = arguments.scenarios or SCENARIOS
    if unknown := set(chosen) - set(SCENARIOS):
        parser.error(f"{', '.join(sorted(unknown))}: not among {', '.join(SCENARIOS)}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the servers are ended then too
    set_up()
    begun = time.monotonic()
    print(
        f"onnxruntime {ort.__version__}, 1 thread, {os.cpu_count()} cores, which the load generator shares; median of "
        f"{arguments.rounds} rounds of {arguments.seconds:g} s (lowest to highest)"
    )
    with tempfile.TemporaryDirectory() as name:
        os.environ["WORKBENCH_WORKSPACE"] = f"{name}/workspace"
        if set(chosen) - {"batches"}:
            with running(Path(name) / "peers") as servers:
                for key, show in (
                    ("binary", show_binary),
                    ("small", show_small),
                    ("grpc", show_grpc),
                    ("json", show_json),
                ):
                    if key in chosen:
                        show(servers, arguments.rounds, arguments.seconds)
        if "batches" in chosen:
            compare_batches(Path(name) / "batches", arguments.rounds, arguments.seconds)
    print(f"\n{(time.monotonic() - begun) / 60:.0f} minutes")


class Running(NamedTuple):
    """What is up, and the models."""

    ours: dict[str, Server]
    peers: list[Server]
    models: dict[str, Path]


@contextlib.contextmanager
def running(folder: Path) -> Iterator[Running]:
    """Exports the models, and has all servers up for as long as the block lasts; what does not start is said."""
    (at := folder / "models").mkdir(parents=True)
    models = {
        "net": build_net(at / "net.onnx"),
        "mlp": build_mlp(at / "mlp.onnx"),
        "mlp-alone": build_mlp(at / "mlp-alone.onnx"),
    }
    repository = folder / "repository"
    packages = {
        name: pack(
            path,
            folder / name,
            repository,
            measured=name == "mlp",
            loaded=name == "mlp",
            options={"grpc": True},
        )
        for name, path in models.items()
    }
    with contextlib.ExitStack() as stack:
        packages["worker"] = changed(packages["mlp"], folder / "worker", workers=1)
        names = {"net": "ours", "mlp": "ours", "worker": "ours with 1 worker"}
        ours = {key: stack.enter_context(running_package(packages[key], name)) for key, name in names.items()}
        peers = []
        for start in (
            *(lambda peer=peer: running_peer(peer, at) for peer in PEERS),
            lambda: running_triton(repository),
        ):
            try:
                peers.append(stack.enter_context(start()))
            except (OSError, RuntimeError, AssertionError) as error:
                print(f"left out: {error}")
        for server in (ours["net"], *peers):
            print(f"  {server.name}: {server.versions}")
        yield Running(ours, peers, models)


def show_binary(servers: Running, rounds: int, seconds: float) -> None:
    """The cost of a request with a large tensor over that of the bare inference."""
    array = sample_of(servers.models["net"])
    ways = [bare(servers.models["net"], array), *ways_of([servers.ours["net"], *servers.peers], "net", array, 1)]
    results = measure(ways, rounds, seconds)
    print_table("1x3x224x224 float32 (602 kB), 2 to 3 ms of convolutions, 1 connection", results)
    share = statistics.median(efficiencies(results, "ours, binary"))
    verdict(share >= 0.75, f"efficiency {share:.0%} with binary tensors, at least 75 % wanted")


def show_small(servers: Running, rounds: int, seconds: float) -> None:
    """Requests per second where the inference costs next to nothing."""
    array = sample_of(servers.models["mlp"])
    triton = [server for server in servers.peers if server.name == "Triton"]
    unbatched = [server._replace(name="Triton without batches") for server in triton]
    for connections in (8, 32):
        ways = ways_of([servers.ours["mlp"], servers.ours["worker"], *servers.peers], "mlp", array, connections)
        ways += ways_of(unbatched, "mlp-alone", array, connections)
        results = measure([bare(servers.models["mlp"], array), *ways], rounds, seconds)
        print_table(f"MLP 64-128-10, 1x64 float32, {connections} connections", results)
        for mine in (
            "ours",
            "ours with 1 worker",
        ):  # as many workers as were measured to be best; Triton takes all cores
            compare(results, f"{mine}, binary", "Triton", 1.0)
        compare(results, "ours, binary", "KServe", 5.0)


def show_grpc(servers: Running, rounds: int, seconds: float) -> None:
    """The same over gRPC; those of the peers that answer it on this machine alone."""
    array = sample_of(servers.models["mlp"])
    ours = [servers.ours["mlp"], servers.ours["worker"]]
    triton = [server for server in servers.peers if server.name == "Triton"]
    unbatched = [server._replace(name="Triton without batches") for server in triton]
    for connections in (8, 32):
        ways = grpc_ways([*ours, *servers.peers], "mlp", array, connections)
        ways += grpc_ways(unbatched, "mlp-alone", array, connections)
        results = measure([bare(servers.models["mlp"], array), *ways], rounds, seconds)
        print_table(f"MLP 64-128-10 over gRPC, {connections} connections", results)
        compare(results, "ours, gRPC", "Triton", 1.0)
        compare(results, "ours, gRPC", "MLServer", 1.0)


def show_json(servers: Running, rounds: int, seconds: float) -> None:
    """Requests per second where text is the cost."""
    array = sample_of(servers.models["net"])
    ways = ways_of([servers.ours["net"], *servers.peers], "net", array, 1, "JSON")
    results = measure([bare(servers.models["net"], array), *ways], rounds, seconds)
    print_table("150,528 floats in JSON, the same net, 1 connection", results)
    compare(results, "ours, JSON", "KServe", 2.0)


if __name__ == "__main__":
    main()
