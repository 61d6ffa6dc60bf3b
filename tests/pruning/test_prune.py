"""Channels leave the graph with all that depends on them, and nothing else changes."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx
import pytest

from tests.pruning import nets
from tests.pruning.nets import Net, run
from workbench.dataset import Dataset
from workbench.errors import DatasetError, TransformError
from workbench.pruning import Plan, prune

HALF = Plan(share=50, align=1)
NETS: Mapping[Callable[[], onnx.ModelProto], Mapping[str, int]] = {
    nets.chain: {"conv0": 6, "conv4": 8},
    nets.depthwise: {"conv0": 6, "conv2": 12},
    nets.grouped: {"conv0": 8, "conv2": 8},
    nets.residual: {"conv0": 8, "conv2": 6, "conv4": 8, "conv8": 8},
    nets.joined: {"conv0": 4, "conv1": 6, "conv4": 10},
    nets.attention: {"conv0": 8, "conv3": 4, "conv5": 8},
    nets.flattened: {"conv0": 3, "gemm3": 4},
    nets.pooled: {"conv0": 4},
    nets.perceptron: {"matmul1": 8},
    nets.upsampled: {"conv0": 4, "convtranspose2": 6},
    nets.shared: {"conv0": 4, "conv2": 4, "conv4": 4},
}


@pytest.mark.parametrize("make", NETS, ids=lambda make: make.__name__)
def test_dead_channels_leave_and_the_answers_stay(make: Callable[[], onnx.ModelProto]) -> None:
    proto = make()
    pruned = prune(proto, HALF)

    assert {name: after for name, (_, after) in pruned.removed.items()} == NETS[make]
    assert pruned.parameters_after < pruned.parameters_before
    for before, after in zip(run(proto), run(pruned.proto), strict=True):
        np.testing.assert_allclose(after, before, atol=1e-4)


@pytest.mark.parametrize("make", NETS, ids=lambda make: make.__name__)
def test_without_a_share_nothing_changes(make: Callable[[], onnx.ModelProto]) -> None:
    proto = make()
    before = proto.SerializeToString()
    pruned = prune(proto, Plan(share=0, align=1))

    assert pruned.removed == {}
    for old, new in zip(run(proto), run(pruned.proto), strict=True):
        np.testing.assert_array_equal(new, old)
    assert proto.SerializeToString() == before


@pytest.mark.parametrize("opset", [11, 13, 18, 23])
def test_every_opset_is_followed(opset: int) -> None:
    net = Net(opset=opset)
    value = net.add("Relu", net.conv("image", 3, 16))
    if opset < 18:
        value = net.add("ReduceMean", value, axes=[2, 3], keepdims=0)
    else:
        value = net.add("ReduceMean", value, np.array([2, 3]), keepdims=0)
    value = net.add("Unsqueeze", value, axes=[1]) if opset < 13 else net.add("Unsqueeze", value, np.array([1]))
    proto = net.model(net.add("MatMul", value, net.weights(16, 3)))
    pruned = prune(proto, HALF)

    assert pruned.removed == {"conv0": (16, 8)}
    np.testing.assert_allclose(run(pruned.proto)[0], run(proto)[0], atol=1e-4)


def test_weights_behind_constants_and_transposes_are_found() -> None:
    net = Net(("batch", 5, 6))
    kernel = onnx.numpy_helper.from_array(net.weights(8, 6, dead=0))
    turned = net.add("Transpose", net.add("Constant", value=kernel))
    value = net.add("Relu", net.add("MatMul", "image", turned))
    proto = net.model(net.add("MatMul", value, net.add("Transpose", net.weights(3, 8))))
    pruned = prune(proto, HALF)

    assert pruned.removed == {"matmul2": (8, 4)}
    assert sorted(list(tensor.dims) for tensor in pruned.proto.graph.initializer) == [[4, 3], [6, 4]]
    np.testing.assert_allclose(run(pruned.proto)[0], run(proto)[0], atol=1e-4)


def test_what_is_not_understood_keeps_its_channels_and_is_named() -> None:
    net = Net()
    first = net.add("Relu", net.conv("image", 3, 16))
    value = net.add("DepthToSpace", net.conv(first, 16, 16), blocksize=2)
    pruned = prune(net.model(net.conv(value, 4, 4)), HALF)

    assert pruned.removed == {"conv0": (16, 8)}
    assert pruned.frozen["conv2"] == "'depthtospace3' (DepthToSpace) is an operator that pruning cannot follow"
    assert "output" in pruned.frozen["conv4"]


def test_a_weight_that_another_node_reads_in_another_way_stays_whole() -> None:
    net = Net()
    weight = net.constant(net.weights(8, 3, 3, 3))
    value = net.conv(net.add("Relu", net.add("Conv", "image", weight)), 8, 4)
    proto = net.model(value, net.add("ReduceSum", weight))

    with pytest.raises(TransformError, match=f"conv0: '{weight}' is used elsewhere too"):
        prune(proto, HALF)


def test_a_graph_inside_a_node_keeps_what_it_uses() -> None:
    net = Net()
    value = net.conv("image", 3, 8)
    inside = onnx.helper.make_graph(
        [onnx.helper.make_node("Relu", [value], ["inner"])],
        "branch",
        [],
        [onnx.helper.make_tensor_value_info("inner", onnx.TensorProto.FLOAT, None)],
    )
    value = net.add("If", np.array(True), then_branch=inside, else_branch=inside)
    with pytest.raises(TransformError, match=r"conv0: 'if1' .* uses them in a graph of its own"):
        prune(net.model(value), HALF)


def test_numbers_of_channels_fill_whole_vectors() -> None:
    proto = wide()
    widths = {
        share: [after for _, after in prune(proto, Plan(share=share)).removed.values()] for share in (20, 30, 60, 99)
    }
    assert widths == {20: [16, 80], 30: [16, 64], 60: [16, 32], 99: [16, 16]}
    down = prune(proto, Plan(share=10, rounding="down"))
    assert [after for _, after in down.removed.values()] == [16, 80]


def wide() -> onnx.ModelProto:
    net = Net()
    value = net.add("Relu", net.conv("image", 3, 24, dead=False))
    return net.model(net.conv(net.add("Relu", net.conv(value, 24, 96, dead=False)), 96, 4))


def test_layers_have_shares_of_their_own_or_stay() -> None:
    plan = Plan(share=25, align=1, layers=("conv2=75",))
    assert prune(wide(), plan).removed == {"conv0": (24, 18), "conv2": (96, 24)}

    kept = prune(wide(), Plan(share=25, align=1, keep=("conv0",)))
    assert kept.removed == {"conv2": (96, 72)}
    assert "plan keeps it" in kept.frozen["conv0"]


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (Plan(layers=("nowhere=50",)), "no layer named 'nowhere'.*conv0, conv2"),
        (Plan(layers=("conv0=100",)), "'conv0=100' gives no layer a share"),
        (Plan(keep=("relu1",)), "no layer named 'relu1'"),
    ],
)
def test_a_plan_that_cannot_be_followed_is_refused(plan: Plan, message: str) -> None:
    with pytest.raises(TransformError, match=message):
        prune(wide(), plan)


def test_the_whole_net_is_ranked_where_that_is_asked_for() -> None:
    net = Net()
    value = net.add("Relu", net.conv("image", 3, 16, dead=False))  # every channel matters alike
    value = net.add("Relu", net.conv(value, 16, 16))  # half of them not at all
    pruned = prune(net.model(net.conv(value, 16, 4)), Plan(share=25, align=1, ranking="global"))

    assert pruned.removed == {"conv2": (16, 8)}


def test_activations_tell_what_weights_do_not() -> None:
    net = Net()
    weight, bias = np.ones((8, 3, 1, 1), np.float32), np.zeros(8, np.float32)
    bias[:4] = -1000  # behind the Relu nothing is left of them
    value = net.add("Relu", net.add("Conv", "image", weight, bias))
    proto = net.model(net.conv(value, 8, 4, dead=False))
    samples = Dataset({"image": np.random.default_rng(0).random((4, 3, 8, 8), np.float32)})
    pruned = prune(proto, Plan(share=50, align=1, importance="activation"), samples)

    np.testing.assert_allclose(run(pruned.proto)[0], run(proto)[0], atol=1e-4)
    with pytest.raises(DatasetError, match="needs samples"):
        prune(proto, Plan(importance="activation"))
