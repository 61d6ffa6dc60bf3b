"""Models built to have a fault, and contexts as `explain` hands them to rules."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from workbench import findings as package
from workbench.backends import build_engine
from workbench.comparison import Candidate, Comparison, Row
from workbench.dataset import Dataset
from workbench.engine import Engine
from workbench.findings import Context, Finding, make_context, trials
from workbench.measure.environment import read_environment
from workbench.measure.latency import measure_latency, speedup
from workbench.measure.profile import profile_layers
from workbench.model import Model, read_model
from workbench.transforms import transform
from workbench.workspace import Workspace

Explained = Callable[..., dict[str, Context]]
Again = Callable[[Mapping[str, Context]], Iterator[Mapping[str, Context]]]
FindMeasured = Callable[[Any, Context], list[Finding]]

ONE_THREAD = {"threads": 1}
TRIES = 4  # where other work makes a short measurement unclear, a rule rightly says nothing
# A convolution kept in float alone would not do: ONNX Runtime quantizes its weights itself, as its neighbours are.
STRETCH = ("residual/first/conv", "residual/first/relu", "residual/second/conv")


@pytest.fixture(scope="session", autouse=True)
def short() -> Iterator[None]:
    """The faults here are built large enough to show in a fraction of the usual time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trials, "SETTINGS", {"seconds": 0.2, "precision": 2.0, "launches": 1})
        patch.setattr(package, "PROFILE_SECONDS", 0.2)
        yield


@pytest.fixture(scope="session")
def in_context(shared_workspace: Workspace) -> Explained:
    """Measures engines in turns and profiles them, the original first; gives what rules get to see of each."""

    def make(engines: Mapping[str, Engine], dataset: Dataset | None = None) -> dict[str, Context]:
        stats = measure_latency(list(engines.values()), {"seconds": 0.2, "launches": 1}, dataset=dataset)
        rows = []
        for (name, engine), timing in zip(engines.items(), stats, strict=True):
            ratio = speedup(stats[0], timing)
            rows.append(Row(Candidate(name, engine), timing, ratio.p10, ratio.p50, ratio.cpu))
        comparison = Comparison(tuple(rows), "samples", 1, read_environment())
        contexts = {}
        for row in rows:
            profile = profile_layers(
                row.candidate.engine, {"seconds": 0.2}, dataset=dataset, workspace=shared_workspace
            )
            contexts[row.name] = make_context(comparison, row, profile, dataset=dataset, workspace=shared_workspace)
        return contexts

    return make


@pytest.fixture(scope="session")
def again(in_context: Explained) -> Again:
    """Contexts as they were measured, and then measured again, as often as it is asked for."""

    def measure(contexts: Mapping[str, Context]) -> Iterator[Mapping[str, Context]]:
        yield contexts
        engines = {name: context.row.candidate.engine for name, context in contexts.items()}
        for _ in range(TRIES - 1):
            yield in_context(engines)

    return measure


@pytest.fixture
def find_measured(tmp_path: Path) -> FindMeasured:
    """What a rule finds that measures by itself, which it does again where it finds nothing."""

    def find(rule: Any, context: Context) -> list[Finding]:
        places = (context.workspace, *(Workspace(tmp_path / f"try {number}") for number in range(1, TRIES)))
        tries = (list(rule.find(dataclasses.replace(context, workspace=place))) for place in places)
        return next(filter(None, tries), [])

    return find


@pytest.fixture(scope="session")
def quantized(
    digits: Model, calibration: Dataset, evaluation: Dataset, shared_workspace: Workspace, in_context: Explained
) -> dict[str, Context]:
    """The digits as they are, well quantized, and quantized in three ways that cost time, on ONNX Runtime."""

    def made(name: str, **options: Any) -> Engine:
        model = transform(digits, name, options, dataset=calibration, workspace=shared_workspace)
        return build_engine(model, options=ONE_THREAD)

    engines = {
        "original": build_engine(digits, options=ONE_THREAD),
        "unsigned": made("quantize_static"),
        "signed": made("quantize_static", activations="signed"),
        "dynamic": made("quantize_dynamic", convolutions=True),
        "partly": made("quantize_static", keep_float=STRETCH),
        "kept": made("quantize_static", keep_float=STRETCH[:1]),
    }
    engines["single"] = build_engine(engines["kept"].model, options={**ONE_THREAD, "float_layers": "quantize"})
    return in_context(engines, evaluation)


@pytest.fixture(scope="session")
def convolutions(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Model]:
    """Writes a chain of 3×3 convolutions with Relu between, `x` float32[batch, channels, size, size] → `y`."""

    def write(name: str, channels: Sequence[int], *, size: int = 32, zeros: float = 0.0) -> Model:
        random = np.random.default_rng(0)
        nodes, weights, last = [], [], "x"
        for place, (inputs, outputs) in enumerate(itertools.pairwise(channels)):
            values = random.standard_normal((outputs, inputs, 3, 3)).astype(np.float32) / np.float32(3 * inputs**0.5)
            values[random.random(values.shape) < zeros] = 0
            weights.append(numpy_helper.from_array(values, f"weight {place}"))
            nodes.append(
                helper.make_node("Conv", [last, f"weight {place}"], [f"sum {place}"], f"conv {place}", pads=[1] * 4)
            )
            nodes.append(helper.make_node("Relu", [f"sum {place}"], [last := f"out {place}"], f"relu {place}"))
        nodes[-1].output[0] = "y"
        return _save(
            tmp_path_factory.mktemp("models") / f"{name}.onnx", nodes, weights, [channels[0], size, size], channels[-1:]
        )

    return write


@pytest.fixture(scope="session")
def products(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Model]:
    """Writes a chain of matrix products with Relu between, `x` float32[batch, width] → `y`."""

    def write(name: str, width: int, depth: int) -> Model:
        random = np.random.default_rng(0)
        nodes, weights, last = [], [], "x"
        for place in range(depth):
            values = random.standard_normal((width, width)).astype(np.float32) / np.float32(width**0.5)
            weights.append(numpy_helper.from_array(values, f"weight {place}"))
            nodes.append(helper.make_node("MatMul", [last, f"weight {place}"], [f"sum {place}"], f"product {place}"))
            nodes.append(helper.make_node("Relu", [f"sum {place}"], [last := f"out {place}"], f"relu {place}"))
        nodes[-1].output[0] = "y"
        return _save(tmp_path_factory.mktemp("models") / f"{name}.onnx", nodes, weights, [width], [width])

    return write


def _save(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    weights: Sequence[onnx.TensorProto],
    inputs: Sequence[int],
    outputs: Sequence[int],
) -> Model:
    shape = ["batch", *outputs, *inputs[1:]]
    graph = helper.make_graph(
        nodes,
        path.stem,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", *inputs])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        weights,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return read_model(path)
