"""A module of an ONNX graph that only runs: it answers as ONNX Runtime does, in a flat function without leftovers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from tests.graph_module.test_training import CHAINS, graph, node, run, weight
from workbench.dataset import Dataset
from workbench.errors import ModelError
from workbench.graph_module import make_inference_module
from workbench.model import Model

torch = pytest.importorskip("torch")

RANDOM = np.random.default_rng(1)


def assert_same(proto: onnx.ModelProto, feed: Mapping[str, NDArray[Any]], tolerance: float = 1e-4) -> Any:
    module = make_inference_module(proto)
    with torch.inference_mode():
        made = module(*(torch.from_numpy(value) for value in feed.values()))
    for given, (name, wanted) in zip(made, run(proto, feed).items(), strict=True):
        np.testing.assert_allclose(given.numpy(), wanted, rtol=tolerance, atol=tolerance, err_msg=name)
    return module


@pytest.mark.parametrize("name", CHAINS)
def test_a_graph_answers_as_in_onnx_runtime(name: str) -> None:
    proto = CHAINS[name]
    sizes = [dim.dim_value for dim in proto.graph.input[0].type.tensor_type.shape.dim[1:]]

    assert_same(proto, {"x": weight(3, *sizes)})


def test_the_bundled_network_answers_as_in_onnx_runtime(digits: Model, evaluation: Dataset) -> None:
    module = assert_same(onnx.load(digits.path), evaluation.take(16).inputs)

    assert "n_stem_conv = None" in module.code  # given up after its last reader


def test_shapes_are_computed_in_plain_numbers() -> None:
    module = assert_same(CHAINS["shapes"], {"x": weight(5, 3, 4)})

    assert not [entry for entry in module.graph.nodes if "tensor" in entry.name]


def test_a_size_that_a_layer_computes_with_becomes_a_tensor() -> None:
    proto = graph(
        [
            node("Shape", "x", "shape"),
            node("Gather", "shape one", "count"),
            node("Cast", "count", "real", to=TensorProto.FLOAT),
            node("Sqrt", "real", "root"),
            node("Div", "x root", "y"),
        ],
        (5,),
        one=np.array(1),
    )
    assert_same(proto, {"x": weight(3, 5)})


def test_what_depends_on_constants_alone_is_computed_once() -> None:
    proto = graph(
        [
            node("Mul", "a b", "product"),
            node("Transpose", "product", "turned", perm=[1, 0]),
            node("MatMul", "x turned", "y"),
        ],
        (4,),
        a=weight(3, 4),
        b=np.array(2, np.float32),
    )
    module = assert_same(proto, {"x": weight(2, 4)})

    assert [entry.op for entry in module.graph.nodes] == ["placeholder", "call_function", "output"]


def test_outputs_that_are_inputs_or_constants_are_given_too() -> None:
    proto = graph([node("Relu", "x", "y"), node("Identity", "x", "same")], (4,), fixed=weight(2))
    proto.graph.output.append(helper.make_tensor_value_info("same", TensorProto.FLOAT, None))
    proto.graph.output.append(helper.make_tensor_value_info("fixed", TensorProto.FLOAT, None))

    assert_same(proto, {"x": weight(2, 4)})


def test_quantized_values_are_computed_with_in_float() -> None:
    proto = graph(
        [
            node("QuantizeLinear", "x scale zero", "q"),
            node("DequantizeLinear", "q scale zero", "d"),
            node("DequantizeLinear", "w scales zeros", "weights", axis=0),
            node("Conv", "d weights", "y"),
        ],
        (3, 6, 6),
        scale=np.array(0.02, np.float32),
        zero=np.array(128, np.uint8),
        w=RANDOM.integers(-100, 100, (5, 3, 3, 3)).astype(np.int8),
        scales=np.linspace(0.01, 0.1, 5, dtype=np.float32),
        zeros=np.zeros(5, np.int8),
    )
    assert_same(proto, {"x": weight(2, 3, 6, 6)})


def test_half_precision_runs_as_it_is() -> None:
    proto = graph(
        [
            node("Cast", "x", "half", to=TensorProto.FLOAT16),
            node("MatMul", "half w", "p"),
            node("Cast", "p", "y", to=TensorProto.FLOAT),
        ],
        (4,),
        w=weight(4, 3).astype(np.float16),
    )
    assert_same(proto, {"x": weight(2, 4)}, 5e-3)


def test_bfloat16_weights_are_read() -> None:
    numbers = helper.make_tensor("w", TensorProto.BFLOAT16, [4, 2], np.arange(8, dtype=np.float32))
    proto = graph([node("Cast", "w", "wide", to=TensorProto.FLOAT), node("MatMul", "x wide", "y")], (4,))
    proto.graph.initializer.append(numbers)
    [made] = make_inference_module(proto)(torch.ones(1, 4))

    assert made.tolist() == [[12.0, 16.0]]


def test_an_unknown_operator_is_named_with_the_way_around() -> None:
    proto = graph([node("MatMul", "x w", "p"), node("Det", "p", "y")], (4,), w=weight(4, 4))

    with pytest.raises(ModelError, match=r"operator Det of the node 'det/y'.*`factory`"):
        make_inference_module(proto, "net")


def test_a_use_of_an_operator_that_is_not_known_is_refused_when_it_shows() -> None:
    proto = graph([node("Pad", "x pads", "y", mode="wrap")], (4,), pads=np.array([0, 1, 0, 1]))

    with pytest.raises(ModelError, match=r"'pad/y' \(Pad\) cannot be run by PyTorch here: it pads in the mode wrap"):
        make_inference_module(proto)(torch.ones(1, 4))


def test_the_model_stays_as_it_was(digits: Model) -> None:
    proto = onnx.load(digits.path)
    before = proto.SerializeToString()
    make_inference_module(proto)

    assert proto.SerializeToString() == before
    assert numpy_helper.to_array(proto.graph.initializer[0]).size
