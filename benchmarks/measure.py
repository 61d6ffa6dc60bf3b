"""Whether measured numbers hold: overhead, agreement with LoadGen, telling candidates apart, a busy machine."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from _chain import chain
from _nets import resnet50

import workbench as wb
from workbench.measure._stopwatch import time_calls

TRIALS = 100
TRIAL_SECONDS = 1.5
BURNERS = 3


def main() -> None:
    """Prints every figure; `trials N` makes N trials only."""
    if sys.argv[1:2] == ["trials"]:
        trials(int(sys.argv[2]))
        return
    overhead()
    against_loadgen()
    under_load()
    trials(TRIALS)


def overhead() -> None:
    """One measured inference of a model that does next to nothing, against a bare loop of `session.run`."""
    print("overhead of one inference over a bare session.run loop (one-node model, 5000 calls, 15 interleaved rounds)")
    with tempfile.TemporaryDirectory() as folder:
        path = one_node(Path(folder) / "relu.onnx")
        engine = wb.build_engine(wb.load_model(path), options={"threads": 1})
        feed = {"x": np.ones((1, 4), np.float32)}
        with wb.open_runner(engine) as runner:
            session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
            run = runner.bind(feed)
            ways = {"bare loop": lambda n: bare(session, feed, n), "workbench": lambda n: seconds(time_calls, run, n)}
            with contextlib.suppress(ImportError):
                ways["Polygraphy"] = polygraphy(path, feed)
            found: dict[str, list[float]] = {name: [] for name in ways}
            for _ in range(15):
                for name, way in ways.items():
                    found[name].append(way(5000) / 5000 * 1e6)
        with contextlib.suppress(ImportError, wb.WorkbenchError):
            reported = wb.measure_with_loadgen(engine, {"scenario": "SingleStream", "seconds": 2}).p50_ms * 1000
            print(f"  LoadGen reports a median of {reported:.2f} µs")
    base = np.array(found["bare loop"])
    for name, values in found.items():
        print(f"  {name:12}{np.median(values):8.2f} µs   over the bare loop {np.median(values - base):+7.2f} µs")


def one_node(path: Path) -> Path:
    """A model of one Relu on four numbers."""
    helper = onnx.helper
    tensors = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", 4]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "relu", tensors[:1], tensors[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def bare(session: onnxruntime.InferenceSession, feed: dict[str, np.ndarray], count: int) -> float:
    """Seconds of a loop without any clock in it."""
    start = time.perf_counter()
    for _ in range(count):
        session.run(["y"], feed)
    return time.perf_counter() - start


def seconds(call, *arguments) -> float:  # type: ignore[no-untyped-def]
    """Seconds of one call."""
    start = time.perf_counter()
    call(*arguments)
    return time.perf_counter() - start


def polygraphy(path: Path, feed: dict[str, np.ndarray]):  # type: ignore[no-untyped-def]
    """The peer's runner, which keeps its own inference time; imported only where it is installed."""
    from polygraphy.backend.onnxrt import OnnxrtRunner, SessionFromOnnx
    from polygraphy.logger import G_LOGGER

    G_LOGGER.severity = G_LOGGER.ERROR

    def way(count: int) -> float:
        with OnnxrtRunner(SessionFromOnnx(str(path), providers=["CPUExecutionProvider"])) as runner:
            start = time.perf_counter()
            for _ in range(count):
                runner.infer(feed)
                runner.last_inference_time()
            return time.perf_counter() - start

    return way


def against_loadgen() -> None:
    """A ResNet-50-sized model: what timing adds to a bare loop, and LoadGen's median in SingleStream, in turns."""
    with tempfile.TemporaryDirectory() as folder:
        model = wb.load_model(resnet50(Path(folder) / "resnet50.onnx"))
        engine = wb.build_engine(model, options={"threads": 1})
        ours, peer, ratios = [], [], []
        for number in range(6):
            found: dict[str, float] = {}
            for who in ("ours", "peer") if number % 2 else ("peer", "ours"):
                found[who] = median_of(engine) if who == "ours" else loadgen_median_of(engine)
            ours.append(found["ours"])
            peer.append(found["peer"])
            ratios.append(found["ours"] / found["peer"])
        added = loop_ratio(engine)
    print(
        f"ResNet-50, one thread: timed loop against bare loop {100 * (added - 1):+.3f} %; median {np.median(ours):.2f} "
        f"ms, LoadGen SingleStream {np.median(peer):.2f} ms, ratio {np.median(ratios):.4f} "
        f"({min(ratios):.4f}–{max(ratios):.4f}, six pairs in turns)"
    )


def median_of(engine: wb.Engine) -> float:
    """Median latency as the workbench measures it, ms."""
    [stats] = wb.measure_latency([engine], {"seconds": 6, "precision": 0.1, "launches": 1})
    assert stats.p50 is not None
    return stats.p50.value


