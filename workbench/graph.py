"""The graph as data: operators, shapes, parameters, multiply-accumulates, memory and precision, node by node."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from workbench.model import Model, TensorSpec, all_tensors

if TYPE_CHECKING:
    import onnx

Shape = tuple[int | str, ...]

_BATCH = "batch (unnamed)"

_CONVOLUTIONS = {"Conv", "ConvInteger", "QLinearConv", "FusedConv", "ConvTranspose"}
_PRODUCTS = {"MatMul", "MatMulInteger", "QLinearMatMul", "Gemm"}


@dataclass(frozen=True)
class NodeSummary:
    """One node.

    Attributes:
        name: The node's name, or its first output's where it has none.
        operator: Operator, with its domain unless that is ONNX's own.
        inputs: Names of its inputs.
        outputs: Name, type and shape of each output, as far as shape inference knows them.
        parameters: Numbers in the weights that it alone or first uses.
        macs: Multiply-accumulates at the summary's batch size; None where a shape is not known.
        activation_bytes: Size of its outputs; None where a shape is not known.
    """

    name: str
    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[TensorSpec, ...]
    parameters: int
    macs: int | None
    activation_bytes: int | None


@dataclass(frozen=True)
class GraphSummary:
    """A whole graph.

    Attributes:
        model: Name of the model.
        batch: Size put in for a dynamic first axis.
        nodes: In the graph's order.
        parameters: Numbers in all weights.
        macs: Multiply-accumulates of all nodes whose shapes are known.
        weight_bytes: Size of all weights by element type, e.g. `{'float32': 880000}`.
        operators: How often each operator occurs, most frequent first.
    """

    model: str
    batch: int
    nodes: tuple[NodeSummary, ...]
    parameters: int
    macs: int
    weight_bytes: Mapping[str, int]
    operators: Mapping[str, int]


def summarize_graph(model: Model, *, batch: int = 1) -> GraphSummary:
    """Summarizes a model's graph; weights in external files are not read.

    Args:
        model: Any model.
        batch: Size put in for dynamic axes named like the first axis of the first input; others keep their names
            and the nodes that depend on them have no MACs.
    """
    import onnx

    proto = onnx.load(str(model.path), load_external_data=False)
    batch_axis = _name_batch_axis(proto, model)
    inferred = onnx.shape_inference.infer_shapes(proto, data_prop=True)
    known = _known_tensors(inferred, batch_axis, batch)
    weights = {tensor.name: tuple(tensor.dims) for tensor in inferred.graph.initializer}
    unused: dict[str, Shape] = dict(weights)
    nodes = tuple(_summarize_node(node, known, weights, unused) for node in inferred.graph.node)
    weight_bytes: Counter[str] = Counter()
    parameters = 0
    for tensor in all_tensors(inferred):
        count = math.prod(tensor.dims)
        parameters += count
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
        weight_bytes[str(dtype)] += count * dtype.itemsize
    return GraphSummary(
        model=model.name,
        batch=batch,
        nodes=nodes,
        parameters=parameters,
        macs=sum(node.macs or 0 for node in nodes),
        weight_bytes=dict(weight_bytes.most_common()),
        operators=dict(Counter(node.operator for node in nodes).most_common()),
    )


def _name_batch_axis(proto: onnx.ModelProto, model: Model) -> str:
    """Names the first axis where the file leaves it without a name; other nameless axes stay unknown."""
    spec = next((spec for spec in model.inputs if spec.dynamic_batch), None)
    if spec is None:
        return ""
    if spec.shape[0] == "?":
        value = next(value for value in proto.graph.input if value.name == spec.name)
        value.type.tensor_type.shape.dim[0].dim_param = _BATCH
        return _BATCH
    return str(spec.shape[0])


def _known_tensors(proto: onnx.ModelProto, batch_axis: str, batch: int) -> dict[str, TensorSpec]:
    import onnx

    known = {}
    for value in (*proto.graph.input, *proto.graph.output, *proto.graph.value_info):
        tensor = value.type.tensor_type
        if not value.type.HasField("tensor_type") or not tensor.elem_type:
            continue
        named = (dim.dim_value if dim.HasField("dim_value") else (dim.dim_param or "?") for dim in tensor.shape.dim)
        shape = tuple(batch if size == batch_axis else size for size in named)
        known[value.name] = TensorSpec(value.name, str(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)), shape)
    return known


def _summarize_node(
    node: onnx.NodeProto, known: Mapping[str, TensorSpec], weights: Mapping[str, Shape], unused: dict[str, Shape]
) -> NodeSummary:
    shapes: dict[str, Shape] = {
        name: known[name].shape if name in known else weights[name]
        for name in (*node.input, *node.output)
        if name in known or name in weights
    }
    outputs = tuple(known.get(name, TensorSpec(name, "", ("?",))) for name in node.output if name)
    own = [unused.pop(name) for name in node.input if name in unused]
    return NodeSummary(
        name=node.name or (node.output[0] if node.output else node.op_type),
        operator=f"{node.domain}:{node.op_type}" if node.domain not in ("", "ai.onnx") else node.op_type,
        inputs=tuple(name for name in node.input if name),
        outputs=outputs,
        parameters=sum(_count(shape) or 0 for shape in own),
        macs=_macs(node, shapes),
        activation_bytes=_total_bytes(outputs),
    )


def _macs(node: onnx.NodeProto, shapes: Mapping[str, Shape]) -> int | None:
    """Multiply-accumulates of convolutions and matrix products; 0 for every other operator."""
    if node.op_type not in _CONVOLUTIONS | _PRODUCTS:
        return 0
    # QLinear operators take a scale and a zero point behind each tensor.
    second = 3 if node.op_type.startswith("QLinear") else 1
    result, factor = shapes.get(node.output[0]), shapes.get(node.input[second])
    data = shapes.get(node.input[0])
    if node.op_type == "ConvTranspose":
        result = data  # every input value meets the whole kernel
    count = _count(result)
    if count is None or factor is None or data is None:
        return None
    if node.op_type in _CONVOLUTIONS:
        per_value = _count(factor[1:])  # weight: (out, in / group, kernel…)
    elif node.op_type == "Gemm":
        transposed = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
        per_value = _count(data[:1] if transposed else data[1:])
    else:
        per_value = _count(data[-1:])
    return None if per_value is None else count * per_value


def _count(shape: Shape | None) -> int | None:
    if shape is None or any(isinstance(size, str) for size in shape):
        return None
    return math.prod(size for size in shape if isinstance(size, int))


def _total_bytes(outputs: tuple[TensorSpec, ...]) -> int | None:
    import numpy as np

    total = 0
    for spec in outputs:
        count = _count(spec.shape)
        if count is None or not spec.dtype:
            return None
        total += count * np.dtype(spec.dtype).itemsize if spec.dtype != "object" else 0
    return total
