"""Writes a model with Q/DQ nodes: onnxruntime's quantizer places them, the ranges and the INT8 weights are ours."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.calibration import Range, as_float32

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Placement:
    """What is quantized, and into which integers.

    Attributes:
        signed: Activations are symmetric INT8 instead of asymmetric UINT8.
        quantize_bias: Biases become INT32; else they stay in float.
        per_channel: Weights have a scale per output channel.
        weight_levels: Largest magnitude of a quantized weight: 127, or 63 for 7 bits.
        operators: Operator types that are quantized.
        keep_float: Names of nodes that are not.
    """

    operators: tuple[str, ...]
    signed: bool = False
    quantize_bias: bool = True
    per_channel: bool = True
    weight_levels: int = 127
    keep_float: tuple[str, ...] = ()


@dataclass(frozen=True)
class Weight:
    """A weight that is to be quantized, with the node that uses it."""

    name: str
    axis: int | None
    node: onnx.NodeProto

    @property
    def activation(self) -> str:
        """The tensor that it is multiplied with."""
        return str(self.node.input[0])

    @property
    def bias(self) -> str:
        """The bias beside it; empty if there is none."""
        return str(self.node.input[2]) if len(self.node.input) > 2 and self.node.op_type != "MatMul" else ""


@dataclass
class Marked:
    """What the quantizer would touch: tensors whose ranges it needs, and weights."""

    activations: list[str] = field(default_factory=list)
    weights: list[Weight] = field(default_factory=list)


def operators_with_int8() -> tuple[str, ...]:
    """Every operator type that onnxruntime's quantizer knows."""
    from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

    return tuple(sorted({*QDQRegistry, *QLinearOpsRegistry}))


def mark(proto: onnx.ModelProto, placement: Placement) -> Marked:
    """Asks onnxruntime's quantizer which tensors it would quantize; `proto` stays as it is.

    Args:
        proto: The prepared model, with the types of its tensors inferred.
        placement: What is to be quantized.
    """
    from onnxruntime.quantization.qdq_quantizer import QDQQuantTensorType
    from onnxruntime.quantization.registry import CreateQDQQuantizer

    names = [value.name for value in (*proto.graph.value_info, *proto.graph.input, *proto.graph.output)]
    quantizer = _quantizer(_weightless(proto), placement, dict.fromkeys(names, Range(-1.0, 1.0)))
    with _quiet():
        for node in quantizer.model.nodes():
            if quantizer.should_quantize_node(node):
                CreateQDQQuantizer(quantizer, node).quantize()
    users = {name: node for node in reversed(proto.graph.node) for name in node.input[1:2]}
    stored = {tensor.name for tensor in proto.graph.initializer}
    known = {*names, *stored}
    marked = Marked()
    for name, info in quantizer.tensors_to_quantize.items():
        if name not in stored:
            if name in known:
                marked.activations.append(name)
        elif info.tensor_type is QDQQuantTensorType.WEIGHT and name in users:
            marked.weights.append(Weight(name, info.axis, users[name]))
    return marked


def write(proto: onnx.ModelProto, placement: Placement, ranges: Mapping[str, Range]) -> onnx.ModelProto:
    """Puts Q/DQ nodes around what is quantized.

    Args:
        proto: The prepared model, with weights as `quantize_weights` left them; it is changed.
        placement: What is to be quantized.
        ranges: Of every tensor that `mark` named.
    """
    # The quantizer looks up ranges of neighbours too, of which nothing comes into the model.
    names = [value.name for value in (*proto.graph.value_info, *proto.graph.input, *proto.graph.output)]
    quantizer = _quantizer(proto, placement, {**dict.fromkeys(names, Range(0.0, 1.0)), **ranges})
    with _quiet():
        quantizer.quantize_model()
        quantizer.model.topological_sort()
    made: onnx.ModelProto = quantizer.model.model
    kept = [entry for entry in made.metadata_props if entry.key != "onnx.infer"]  # the quantizer's own mark
    del made.metadata_props[:]
    made.metadata_props.extend(kept)
    return made


