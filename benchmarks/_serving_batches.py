"""What batches do to an exported service: those that a measurement chose, over none, in the rounds of one load."""

from __future__ import annotations

import contextlib
import json
import statistics
from pathlib import Path

from _serving_load import closed_loop, tree_seconds
from _serving_models import build_mlp, build_net, changed, pack, sample_of
from _serving_peers import Server, running_package

CONNECTIONS = (1, 8, 32)
WANTED = 0.97


def compare_batches(folder: Path, rounds: int, seconds: float) -> None:
    """Prints requests per second and processor time of packages with the chosen batches, and over those without."""
    folder.mkdir(parents=True)
    print("\nBatches as measured against none, by connections")
    for path in (
        build_mlp(folder / "mlp.onnx"),
        build_mlp(folder / "mlp-wide.onnx", (64, 512, 512, 10)),
        build_net(folder / "net.onnx"),
    ):
        package = pack(path, folder / f"{path.stem}-on", measured=True, divided=True)
        entry = json.loads((package / "config.json").read_text())["models"][0]
        chosen = (
            f"batches of {entry['max_batch']}, wait {entry['batch_wait_ms']:g} ms" if entry["max_batch"] > 1 else "none"
        )
        print(f"  {path.stem}: {chosen}; {entry['instances']} instance(s), {entry['threads']} thread(s)")
        without = changed(package, folder / f"{path.stem}-off", model={"max_batch": 1, "batch_wait_ms": 0})
        request_of = sample_of(path)
        with contextlib.ExitStack() as stack:
            pair = [stack.enter_context(running_package(at, at.name)) for at in (package, without)]
            requests = [server.requests["binary"](entry["name"], request_of) for server in pair]
            for connections in CONNECTIONS:
                compare_pair(pair, requests, connections, rounds, seconds, same=entry["max_batch"] == 1)


def compare_pair(
    pair: list[Server], requests: list[bytes], connections: int, rounds: int, seconds: float, same: bool
) -> None:
    """One line: the pair in turns, and whether the target is met."""
    rates: tuple[list[float], list[float]] = ([], [])
    costs: tuple[list[float], list[float]] = ([], [])
    for round_ in range(-1, rounds):
        both = list(zip(pair, requests, rates, costs, strict=True))
        for server, request, rate, cost in both if round_ % 2 else both[::-1]:
            before = tree_seconds(server.pid)
            load = closed_loop(server.port, request, seconds, connections)
            if round_ >= 0:
                rate.append(load.count / load.seconds)
                cost.append((tree_seconds(server.pid) - before) / load.count * 1e6)
    ratios = [with_ / without for with_, without in zip(*rates, strict=True)]
    ratio = statistics.median(ratios)
    cost, cost_without = map(statistics.median, costs)
    met = "met   " if ratio >= WANTED else "met    (the same package twice: noise)" if same else "MISSED"
    print(
        f"  {connections:>4}{statistics.median(rates[0]):>8.0f} requests/s, {ratio:.2f} × "
        f"({min(ratios):.2f} to {max(ratios):.2f}) without, at least {WANTED:g} × wanted;"
        f"{cost:>6.0f} µs, {cost / cost_without:.2f} ×  {met}",
        flush=True,
    )
