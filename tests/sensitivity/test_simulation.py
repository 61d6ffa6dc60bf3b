"""The simulation against the models that quantize_static really makes."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from tests.sensitivity.spoiled import quantized
from workbench.dataset import Dataset
from workbench.importers import load_model
from workbench.model import Model
from workbench.sensitivity._quantized import Quantized, read_quantized
from workbench.sensitivity._simulation import Simulation
from workbench.transforms._onnxruntime import read_prepared


def read(model: Model, data: Dataset, folder: Path, options: Mapping[str, Any]) -> Quantized:
    made = quantized(model, data, folder / "all.onnx", **options)
    return read_quantized(
        read_prepared(model, folder), onnx.load(made.path), options.get("keep_float", ()), options.get("operators", ())
    )


def run(model: Model, data: Dataset) -> NDArray[Any]:
    session = onnxruntime.InferenceSession(str(model.path), disabled_optimizers=["WeightBiasQuantization"])
    output: NDArray[Any] = session.run(None, dict(data.inputs))[0]
    return output


def decibel(signal: NDArray[Any], other: NDArray[Any]) -> float:
    return float(10 * np.log10(np.square(signal).sum() / (np.square(signal - other).sum() + 1e-30)))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"per_channel": False, "keep_float": ("head",)},
        {"target": "tensorrt", "bias_correction": True},
    ],
)
def test_any_choice_of_layers_gives_what_the_model_quantized_so_gives(
    digits: Model, calibration: Dataset, evaluation: Dataset, tmp_path: Path, options: dict[str, Any]
) -> None:
    samples = evaluation.take(32)
    graph = read(digits, calibration, tmp_path, options)
    simulation, layers = Simulation(graph, "digits"), list(graph.layers)
    exact, full = (simulation.start(samples.inputs, chosen) for chosen in ((), layers))
    reference = run(digits, samples)
    np.testing.assert_allclose(exact["logits"], reference, atol=1e-5)

    def check(number: int, simulated: NDArray[Any], chosen: Collection[str]) -> None:
        kept = (*options.get("keep_float", ()), *(name for name in layers if name not in chosen))
        real = run(
            quantized(digits, calibration, tmp_path / f"{number}.onnx", **{**options, "keep_float": kept}), samples
        )
        # A sum that falls on the other side of a step moves an output by one: far less than quantizing does.
        assert decibel(real, simulated) > decibel(reference, real) + 10
        assert decibel(reference, simulated) == pytest.approx(decibel(reference, real), abs=0.3)

    check(0, full["logits"], layers)
    check(1, simulation.change(exact, ["stem/conv"])["logits"], ["stem/conv"])
    others = [name for name in layers if name != "stem/conv"]
    check(2, simulation.change(full, others)["logits"], others)


def test_only_what_a_choice_changes_is_computed_again(digits: Model, calibration: Dataset, tmp_path: Path) -> None:
    graph = read(digits, calibration, tmp_path, {})
    simulation = Simulation(graph, "digits")
    exact = simulation.start(calibration.take(4).inputs, ())

    changed = simulation.change(exact, ["top/conv"])

    same = {name for name in simulation.results.values() if changed.values[name] is exact.values[name]}
    assert simulation.results["residual/add"] in same
    assert simulation.results["head"] not in same


MIXED = """
<ir_version: 9, opset_import: ["" : 17]>
mixed (float[n, 1, 8, 8] image) => (float[n, 4, 2] y) {
    [wide] wide = Conv<pads = [1, 1, 1, 1]>(image, first, bias)
    [clip] clipped = Clip(wide, low, high)
    [small] small = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(clipped)
    [one] one = Conv<pads = [1, 1, 1, 1]>(small, shared)
    [double] doubled = Add(small, small)
    [other] other = Conv<pads = [1, 1, 1, 1]>(doubled, shared)
    [gate] gate = Sigmoid(other)
    [join] joined = Concat<axis = 1>(one, gate)
    [pool] pooled = AveragePool<kernel_shape = [2, 2], strides = [2, 2]>(joined)
    [rows] rows = Reshape(pooled, shape)
    [turn] turned = Transpose<perm = [0, 2, 1]>(rows)
    [product] product = MatMul(rows, turned)
    [softmax] weights = Softmax<axis = -1>(product)
    [error] error = Erf(weights)
    [head] made = MatMul(error, last)
    [rectify] y = Relu(made)
}
"""  # branches, a weight for two, a product of activations, and an operator that the quantizer leaves alone


def mixed(path: Path) -> Model:
    generator = np.random.default_rng(0)
    shapes = {"first": (4, 1, 3, 3), "bias": (4,), "shared": (2, 4, 3, 3), "last": (4, 2)}
    weights = {name: generator.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    proto = onnx.parser.parse_model(MIXED)
    weights |= {"low": np.float32(0), "high": np.float32(6), "shape": np.array([0, 0, -1])}
    proto.graph.initializer.extend(numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items())
    onnx.save(proto, path)
    return load_model(path)


@pytest.mark.parametrize(
    "options", [{}, {"activations": "signed"}, {"operators": ("Conv", "MatMul", "Relu", "MaxPool")}]
)
def test_the_tensors_quantized_are_those_of_onnxruntimes_quantizer(tmp_path: Path, options: dict[str, Any]) -> None:
    model = mixed(tmp_path / "mixed.onnx")
    data = Dataset({"image": np.random.default_rng(1).random((16, 1, 8, 8), np.float32)})
    graph = read(model, data, tmp_path, options)
    weighted = [name for name, operator in graph.layers.items() if operator == "Conv"]
    generator = np.random.default_rng(0)

    for number in range(6):
        chosen = {weighted[number % len(weighted)], *generator.choice(list(graph.layers), 3)}
        kept = tuple(name for name in graph.layers if name not in chosen)
        made = quantized(model, data, tmp_path / f"{number}.onnx", **options, keep_float=kept)
        expected = read_quantized(graph.proto, onnx.load(made.path))

        assert graph.rounded(chosen) == expected.roundings.keys(), f"{sorted(chosen)} of {graph.layers}"
