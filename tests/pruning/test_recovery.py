"""A pruned net is fitted again to what it gave before, whatever its layers are."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from tests.pruning.nets import Net, run
from workbench.dataset import Dataset
from workbench.pruning import Plan, prune


def samples(count: int, seed: int = 0) -> np.ndarray:
    """Smooth images, so that channels resemble each other as they do in trained nets."""
    random = np.random.default_rng(seed)
    rows, columns = (random.standard_normal((count, 3, 8), np.float32).cumsum(-1) for _ in range(2))
    return rows[..., None] * columns[:, :, None]


def mixed() -> onnx.ModelProto:
    """Every kind of layer that is fitted, with and without bias and BatchNorm."""
    net = Net()
    value = net.add("Relu", net.norm(net.add("Conv", "image", net.weights(12, 3, 3, 3), auto_pad="SAME_UPPER"), 12))
    value = net.add("Relu", net.conv(value, 12, 12, group=12, dead=False))
    value = net.add("Relu", net.conv(value, 12, 16, dead=False))
    value = net.add("Relu", net.conv(value, 16, 16, group=4, dead=False))
    value = net.add("Relu", net.add("ConvTranspose", value, net.weights(16, 12, 2, 2), net.weights(12), strides=[2, 2]))
    value = net.add("GlobalAveragePool", net.add("Relu", net.norm(net.conv(value, 12, 16, dead=False), 16)))
    value = net.add("Relu", net.add("Gemm", net.add("Flatten", value), net.weights(16, 12), net.weights(12)))
    return net.model(net.add("Add", net.add("MatMul", value, net.weights(12, 4)), net.weights(4)))


def test_the_answers_come_nearer_on_samples_not_seen() -> None:
    proto = mixed()
    plan, unseen = Plan(share=25, align=1), samples(64, seed=1)
    [wanted] = run(proto, unseen)
    errors = []
    for repair in (False, True):
        pruned = prune(proto, plan, Dataset({"image": samples(64)}), repair=repair)
        errors.append(np.square(run(pruned.proto, unseen)[0] - wanted).sum())

    assert errors[1] < 0.5 * errors[0]


@pytest.mark.parametrize(
    "shape",
    [
        {"pads": [1] * 4},
        {"strides": [2, 1], "pads": [0, 1, 2, 1]},
        {"dilations": [2, 2], "pads": [2] * 4},
        {"auto_pad": "SAME_LOWER", "strides": [2, 2]},
        {"auto_pad": "VALID"},
    ],
    ids=str,
)
def test_twins_stand_in_for_those_that_go(shape: dict[str, Any]) -> None:
    net = Net()
    half = net.weights(8, 3, 3, 3)
    half /= np.linalg.norm(half.reshape(8, -1), axis=1)[:, None, None, None]  # then the smaller twin is what goes
    value = net.add("Relu", net.add("Conv", "image", np.concatenate([half, 0.9 * half]).astype(np.float32)))
    proto, unseen = net.model(net.add("Conv", value, net.weights(6, 16, 3, 3), **shape)), samples(8, seed=1)
    data = Dataset({"image": samples(32)})
    [wanted] = run(proto, unseen)
    raw, fitted = (
        np.square(run(prune(proto, Plan(share=50, align=1), data, repair=repair).proto, unseen)[0] - wanted).mean()
        for repair in (False, True)
    )
    assert fitted < 0.02 * raw


def test_few_samples_do_no_harm() -> None:
    proto, unseen = mixed(), samples(64, seed=1)
    [wanted] = run(proto, unseen)
    raw, fitted = (
        prune(proto, Plan(share=25, align=1), Dataset({"image": samples(4)}), repair=repair) for repair in (False, True)
    )
    before, after = (np.square(run(pruned.proto, unseen)[0] - wanted).sum() for pruned in (raw, fitted))
    assert after < before


def test_a_fixed_batch_and_old_declarations_of_weights_are_taken() -> None:
    proto = mixed()
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 4
    for tensor in proto.graph.initializer:  # as IR version 3 wants it
        proto.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    pruned = prune(proto, Plan(share=50, align=1), Dataset({"image": samples(10)}), repair=True)

    shapes = {tensor.name: list(tensor.dims) for tensor in pruned.proto.graph.initializer}
    for value in pruned.proto.graph.input[1:]:
        assert [dim.dim_value for dim in value.type.tensor_type.shape.dim] == shapes[value.name]
    assert run(pruned.proto, samples(4))[0].shape == (4, 4)