def quantize_weights(
    proto: onnx.ModelProto, weights: Sequence[Weight], placement: Placement, ranges: Mapping[str, Range]
) -> dict[str, NDArray[np.float32]]:
    """Replaces weights by INT8 ones behind a DequantizeLinear, symmetric around zero.

    The names are those that onnxruntime's quantizer gives. Weights that are not FP32 are left to it.

    Args:
        proto: The prepared model; it is changed.
        weights: What `mark` found.
        placement: How they are quantized.
        ranges: Of the activations, so that no bias leaves the range of INT32 in their common scale.

    Returns:
        By how much each weight was changed by rounding, quantized minus original.
    """
    import onnx
    from onnx import helper, numpy_helper

    tensors = {tensor.name: tensor for tensor in proto.graph.initializer}
    produced: list[onnx.TensorProto] = []
    replaced: set[str] = set()
    changes: dict[str, NDArray[np.float32]] = {}
    for weight in weights:
        tensor = tensors[weight.name]
        if tensor.data_type != onnx.TensorProto.FLOAT or not tensor.dims:
            continue
        values = numpy_helper.to_array(tensor)
        axis = weight.axis
        others = tuple(number for number in range(values.ndim) if number != axis) if axis is not None else None
        scale = np.asarray(np.abs(values).max(axis=others) / placement.weight_levels, np.float32)
        scale[scale == 0] = 1.0
        if placement.quantize_bias and weight.bias in tensors:
            scale = np.maximum(scale, _least_scale(tensors[weight.bias], ranges[weight.activation], placement, scale))
        spread = (
            scale if axis is None else scale.reshape([-1 if number == axis else 1 for number in range(values.ndim)])
        )
        whole = np.rint(values / spread).clip(-placement.weight_levels, placement.weight_levels).astype(np.int8)
        changes[weight.name] = whole * spread - values
        parts = [f"{weight.name}_{part}" for part in ("quantized", "scale", "zero_point")]
        arrays: tuple[NDArray[Any], ...] = (whole, scale, np.zeros(scale.shape, np.int8))
        produced += [numpy_helper.from_array(array, name) for array, name in zip(arrays, parts, strict=True)]
        output = f"{weight.name}_DequantizeLinear_Output"
        along: dict[str, Any] = {} if axis is None else {"axis": axis}
        proto.graph.node.append(
            helper.make_node("DequantizeLinear", parts, [output], f"{weight.name}_DequantizeLinear", **along)
        )
        proto.graph.value_info.append(helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, tensor.dims))
        replaced.add(weight.name)
        for node in proto.graph.node:
            for place, name in enumerate(node.input):
                if name == weight.name:
                    node.input[place] = output
    kept = [tensor for tensor in proto.graph.initializer if tensor.name not in replaced]
    rest = onnx.GraphProto(initializer=[*kept, *produced])
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(rest.initializer)
    return changes


def _least_scale(
    bias: onnx.TensorProto, activation: Range, placement: Placement, scale: NDArray[Any]
) -> NDArray[np.float32]:
    """The smallest scale of weights that keeps a bias within INT32, its own scale being that times the activation's."""
    from onnx import numpy_helper

    low, high = as_float32(activation)
    step = 2 * max(-low, high) / 254 if placement.signed else (high - low) / 255
    values = np.abs(numpy_helper.to_array(bias).astype(np.float64))
    needed = values if scale.ndim and values.shape == scale.shape else values.max(initial=0.0)
    return np.asarray(needed * 1.001 / (2**31 - 1) / (step or 1.0), np.float32)


def _quantizer(proto: onnx.ModelProto, placement: Placement, ranges: Mapping[str, Range]) -> Any:
    from onnxruntime.quantization import CalibrationMethod, QuantType
    from onnxruntime.quantization.calibrate import TensorData, TensorsData
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
    from onnxruntime.quantization.quant_utils import add_infer_metadata

    add_infer_metadata(proto)  # it infers the types of all tensors again otherwise
    ends = {name: as_float32(chosen) for name, chosen in ranges.items()}
    data = {name: TensorData(lowest=low, highest=high) for name, (low, high) in ends.items()}
    with _quiet():
        return QDQQuantizer(
            proto,
            per_channel=placement.per_channel,
            reduce_range=placement.weight_levels < 127,
            weight_qType=QuantType.QInt8,
            activation_qType=QuantType.QInt8 if placement.signed else QuantType.QUInt8,
            tensors_range=TensorsData(CalibrationMethod.MinMax, data),
            nodes_to_quantize=[],
            nodes_to_exclude=list(placement.keep_float),
            op_types_to_quantize=list(placement.operators),
            extra_options={"ActivationSymmetric": placement.signed, "QuantizeBias": placement.quantize_bias},
        )


def _weightless(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose weights have names, types and shapes alone, which is all that marking looks at."""
    import onnx

    graph = onnx.GraphProto(name=proto.graph.name)
    for part in ("node", "input", "output", "value_info"):
        getattr(graph, part).extend(getattr(proto.graph, part))
    graph.initializer.extend(
        onnx.TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
        for tensor in proto.graph.initializer
    )
    return onnx.ModelProto(ir_version=proto.ir_version, opset_import=proto.opset_import, graph=graph)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Its warnings are for its own users: what concerns ours is said in the notes."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def operators_in_float(proto: onnx.ModelProto, operators: Collection[str]) -> list[str]:
    """Operator types that compute in float because the quantizer has no INT8 form for them, most frequent first."""
    counts: dict[str, int] = {}
    for node in proto.graph.node:
        if node.op_type not in operators and node.op_type not in _WITHOUT_ARITHMETIC:
            counts[node.op_type] = counts.get(node.op_type, 0) + 1
    return sorted(counts, key=lambda name: (-counts[name], name))


_WITHOUT_ARITHMETIC = frozenset(
    [
        "QuantizeLinear",
        "DequantizeLinear",
        "Cast",
        "Concat",
        "Constant",
        "ConstantOfShape",
        "Dropout",
        "Expand",
        "Flatten",
        "Gather",
        "GatherElements",
        "GatherND",
        "Identity",
        "NonZero",
        "Pad",
        "Range",
        "Reshape",
        "Shape",
        "Slice",
        "Split",
        "Squeeze",
        "Tile",
        "Transpose",
        "Unsqueeze",
        "Where",
        "Not",
        "Equal",
        "Greater",
        "Less",
        "And",
        "Or",
    ]
)
