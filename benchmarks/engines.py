"""Every backend for processors on nets of known sizes: what our calls add, how fast each is, what callers gain.

`python -m benchmarks engines` does all of it, about 20 minutes. Words choose among parts, nets and backends, and `2`
gives every engine two threads, e.g. `python benchmarks/engines.py table bert_base openvino pytorch 2`.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from _bare_loops import BARE, compare
from _nets import IMAGE, SEQUENCE, TOKENS, bert_base, mobilenet_v2, resnet50

import workbench as wb
from workbench import jobs

NETS: dict[str, Callable[[Path], Path]] = {
    "resnet50": resnet50,
    "mobilenet_v2": mobilenet_v2,
    "bert_base": bert_base,
}
BACKENDS = ("onnxruntime", "openvino", "litert", "mnn", "pytorch")
BATCHES = (1, 8)
SAMPLES = 8  # of the calibration: ranges of random values, since only speed is looked at
REFERENCE = ("pytorch", "float32")  # eager, from which every speed-up is counted
# What each backend is given besides threads, by what its row is called.
FLOAT: dict[str, dict[str, dict[str, Any]]] = {
    "openvino": {"auto": {}, "float32": {"precision": "float32"}},
    "pytorch": {"float32": {}, "compiled": {"mode": "compile"}},
}
# LiteRT quantizes as it converts; the others run the file with Q/DQ nodes that was made for them.
INT8: dict[str, dict[str, Any]] = {"litert": {"quantize": "dynamic"}}
SECONDS = {"bert_base": 4.0}  # of each candidate: enough for a median where one inference takes over a second
ROUNDS, LOAD_SECONDS = 2, 1.5  # of each way to call


class Net(NamedTuple):
    """A net in all its files, and what said that it cannot be built, so that a long conversion fails only once."""

    name: str
    folder: Path
    refused: dict[str, wb.WorkbenchError]

    def engine(self, backend: str, options: dict[str, Any], target: str = "") -> wb.Engine:
        """What a backend makes of the float model, or of the one in INT8 for a target."""
        if not target and backend in self.refused:
            raise self.refused[backend]
        try:
            return wb.build_engine(self.model(target), backend, options)
        except wb.WorkbenchError as error:
            if not target:
                self.refused[backend] = error
            raise

    def model(self, target: str = "") -> wb.Model:
        """The float model, or the one in INT8 for a target; made when it is first asked for."""
        path = self.folder / f"{self.name}.onnx"
        model = wb.load_model(path if path.exists() else NETS[self.name](path))
        if not target:
            return model
        inputs = {model.inputs[0].name: random_inputs(self.name, SAMPLES)}
        options = {"samples": SAMPLES, "target": target}
        return wb.transform(model, "quantize_static", options, dataset=wb.Dataset(inputs))


def main() -> None:
    """Prints every table, or those that are chosen."""
    words, running = sys.argv[1:], backends_here()
    known = {*PARTS, *NETS, *BACKENDS, "2"}
    if unknown := set(words) - known:
        raise SystemExit(f"{', '.join(unknown)}: not among {', '.join(sorted(known))}")
    threads = 2 if "2" in words else 1
    with tempfile.TemporaryDirectory() as folder:
        os.environ["WORKBENCH_WORKSPACE"] = f"{folder}/workspace"
        nets = [Net(name, Path(folder), {}) for name in chosen(NETS, words)]
        for part in chosen(PARTS, words):
            for net in nets:
                PARTS[part](net, chosen(running, words), threads)


def chosen(all_of_them: Any, words: Sequence[str]) -> list[str]:
    """Those that are named, or all."""
    return [name for name in all_of_them if name in words] or list(all_of_them)


def backends_here() -> list[str]:
    """The backends that can run here; of the others, why not."""
    plugins = {plugin.name: plugin for plugin in wb.list_plugins("backends")}
    for name in BACKENDS:
        if name not in plugins or not plugins[name].available:
            print(f"{name}: left out: {plugins[name].reason if name in plugins else 'there is no such backend'}")
    return [name for name in BACKENDS if name in plugins and plugins[name].available]


def random_inputs(name: str, count: int) -> np.ndarray:
    """Samples for a net."""
    random = np.random.default_rng(1)
    if name == "bert_base":
        return random.integers(0, TOKENS, (count, SEQUENCE))
    return random.standard_normal((count, 3, IMAGE, IMAGE), np.float32)


def overhead(net: Net, backends: Sequence[str], threads: int) -> None:
    """Our call against the library's own, batch 1; and against OpenVINO's own tool."""
    feed = {net.model().inputs[0].name: random_inputs(net.name, 1)}
    print(f"\n{net.name}, batch 1, {threads} thread{'s' * (threads > 1)}: our call against the library's own loop")
    for backend in (name for name in backends if name in BARE):
        try:
            engine = net.engine(backend, {"threads": threads})
            ours, bare, ratios = jobs.run(compare, engine, feed, progress=jobs.silent)
        except Exception as error:  # whatever another's library makes of a net
            print(f"  {backend:12} {one_line(error)}")
            continue
        low, high = np.percentile(ratios, (25, 75))
        tool = f"   benchmark_app {benchmark_app(engine, feed):.2f} ms" if backend == "openvino" else ""
        print(
            f"  {backend:12}{ours:9.2f} ms{bare:9.2f} ms   {100 * (ours / bare - 1):+.2f} % "
            f"(middle half of rounds {100 * (low - 1):+.2f} to {100 * (high - 1):+.2f}){tool}",
            flush=True,
        )


def benchmark_app(engine: wb.Engine, feed: dict[str, np.ndarray]) -> float:
    """The median that OpenVINO's own tool reports of one stream and synchronous calls, ms."""
    [array] = feed.values()
    tool = Path(sys.executable).with_name("benchmark_app")
    flags = ["-d", "CPU", "-api", "sync", "-hint", "none", "-nstreams", "1", "-t", "3"]
    flags += ["-nthreads", str(engine.options["threads"]), "-shape", str(list(array.shape)).replace(" ", "")]
    done = subprocess.run([tool, "-m", engine.path, *flags], capture_output=True, text=True, check=True)
    found = re.search(r"Median:\s+([\d.]+) ms", done.stdout)
    assert found
    return float(found[1])


