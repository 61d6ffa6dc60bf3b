"""Takes channels out of a model: weights cut, numbers that count channels changed."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from workbench.pruning.channels import Count, Dependencies, Labels

if TYPE_CHECKING:
    import onnx


def cut(proto: onnx.ModelProto, found: Dependencies, stays: NDArray[np.bool_]) -> None:
    """Takes the channels whose labels do not stay out of a model that is `ready`, in place."""
    import onnx

    axes: defaultdict[str, dict[int, Labels]] = defaultdict(dict)
    for place in found.cuts:
        axes[place.tensor][place.axis] = place.labels
    inputs = {value.name: value for value in proto.graph.input}  # old models declare their weights there, too
    for tensor in proto.graph.initializer:
        cuts = {axis: stays[labels] for axis, labels in axes[tensor.name].items() if not stays[labels].all()}
        if not cuts:
            continue
        array = onnx.numpy_helper.to_array(tensor)
        for axis, kept in cuts.items():
            array = array.compress(kept, axis)
        replace(tensor, array)
        if tensor.name in inputs:
            for dim, size in zip(inputs[tensor.name].type.tensor_type.shape.dim, array.shape, strict=True):
                dim.dim_value = size
    for count in found.counts:
        if not stays[count.labels].all():
            _change(proto.graph, count, int(stays[count.labels].sum()))
    del proto.graph.value_info[:]  # shapes from before


def replace(tensor: onnx.TensorProto, array: NDArray[np.generic]) -> None:
    """Gives an initializer other values, of the type that it has."""
    import onnx

    kind = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
    tensor.CopyFrom(onnx.numpy_helper.from_array(np.ascontiguousarray(array.astype(kind, copy=False)), tensor.name))


def _change(graph: onnx.GraphProto, count: Count, number: int) -> None:
    node = graph.node[count.node]
    if isinstance(count.where, str):
        attribute = next(entry for entry in node.attribute if entry.name == count.where)
        if count.position is None:
            attribute.i = number
        else:
            attribute.ints[count.position] = number
        return
    _set_in_constant(graph, node, count.where, count.position or 0, number)


def _set_in_constant(graph: onnx.GraphProto, node: onnx.NodeProto, place: int, position: int, number: int) -> None:
    """Changes one number of a constant for this node alone: others may use the same."""
    import onnx

    name = node.input[place]
    array = onnx.numpy_helper.to_array(next(tensor for tensor in graph.initializer if tensor.name == name)).copy()
    array.reshape(-1)[position] = number
    own = f"{node.name}/{place}/pruned"
    if name == own:
        replace(next(tensor for tensor in graph.initializer if tensor.name == name), array)
    else:
        graph.initializer.append(onnx.numpy_helper.from_array(array, own))
        node.input[place] = own


def parameters(proto: onnx.ModelProto) -> int:
    """Trained numbers of a model."""
    import onnx

    floats = {kind for kind in onnx.TensorProto.DataType.values() if "FLOAT" in onnx.TensorProto.DataType.Name(kind)}
    return sum(int(np.prod(tensor.dims)) for tensor in proto.graph.initializer if tensor.data_type in floats)
