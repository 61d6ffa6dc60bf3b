"""What the workbench adds to the libraries under it: import, one inference, one quantization; peers interleaved."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import helper
from onnxruntime.quantization import QuantFormat, QuantType, quant_pre_process, quantize_static

import workbench as wb

ROUNDS = 15


def main() -> None:
    """Prints one line per figure: ours, the peer, their ratio."""
    print(f"{'':44}{'ours':>12}{'peer':>12}{'ratio':>8}")
    importing()
    inferring()
    quantizing()


def report(what: str, unit: str, ours: list[float], peer: list[float]) -> None:
    """One line of the table: medians, and the median of the rounds' ratios."""
    ratio = float(np.median(np.asarray(ours) / np.asarray(peer)))
    print(f"{what:44}{np.median(ours):>9.3g} {unit}{np.median(peer):>9.3g} {unit}{ratio:>8.2f}")


def interleave(ours: Callable[[], float], peer: Callable[[], float], rounds: int) -> tuple[list[float], list[float]]:
    """Measures both in turns; which goes first alternates."""
    results: tuple[list[float], list[float]] = ([], [])
    for number in range(rounds):
        for index in (0, 1) if number % 2 == 0 else (1, 0):
            results[index].append((ours, peer)[index]())
    return results


def importing() -> None:
    """`import workbench` against `import numpy`, each in a fresh interpreter that has started already."""

    def seconds(module: str) -> float:
        code = f"import time; t = time.perf_counter(); import {module}; print((time.perf_counter() - t) * 1000)"
        return float(subprocess.check_output([sys.executable, "-c", code]))

    report(
        "import workbench, against numpy", "ms", *interleave(lambda: seconds("workbench"), lambda: seconds("numpy"), 7)
    )


def inferring() -> None:
    """One inference through a runner against `InferenceSession.run`, on a model that does next to nothing."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "relu.onnx"
        tensors = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", 4]) for name in "xy"]
        graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "relu", tensors[:1], tensors[1:])
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
        engine = wb.build_engine(wb.load_model(path), options={"threads": 1})
        feed = {"x": np.ones((1, 4), np.float32)}
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        with wb.open_runner(engine) as runner:
            ours, peer = interleave(
                lambda: each(lambda: runner.infer(feed)), lambda: each(lambda: session.run(["y"], feed)), ROUNDS
            )
        report("one empty inference, against session.run", "µs", ours, peer)


def each(call: Callable[[], Any], count: int = 5000) -> float:
    """Microseconds of one call."""
    start = time.perf_counter()
    for _ in range(count):
        call()
    return (time.perf_counter() - start) / count * 1e6


def quantizing() -> None:
    """The transform (subprocess, checks, cache) against a fresh process that calls onnxruntime's quantizer."""
    model, samples = wb.load_model("sample:digits"), wb.load_dataset("sample:digits", "calibration")

    def ours() -> float:
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            wb.transform(model, "quantize_static", dataset=samples, workspace=wb.Workspace(folder))
            return time.perf_counter() - start

    def peer() -> float:
        start = time.perf_counter()
        subprocess.run([sys.executable, __file__, str(model.path), file.name], check=True)
        return time.perf_counter() - start

    with tempfile.NamedTemporaryFile(suffix=".npz") as file:
        np.savez(file, **samples.inputs)
        file.flush()
        report("static quantization of the bundled model", "s ", *interleave(ours, peer, 5))


def quantize_directly(model: str, samples: str) -> None:
    """What the peer's process does: the same steps, by hand."""
    with np.load(samples) as archive:
        images = archive["image"]

    class Reader:
        def __init__(self) -> None:
            self.batches = ({"image": images[start : start + 16]} for start in range(0, len(images), 16))

        def get_next(self) -> Any:
            return next(self.batches, None)

    with tempfile.TemporaryDirectory() as folder:
        prepared, target = f"{folder}/prepared.onnx", f"{folder}/int8.onnx"
        quant_pre_process(model, prepared, skip_symbolic_shape=True)
        types = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8}
        quantize_static(prepared, target, Reader(), quant_format=QuantFormat.QDQ, per_channel=True, **types)


if __name__ == "__main__":
    if sys.argv[1:]:
        quantize_directly(*sys.argv[1:])
    else:
        main()
