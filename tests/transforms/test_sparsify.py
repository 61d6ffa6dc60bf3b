"""Zeros where the smallest weights were, in the pattern asked for."""

from __future__ import annotations

import gzip

import numpy as np
import onnx
import pytest

from workbench.errors import TransformError
from workbench.model import Model
from workbench.transforms import transform
from workbench.workspace import Workspace


def weights(model: Model) -> dict[str, np.ndarray]:
    proto = onnx.load(str(model.path))
    arrays = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    return {node.name: arrays[node.input[1]] for node in proto.graph.node if node.op_type in ("Conv", "Gemm")}


def test_the_smallest_weights_of_each_layer_are_zero(digits: Model, workspace: Workspace) -> None:
    sparse = transform(digits, "sparsify", {"share": 75, "keep": ["stem/conv"]}, workspace=workspace)
    before, after = weights(digits), weights(sparse)

    np.testing.assert_array_equal(after.pop("stem/conv"), before.pop("stem/conv"))
    for name, array in after.items():
        assert (array == 0).mean() == pytest.approx(0.75, abs=0.01)
        np.testing.assert_array_equal(array[array != 0], before[name][array != 0])
        assert np.abs(array[array != 0]).min() >= np.abs(before[name][array == 0]).max()
    assert "are zero (75 %); the file keeps its size" in sparse.history[0].notes[0]
    packed = [len(gzip.compress(model.path.read_bytes())) for model in (digits, sparse)]
    assert packed[1] < 0.5 * packed[0]


def test_two_of_every_four_input_channels_stay(digits: Model, workspace: Workspace) -> None:
    sparse = transform(digits, "sparsify", {"pattern": "2:4"}, workspace=workspace)
    before, after = weights(digits), weights(sparse)

    for name, array in after.items():
        if array.shape[1] % 4:  # one input channel, as in the first layer and a depthwise one
            np.testing.assert_array_equal(array, before[name])
            continue
        fours = np.moveaxis(array, 1, -1).reshape(-1, 4)
        assert np.all((fours == 0).sum(axis=1) == 2)
        old = np.abs(np.moveaxis(before[name], 1, -1).reshape(-1, 4))
        np.testing.assert_allclose(np.abs(fours).sum(axis=1), np.sort(old, axis=1)[:, 2:].sum(axis=1), rtol=1e-6)


def test_a_name_that_no_node_has_is_refused(digits: Model, workspace: Workspace) -> None:
    with pytest.raises(TransformError, match="no node named 'nowhere'"):
        transform(digits, "sparsify", {"keep": ["nowhere"]}, workspace=workspace)
