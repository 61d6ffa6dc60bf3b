"""What the tests of transforms share."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from tests.transforms.transformer import make_samples, write_transformer
from workbench.backends import build_engine, open_runner
from workbench.dataset import Dataset
from workbench.importers import load_model
from workbench.jobs import silent
from workbench.measure.output_error import output_error
from workbench.model import Model, Step, read_model
from workbench.options import make_options
from workbench.plugins import find_plugin

Apply = Callable[..., Model]
Run = Callable[..., NDArray[Any]]
Save = Callable[..., Model]


@pytest.fixture(scope="session")
def transformer(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A transformer block with its weights in another file."""
    return load_model(write_transformer(tmp_path_factory.mktemp("block") / "block.onnx", external="block.data"))


@pytest.fixture(scope="session")
def noise() -> Dataset:
    return make_samples(16)


@pytest.fixture
def apply(tmp_path: Path) -> Apply:
    """Applies a transform as `transform` does, in this process: starting another takes longer than the work."""
    counted = itertools.count()

    def apply(
        model: Model, name: str, options: Mapping[str, Any] | None = None, dataset: Dataset | None = None
    ) -> Model:
        plugin = find_plugin("transforms", name)
        target = tmp_path / f"{name}_{next(counted)}.onnx"
        notes = plugin.apply(model, make_options(plugin.Options, options, name), dataset, target, silent)
        return read_model(target, name=model.name, history=(Step(name, dict(options or {}), notes or ()),))

    return apply


@pytest.fixture(scope="session")
def run() -> Run:
    """The first output of a model for samples."""

    def run(model: Model, dataset: Dataset, backend: str = "onnxruntime", **options: Any) -> NDArray[Any]:
        with open_runner(build_engine(model, backend, options)) as runner:
            return runner.infer(dataset.inputs)[model.outputs[0].name]

    return run


@pytest.fixture(scope="session")
def sqnr(run: Run) -> Callable[..., float]:
    """Signal-to-noise ratio in dB of a model's answers against another's on ONNX Runtime."""

    def measure(original: Model, made: Model, dataset: Dataset, backend: str = "onnxruntime", **options: Any) -> float:
        error = output_error(run(original, dataset), run(made, dataset, backend, **options))
        assert error is not None
        return np.inf if error.sqnr_db is None else error.sqnr_db

    return measure


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """Writes a graph as a model, and reads that."""

    def write(
        nodes: list[onnx.NodeProto],
        inputs: dict[str, list[Any]],
        outputs: dict[str, list[Any]],
        constants: dict[str, NDArray[Any]] | None = None,
        opset: int = 17,
    ) -> Model:
        values = [
            [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name, shape in shapes.items()]
            for shapes in (inputs, outputs)
        ]
        tensors = [onnx.numpy_helper.from_array(array, name) for name, array in (constants or {}).items()]
        graph = onnx.helper.make_graph(nodes, "made", *values, tensors)
        proto = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=8)
        onnx.save(proto, tmp_path / "made.onnx")
        return load_model(tmp_path / "made.onnx")

    return write
