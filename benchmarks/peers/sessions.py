"""The models of the benchmark, opened alike in every peer: ONNX Runtime on one thread."""

from __future__ import annotations

import os
from pathlib import Path

import onnxruntime as ort

NAMES = ("net", "mlp")


def open_session(name: str) -> ort.InferenceSession:
    """Opens a model of the folder that the benchmark names."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    path = Path(os.environ["BENCHMARK_MODELS"], f"{name}.onnx")
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
