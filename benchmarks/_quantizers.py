"""Quantizes one model with one tool in a process of its own, and reports time and memory: `_quantizers.py JOB`."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np


def main() -> None:
    """Reads a job, does it, and prints what it took as one line of JSON."""
    job = json.loads(Path(sys.argv[1]).read_text())
    watch = _Memory()
    start = time.perf_counter()
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        _TOOLS[job["tool"]](job)
    seconds = time.perf_counter() - start
    print(json.dumps({"seconds": seconds, "megabytes": watch.stop()}))


class _Memory(threading.Thread):
    """The most memory of its own that this process held; pages of mapped files are the system's."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._peak, self._going = 0, True
        self.start()

    def run(self) -> None:
        while self._going:
            for line in Path("/proc/self/status").read_text().splitlines():
                if line.startswith("RssAnon"):
                    self._peak = max(self._peak, int(line.split()[1]))
            time.sleep(0.02)

    def stop(self) -> float:
        """Ends and returns the peak, MB."""
        self._going = False
        self.join()
        return self._peak / 1024


def _samples(job: dict[str, Any]) -> np.ndarray:
    return np.load(job["data"], mmap_mode="r")[: job["samples"]]


def _batches(job: dict[str, Any], size: int) -> Iterator[dict[str, np.ndarray]]:
    data = _samples(job)
    for start in range(0, len(data), size):
        yield {job["input"]: np.ascontiguousarray(data[start : start + size])}


def run_float(job: dict[str, Any]) -> None:
    """Runs the float model over the samples, which no calibration can do without."""
    import onnxruntime

    session = onnxruntime.InferenceSession(job["model"], providers=["CPUExecutionProvider"])
    for batch in _batches(job, 8):
        session.run(None, batch)


def workbench(job: dict[str, Any]) -> None:
    """Ours, as the transform's own process runs it."""
    from workbench.dataset import Dataset
    from workbench.importers import load_model
    from workbench.options import make_options
    from workbench.transforms import quantize_static

    options = {"samples": job["samples"], "calibration": job["method"], **job.get("options", {})}
    quantize_static.apply(
        load_model(job["model"]),
        make_options(quantize_static.Options, options, "bench"),
        Dataset({job["input"]: _samples(job)}),
        Path(job["output"]),
        lambda share, text: None,
    )


def onnxruntime(job: dict[str, Any]) -> None:
    """ONNX Runtime's own, with the types that its processor kernels run fastest."""
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    batches = _batches(job, 1)

    class Reader:
        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(batches, None)

    prepared = f"{job['output']}.prepared.onnx"
    quant_pre_process(job["model"], prepared, skip_symbolic_shape=True)
    method = {"minmax": CalibrationMethod.MinMax, "percentile": CalibrationMethod.Percentile}[job["method"]]
    quantize_static(
        prepared,
        job["output"],
        Reader(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=method,
        extra_options={"CalibPercentile": 99.99} if job["method"] == "percentile" else {},
    )


def onnxsim(job: dict[str, Any]) -> None:
    """onnxsim's native quantizer."""
    import onnx
    import onnxsim

    batches = list(_batches(job, 8))
    extra = {"percentile": 99.99} if job["method"] == "percentile" else {}
    made = onnxsim.quantize_static(
        onnx.load(job["model"]), batches, method=job["method"], per_channel=True, activation_type="uint8", **extra
    )
    onnx.save(made, job["output"])


def nncf(job: dict[str, Any]) -> None:
    """NNCF on the ONNX model."""
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    import nncf as library
    import onnx

    data = library.Dataset(list(_batches(job, 1)))
    made = library.quantize(onnx.load(job["model"]), data, subset_size=job["samples"])
    onnx.save(made, job["output"])


def modelopt(job: dict[str, Any]) -> None:
    """NVIDIA ModelOpt, in an environment of its own."""
    import modelopt.onnx.quantization as library

    library.quantize(
        job["model"],
        quantize_mode="int8",
        calibration_data={job["input"]: np.ascontiguousarray(_samples(job))},
        calibration_method="entropy" if job["method"] == "entropy" else "max",
        calibration_eps=["cpu"],
        high_precision_dtype="fp32",
        output_path=job["output"],
    )


_TOOLS = {
    "float run": run_float,
    "workbench": workbench,
    "onnxruntime": onnxruntime,
    "onnxsim": onnxsim,
    "NNCF": nncf,
    "ModelOpt": modelopt,
}


if __name__ == "__main__":
    main()