def table(net: Net, backends: Sequence[str], threads: int) -> None:
    """Milliseconds, samples per second and × PyTorch eager of every candidate."""
    engines: dict[tuple[str, str], wb.Engine] = {}
    print(f"\n{net.name}, {threads} thread{'s' * (threads > 1)}")
    for backend, kind, options in candidates(backends):
        try:
            of_file = kind == "int8" and backend not in INT8
            target = ("openvino" if backend == "openvino" else "onnxruntime") if of_file else ""
            engines[backend, kind] = net.engine(backend, {"threads": threads, **options}, target)
        except Exception as error:  # whatever another's library makes of a net
            print(f"  {backend:12}{kind:9} {one_line(error)}")
    for batch in BATCHES:
        settings = {"batch": batch, "seconds": SECONDS.get(net.name, 1.5), "launches": 1}
        stats = dict(zip(engines, wb.measure_latency([*engines.values()], settings, keep_going=True), strict=True))
        reference = stats.get(REFERENCE)
        for key, one in sorted(stats.items(), key=lambda item: median(item[1])):
            where = f"  {batch} {key[0]:12}{key[1]:9}"
            if isinstance(one, Exception):
                print(f"{where} {one_line(one)}")
                continue
            ms = median(one)
            times = f"{median(reference) / ms:6.2f} ×" if isinstance(reference, wb.LatencyStats) else ""
            print(f"{where}{ms:9.2f} ms{1000 * batch / ms:10.1f} samples/s{times}   {places(one)}", flush=True)


