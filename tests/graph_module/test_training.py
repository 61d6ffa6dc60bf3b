"""A trainable module made of an ONNX graph: it answers as ONNX Runtime does, learns, and goes back into its graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from workbench.dataset import Dataset
from workbench.errors import TransformError
from workbench.graph_module import make_graph_module, make_inference_module
from workbench.model import Model

torch = pytest.importorskip("torch")

RANDOM = np.random.default_rng(0)


def weight(*shape: int) -> NDArray[np.float32]:
    return RANDOM.standard_normal(shape).astype(np.float32)


def graph(
    nodes: Sequence[onnx.NodeProto], shape: Sequence[int], opset: int = 18, **tensors: NDArray[Any]
) -> onnx.ModelProto:
    """A chain from `x` to `y` with these constants."""
    made = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", *shape])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in tensors.items()],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


def node(operator: str, inputs: str, outputs: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(
        operator, inputs.split(), outputs.split(), name=f"{operator.lower()}/{outputs}", **attributes
    )


def run(proto: onnx.ModelProto, feed: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [value.name for value in proto.graph.output]
    return dict(zip(names, session.run(names, dict(feed)), strict=True))


def assert_same(proto: onnx.ModelProto, feed: Mapping[str, NDArray[Any]]) -> None:
    module = make_graph_module(proto).eval()
    with torch.no_grad():
        made = module({name: torch.from_numpy(value) for name, value in feed.items()})
    for name, wanted in run(proto, feed).items():
        np.testing.assert_allclose(made[name].numpy(), wanted, rtol=1e-4, atol=1e-4, err_msg=name)


CHAINS = {
    "uneven padding": graph(
        [
            node("Conv", "x w b", "c", auto_pad="SAME_UPPER", strides=[2, 2], group=2),
            node("MaxPool", "c", "m", kernel_shape=[3, 3], strides=[2, 2], pads=[0, 1, 1, 0]),
            node("AveragePool", "m", "y", kernel_shape=[2, 2], pads=[1, 0, 0, 1]),
        ],
        (4, 9, 10),
        w=weight(6, 2, 3, 3),
        b=weight(6),
    ),
    "transposed convolution": graph(
        [
            node("ConvTranspose", "x w", "c", strides=[2, 2], pads=[1, 0, 0, 1], output_padding=[1, 1]),
            node("PRelu", "c s", "y"),
        ],
        (3, 5, 6),
        w=weight(3, 4, 3, 3),
        s=weight(4, 1, 1),
    ),
    "resizing": graph(
        [
            node("Resize", "x none n", "n2", mode="nearest"),
            node("Resize", "n2 none l", "r", mode="linear", coordinate_transformation_mode="pytorch_half_pixel"),
            node("Mul", "r w", "y"),
        ],
        (2, 5, 6),
        n=np.array([1, 1, 2, 2], np.float32),
        l=np.array([1, 1, 1.5, 0.5], np.float32),
        none=np.array([], np.float32),
        w=weight(2, 1, 1),
    ),
    "an old operator set": graph(
        [
            node("Clip", "x", "a", min=-1.0, max=1.0),
            node("Unsqueeze", "a", "u", axes=[1]),
            node("ReduceMean", "u", "m", axes=[1, -1], keepdims=0),
            node("Softmax", "m", "s"),
            node("Gemm", "s w b", "y", alpha=2.0, beta=0.5),
        ],
        (4, 5),
        10,
        w=weight(4, 3),
        b=weight(3),
    ),
    "shapes": graph(
        [
            node("Shape", "x", "shape"),
            node("Gather", "shape zero", "rows"),
            node("Unsqueeze", "rows zero1", "rows1"),
            node("Concat", "rows1 rest", "target", axis=0),
            node("Reshape", "x target", "flat"),
            node("MatMul", "flat w", "p"),
            node("Split", "p sizes", "left right", axis=-1),
            node("Slice", "left start end axes steps", "back"),
            node("Pad", "back pads", "padded", mode="constant"),
            node("Concat", "padded right", "joined", axis=-1),
            node("Transpose", "joined", "y", perm=[1, 0]),
        ],
        (3, 4),
        zero=np.array(0),
        zero1=np.array([0]),
        rest=np.array([12]),
        w=weight(12, 8),
        sizes=np.array([5, 3]),
        start=np.array([-1]),
        end=np.array([-100]),
        axes=np.array([1]),
        steps=np.array([-2]),
        pads=np.array([0, 1, 0, 2]),
    ),
    "normalizations": graph(
        [
            node("InstanceNormalization", "x s b", "i"),
            node("LayerNormalization", "i ls lb", "l", axis=-1),
            node("HardSigmoid", "l", "h", alpha=0.3),
            node("Where", "mask h zero", "w"),
            node("Expand", "w target", "e"),
            node("ReduceSum", "e axes", "y", keepdims=0),
        ],
        (3, 4, 5),
        s=weight(3),
        b=weight(3),
        ls=weight(5),
        lb=weight(5),
        mask=np.array([True, False, True, True, False]),
        zero=np.array(0, np.float32),
        target=np.array([1, 3, 4, 5]),
        axes=np.array([-1]),
    ),
}


@pytest.mark.parametrize("name", CHAINS)
def test_a_graph_answers_as_in_onnx_runtime(name: str) -> None:
    proto = CHAINS[name]
    sizes = [dim.dim_value for dim in proto.graph.input[0].type.tensor_type.shape.dim[1:]]

    assert_same(proto, {"x": weight(3, *sizes)})


def test_the_bundled_network_answers_as_in_onnx_runtime(digits: Model, evaluation: Dataset) -> None:
    assert_same(onnx.load(digits.path), evaluation.take(16).inputs)


@pytest.mark.heavy
def test_an_exported_transformer_answers_as_in_onnx_runtime() -> None:
    """What PyTorch's exporter makes of attention: Reshape by computed shapes, Gather, Gelu, LayerNormalization."""
    from workbench.importers.pytorch.quiet import quiet

    net = torch.nn.Sequential(
        torch.nn.Embedding(20, 16),
        torch.nn.TransformerEncoderLayer(16, 2, 32, activation="gelu", batch_first=True),
        torch.nn.Linear(16, 3),
    ).eval()
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with quiet():
            made = torch.onnx.export(
                net, (torch.zeros(3, 5, dtype=torch.int64),), dynamo=True, verbose=False, dynamic_shapes=({0: "batch"},)
            )
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
    proto = made.model_proto

    words = RANDOM.integers(0, 20, (4, 5))
    assert_same(proto, {proto.graph.input[0].name: words})
    [wanted] = run(proto, {proto.graph.input[0].name: words}).values()
    [given] = make_inference_module(proto)(torch.from_numpy(words))
    np.testing.assert_allclose(given.detach().numpy(), wanted, rtol=1e-4, atol=1e-4)


