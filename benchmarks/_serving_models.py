"""The models of the serving benchmark, their inputs, and the packages that the workbench makes of them."""

from __future__ import annotations

import itertools
import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

import workbench as wb
from workbench.dataset import Dataset
from workbench.package_measure import measure_service
from workbench.serving_measure import measure_serving
from workbench.serving_measurements import Measurements

IMAGE = (3, 224, 224)
CHANNELS = (3, 64, 128, 160, 256)
LAYERS = (64, 128, 10)
SWEEP = {"seconds": 0.3, "steps": 3, "rounds": 3}
Array = NDArray[np.float32]


def build_net(path: Path) -> Path:
    """Writes a small convolution net with random weights: `x` [n, 3, 224, 224], 2 to 3 ms on one thread."""
    random, nodes, weights, last = np.random.default_rng(0), [], [], "x"
    for i, (before, after) in enumerate(itertools.pairwise(CHANNELS)):
        kernel = random.normal(0, 0.1, (after, before, 3, 3)).astype(np.float32)
        weights.append(numpy_helper.from_array(kernel, f"w{i}"))
        stride = 4 if i == 0 else 2
        nodes.append(helper.make_node("Conv", [last, f"w{i}"], [f"c{i}"], strides=[stride] * 2, pads=[1] * 4))
        nodes.append(helper.make_node("Relu", [f"c{i}"], [f"r{i}"]))
        last = f"r{i}"
    nodes.append(helper.make_node("GlobalAveragePool", [last], ["pooled"]))
    nodes.append(helper.make_node("Flatten", ["pooled"], ["scores"]))
    return _write(path, nodes, weights, IMAGE, CHANNELS[-1])


def build_mlp(path: Path, layers: Sequence[int] = LAYERS) -> Path:
    """Writes a small perceptron with random weights: `x` [n, 64]."""
    random, nodes, weights, last = np.random.default_rng(0), [], [], "x"
    for i, size in enumerate(itertools.pairwise(layers)):
        weights.append(numpy_helper.from_array(random.normal(0, 0.1, size).astype(np.float32), f"w{i}"))
        name = "scores" if i == len(layers) - 2 else f"r{i}"
        nodes.append(helper.make_node("MatMul", [last, f"w{i}"], [f"m{i}"]))
        nodes.append(helper.make_node("Relu", [f"m{i}"], [name]))
        last = name
    return _write(path, nodes, weights, layers[:1], layers[-1])


def _write(
    path: Path, nodes: list[onnx.NodeProto], weights: list[onnx.TensorProto], taken: Sequence[int], given: int
) -> Path:
    tensors = ((name, ["n", *sizes]) for name, sizes in (("x", taken), ("scores", (given,))))
    x, scores = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in tensors)
    graph = helper.make_graph(nodes, path.stem, [x], [scores], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))
    return path


def sample_of(path: Path) -> Array:
    """One sample for a model."""
    shape = LAYERS[:1] if "mlp" in path.stem else IMAGE
    return np.random.default_rng(1).random((1, *shape), dtype=np.float32)


def pack(
    path: Path,
    folder: Path,
    repository: Path | None = None,
    *,
    measured: bool = False,
    divided: bool = False,
    loaded: bool = False,
    options: Mapping[str, Any] | None = None,
) -> Path:
    """Exports a model on one thread, by choice with the numbers that follow from a measurement.

    Args:
        path: The ONNX file.
        folder: Where the package of our server goes.
        repository: Triton's, into which the same is exported; not exported if None.
        measured: Whether batches are measured first, as a user does it; else there are none.
        divided: Whether instances and threads are as measured too; else both are 1.
        loaded: Whether the service is started and loaded too, from which its workers follow.
        options: Of our server's package.

    Returns:
        `folder`.
    """
    engine = wb.build_engine(wb.load_model(path), "onnxruntime", {"threads": 1})
    data = Dataset({"x": np.random.default_rng(2).random((16, *sample_of(path).shape[1:]), np.float32)})
    found = None
    if measured:
        curve, swept = measure_serving(engine, data, SWEEP)
        if not divided:
            ones = (replace(point, instances=1) for point in swept.points if point.threads == 1)
            swept = replace(swept, points=tuple(ones))
        found = Measurements(None, curve, swept)
    candidate = wb.Candidate("it", engine)
    if found and loaded:
        found = replace(found, service=measure_service(candidate, found, data, SWEEP))
        print(f"  {path.stem}. {found.service}")
    if repository is not None:
        with tempfile.TemporaryDirectory() as name:
            made = wb.export_package(candidate, "triton", sample=data, measured=found, directory=f"{name}/package")
            shutil.copytree(made.directory / "model_repository", repository, dirs_exist_ok=True)
    wb.export_package(candidate, options=options, sample=data, measured=found, directory=folder)
    return folder


def changed(package: Path, folder: Path, model: Mapping[str, Any] | None = None, **service: Any) -> Path:
    """Copies a package of our server with other numbers in its configuration, and returns where it is."""
    shutil.copytree(package, folder)
    config = json.loads((folder / "config.json").read_text())
    config["models"][0] |= model or {}
    (folder / "config.json").write_text(json.dumps(config | service))
    return folder
