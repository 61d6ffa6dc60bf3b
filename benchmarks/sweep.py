"""The sweep's ladder against its full grid, and the load generator against a bare loop; interleaved in the same run."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from _nets import mobilenet_v2, resnet50

import workbench as wb
from workbench.measure._limited import make_limits
from workbench.measure._load_bench import LoadBench
from workbench.measure._traffic import Traffic, send
from workbench.measure.load import make_feeds

NETS: dict[str, Callable[[Path], Path]] = {"resnet50": resnet50, "mobilenet_v2": mobilenet_v2}
ROUNDS = 10


def main() -> None:
    """Prints a block for each net; `NET SECONDS BATCHES` measure one for less time, e.g. `mobilenet_v2 0.3 1,2,4`."""
    names, seconds, batches = sys.argv[1:2] or list(NETS), "".join(sys.argv[2:3]), "".join(sys.argv[3:4])
    options: dict[str, Any] = {"seconds": float(seconds)} if seconds else {}
    options |= {"batches": [int(each) for each in batches.split(",")]} if batches else {}
    generating()
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            model = wb.load_model(NETS[name](Path(folder) / f"{name}.onnx"))
            for backend in ("onnxruntime", "openvino"):
                if backend in {plugin.name for plugin in wb.list_plugins("backends") if plugin.available}:
                    searching(model, backend, options)


def generating() -> None:
    """What sending adds to a call, against a bare loop: of a closed loop, and of arrivals that all are late."""
    bare, closed, late = [], [], []
    for _ in range(ROUNDS):
        bare.append(_microseconds_of_bare_calls(50_000))
        [notes] = send([_nothing], Traffic("closed", 0.1)).callers
        closed.append(notes[-1, 3] / len(notes) / 1000)
        [notes] = send([_nothing], Traffic("offline", count=50_000)).callers
        late.append(notes[-1, 3] / len(notes) / 1000)
    for what, times in (("a closed loop", closed), ("an open loop", late)):
        added = float(np.median(np.asarray(times) - np.asarray(bare)))
        print(f"one query of {what} costs {added:.2f} µs more than a bare call of {np.median(bare):.2f} µs")


def searching(model: wb.Model, backend: str, options: dict[str, Any]) -> None:
    """The ladder's best against the grid's, measured again in turns, and the time of both."""
    found = {search: wb.sweep(model, backend, {**options, "search": search}) for search in ("ladder", "grid")}
    print(f"\n{model.name} on {backend}, {found['grid'].environment}")
    print(f"{'':8}{'points':>8}{'seconds':>9}{'samples/s':>11}  best")
    for search, result in found.items():
        points = sum(point.state == "measured" for point in result.points)
        rate = result.best.samples_per_second if result.best else 0.0
        print(f"{search:8}{points:>8}{result.seconds:>9.0f}{rate:>11.1f}  {result.best}")
    ladder, grid = (found[search].best for search in ("ladder", "grid"))
    if ladder is None or grid is None:
        return
    share = _head_to_head(model, backend, ladder, grid)
    took = found["ladder"].seconds / found["grid"].seconds
    print(f"the ladder's best is {100 * share:.1f} % of the grid's, in 1/{1 / took:.1f} of its time")


def _head_to_head(model: wb.Model, backend: str, ladder: wb.SweepPoint, grid: wb.SweepPoint) -> float:
    """Throughput of the ladder's choice as a share of the grid's: the median of interleaved rounds."""
    if (ladder.batch, ladder.threads, ladder.instances) == (grid.batch, grid.threads, grid.instances):
        return 1.0
    ratios = []
    with _open(model, backend, ladder) as ours, _open(model, backend, grid) as theirs:
        for bench in (ours, theirs):
            bench.open(3.0, lambda *_: None)
        for _ in range(ROUNDS):
            first, second = (
                bench.run(Traffic("closed", 1.0, concurrency=point.instances), lambda *_: None).samples_per_second
                for bench, point in ((ours, ladder), (theirs, grid))
            )
            ratios.append(first / second)
    return float(np.median(ratios))


def _open(model: wb.Model, backend: str, point: wb.SweepPoint) -> LoadBench:
    threads = {} if point.threads is None else {"threads": point.threads}
    engine = wb.build_engine(model, backend, threads)
    return LoadBench(engine, make_feeds(engine, None, point.batch, point.instances), make_limits(60, 0))


def _microseconds_of_bare_calls(count: int) -> float:
    call, start = _nothing, time.perf_counter()
    for _ in range(count):
        call()
    return (time.perf_counter() - start) / count * 1e6


def _nothing() -> None:
    pass


if __name__ == "__main__":
    main()