def test_training_moves_weights_and_running_statistics_and_writes_both_back(digits: Model, evaluation: Dataset) -> None:
    proto, written = onnx.load(digits.path), onnx.load(digits.path)
    module = make_graph_module(proto).train()
    feed = {"image": torch.from_numpy(evaluation.take(32).inputs["image"])}
    optimizer = torch.optim.SGD(module.parameters(), 0.1)
    module(feed)["logits"].square().mean().backward()
    optimizer.step()
    module.write_weights(written)

    old, new = (
        {tensor.name: numpy_helper.to_array(tensor) for tensor in each.graph.initializer} for each in (proto, written)
    )
    assert not [name for name in old if np.array_equal(old[name], new[name])]
    assert [node.name for node in proto.graph.node] == [node.name for node in written.graph.node]
    onnx.checker.check_model(written)
    with torch.no_grad():
        mine = module.eval()(feed)["logits"].numpy()
    np.testing.assert_allclose(run(written, {"image": feed["image"].numpy()})["logits"], mine, rtol=1e-4, atol=1e-4)


def test_constants_that_are_no_weights_stay() -> None:
    proto = graph(
        [node("MatMul", "x w", "p"), node("Div", "p scale", "d"), node("Add", "d mask", "y")],
        (4,),
        w=weight(4, 4),
        scale=np.array(8, np.float32),
        mask=np.array([0, 0, -np.inf, 0], np.float32),
    )
    module = make_graph_module(proto)

    assert [tuple(value.shape) for value in module.parameters()] == [(4, 4)]


def test_an_unknown_operator_is_named() -> None:
    proto = graph([node("MatMul", "x w", "p"), node("Det", "p", "y")], (4,), w=weight(4, 4))

    with pytest.raises(TransformError, match=r"operator Det of the node 'det/y'.*torch module"):
        make_graph_module(proto)


def test_a_quantized_model_is_to_be_trained_first() -> None:
    proto = graph(
        [node("QuantizeLinear", "x s", "q"), node("DequantizeLinear", "q s", "y")], (4,), s=np.array(1, np.float32)
    )

    with pytest.raises(TransformError, match=r"quantized.*Train the float model first"):
        make_graph_module(proto)


def test_half_precision_is_to_be_trained_first() -> None:
    proto = graph([node("MatMul", "x w", "y")], (4,), w=weight(4, 4).astype(np.float16))

    with pytest.raises(TransformError, match=r"float16 \('w'\).*float32"):
        make_graph_module(proto)