def loadgen_median_of(engine: wb.Engine) -> float:
    """Median latency as LoadGen measures it, ms."""
    return wb.measure_with_loadgen(engine, {"scenario": "SingleStream", "seconds": 6}).p50_ms


def loop_ratio(engine: wb.Engine) -> float:
    """Fastest inference of a loop that is timed call by call, against the fastest of a bare loop."""
    feed = {spec.name: np.zeros((1, *spec.shape[1:]), np.float32) for spec in engine.model.inputs}
    with wb.open_runner(engine) as runner:
        run = runner.bind(feed)
        pairs = []
        for _ in range(20):
            start = time.perf_counter()
            for _ in range(5):
                run()
            pairs.append((time.perf_counter() - start, seconds(time_calls, run, 5)))
    bare_loop, timed = np.array(pairs).min(axis=0)
    return float(timed / bare_loop)


def under_load() -> None:
    """Speed-up of INT8 over float on a quiet machine, and beside three processes that burn processor time."""
    print(f"speed-up of INT8 over float, quiet and beside {BURNERS} burning processes")
    with tempfile.TemporaryDirectory() as folder:
        digits = wb.load_model("sample:digits")
        calibration = wb.load_dataset("sample:digits", "calibration")
        net = wb.load_model(resnet50(Path(folder) / "resnet50.onnx"))
        random = np.random.default_rng(0).random((8, 3, 224, 224), np.float32)
        samples = wb.Dataset({net.inputs[0].name: random})
        for model, data in ((digits, calibration), (net, samples)):
            workspace = wb.Workspace(Path(folder) / "workspace")
            int8 = wb.transform(model, "quantize_static", {"samples": 8}, dataset=data, workspace=workspace)
            engines = [wb.build_engine(each, options={"threads": 1}) for each in (model, int8)]
            for _ in range(3):
                quiet = measured(engines)
                with burning():
                    busy = measured(engines)
                off = busy.p10 / quiet.p10 - 1
                print(
                    f"  {model.name:12} quiet {quiet.p10:.3f} ×   busy {busy.p10:.3f} × (off {100 * off:+.1f} %)   "
                    f"by medians {busy.p50:.3f} × (off {100 * (busy.p50 / quiet.p50 - 1):+.1f} %)   "
                    f"processor time {busy.cpu:.3f} × (off {100 * (busy.cpu / quiet.cpu - 1):+.1f} %)   "
                    f"badge {'●' if busy.good else '○'} (quiet {'●' if quiet.good else '○'})"
                )


class Ratios:
    """Speed-ups of one measurement, and whether its badge is good."""

    def __init__(self, stats: tuple[wb.LatencyStats, ...]) -> None:
        ratio = wb.speedup(*stats)
        self.p10, self.p50, self.cpu = ratio.p10.value, ratio.p50.value, ratio.cpu.value
        self.good = all(each.trust.good for each in stats)


def measured(engines: list[wb.Engine]) -> Ratios:
    """The speed-up of the second over the first."""
    return Ratios(wb.measure_latency(engines, {"seconds": 4, "precision": 0.1}))


@contextlib.contextmanager
def burning() -> Iterator[None]:
    """Processes that burn processor time, for five minutes at most, ended with the block."""
    code = "import time\nend = time.monotonic() + 300\nwhile time.monotonic() < end: pass"
    processes = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(BURNERS)]
    try:
        time.sleep(0.5)
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def trials(count: int) -> None:
    """Three candidates a trial: two of them identical, one with 3 % more layers."""
    with tempfile.TemporaryDirectory() as folder:
        models = [
            wb.load_model(chain(Path(folder) / f"{name}.onnx", layers)) for name, layers in (("a", 66), ("b", 68))
        ]
        same, slower = (wb.build_engine(model, options={"threads": 1}) for model in models)
        called_same = told_apart = 0
        ratios, longest = [], 0.0
        for number in range(count):
            start = time.monotonic()
            first, twin, third = wb.measure_latency([same, same, slower], {"seconds": TRIAL_SECONDS, "precision": 0.1})
            longest = max(longest, time.monotonic() - start)
            called_same += not wb.speedup(first, twin).p10.differs_from_1
            ratio = wb.speedup(first, third).p10
            told_apart += ratio.high < 1
            ratios.append(ratio.value)
            if (number + 1) % 10 == 0:
                print(
                    f"  after {number + 1} trials: identical called no different {called_same}, "
                    f"68 layers told from 66 {told_apart}, their ratio {1 / np.median(ratios):.4f}, "
                    f"longest trial {longest:.1f} s",
                    flush=True,
                )


if __name__ == "__main__":
    main()