def candidates(backends: Sequence[str]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Backend, what its row is called, and options."""
    for backend in backends:
        for kind, options in FLOAT.get(backend, {"float32": {}}).items():
            yield backend, kind, options
        yield backend, "int8", INT8.get(backend, {})


def median(stats: Any) -> float:
    """Median latency, ms; the mean where there were too few inferences, infinite where there were none."""
    if not isinstance(stats, wb.LatencyStats):
        return float("inf")
    return stats.p50.value if stats.p50 else stats.mean_ms


def places(stats: wb.LatencyStats) -> str:
    """What ran it, the most first."""
    return ", ".join(name for name, _ in sorted(stats.placement.items(), key=lambda item: -item[1])[:2])


# Threads, requests side by side, how they are sent, other options; the first is what the others are compared with.
CALLERS: dict[str, tuple[tuple[str, int, int, str, dict[str, Any]], ...]] = {
    "onnxruntime": (
        ("1 runner × 1 thread", 1, 1, "runners", {}),
        ("1 runner × 2 threads", 2, 1, "runners", {}),
        ("the same, not spinning", 2, 1, "runners", {"spinning": False}),
        ("2 runners × 1 thread", 1, 2, "runners", {}),
        ("2 callers on one of 1 thread", 1, 2, "shared", {}),
        ("2 callers on one of 2 threads", 2, 2, "shared", {}),
        ("2 requests on one of 1 thread", 1, 2, "asynchronous", {}),
        ("2 requests on one of 2 threads", 2, 2, "asynchronous", {}),
        ("the same, not spinning", 2, 2, "asynchronous", {"spinning": False}),
    ),
    "openvino": (
        ("1 runner × 1 thread", 1, 1, "runners", {}),
        ("1 runner × 2 threads", 2, 1, "runners", {}),
        ("2 runners × 1 thread", 1, 2, "runners", {}),
        ("2 callers on one of 1 thread", 1, 2, "shared", {}),
        ("2 callers on 2 streams", 2, 2, "shared", {"streams": 2}),
        ("2 requests on 1 stream", 2, 2, "asynchronous", {}),
        ("2 requests on 2 streams", 2, 2, "asynchronous", {"streams": 2}),
    ),
}


def callers(net: Net, backends: Sequence[str], threads: int) -> None:
    """Throughput of ways to use two cores, each by `measure_load`, in turns."""
    for backend in (name for name in CALLERS if name in backends and net.name != "bert_base"):
        rates: dict[int, Any] = {}
        for _ in range(ROUNDS):
            for place, (_, inside, count, way, options) in enumerate(CALLERS[backend]):
                engine = net.engine(backend, {"threads": inside, **options})
                load = {"instances": count, "concurrency": count, "callers": way, "seconds": LOAD_SECONDS}
                try:
                    found = wb.measure_load(engine, load)
                except wb.WorkbenchError as error:
                    rates[place] = error
                    continue
                rates.setdefault(place, []).append((found.queries_per_second, found.tail_ms))
        print(f"\n{net.name} on {backend}: queries per second, batch 1, {ROUNDS} rounds in turns")
        base = np.median(rates[0], axis=0)[0]
        for place, (what, *_) in enumerate(CALLERS[backend]):
            if isinstance(rates[place], Exception):
                print(f"  {what:32} {one_line(rates[place])}")
                continue
            rate, tail = np.median(rates[place], axis=0)
            print(f"  {what:32}{rate:9.1f}/s{rate / base:6.2f} ×   99th percentile {tail:8.2f} ms", flush=True)


def one_line(error: Exception) -> str:
    """Why something was left out."""
    return " ".join(str(getattr(error, "message", error)).split())[:150]


PARTS: dict[str, Callable[[Net, Sequence[str], int], None]] = {
    "overhead": overhead,
    "table": table,
    "callers": callers,
}


if __name__ == "__main__":
    main()
