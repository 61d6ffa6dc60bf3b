"""Types and shapes of every tensor of a graph, as far as they can be inferred without weights."""

from __future__ import annotations

import functools
import math
from collections import ChainMap
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from workbench.graph.standins import put_stand_ins
from workbench.model import Model, TensorSpec
from workbench.model_inference import infer

if TYPE_CHECKING:
    import onnx

Shape = tuple[int | str, ...]

STANDARD = ("", "ai.onnx")
_PACKED_BITS = {"int4": 4, "uint4": 4, "float4_e2m1fn": 4, "int2": 2, "uint2": 2}
_DEEPEST_CALLS = 16  # functions within functions that inference follows
_MOST_NODES = 100_000  # with the bodies of functions in the place of their calls
_MOST_AXES = 64  # NumPy's limit; a file can claim more than multiplying them is worth


def infer_tensors(
    proto: onnx.ModelProto, model: Model, batch: int, axes: Mapping[str, int] | None = None
) -> dict[str, TensorSpec]:
    """Finds name, type and shape of the tensors of a graph: inputs, weights and everything between.

    Args:
        proto: A skeleton; tensors without values are taken by their shape. Its subgraphs get what is found inside them.
        model: Says which axis is the batch.
        batch: Size put in for that axis wherever it occurs by name.
        axes: Sizes put in for other dynamic axes, by name.

    Returns:
        By name, what is known. Axes without a size keep their name, or are `?`.
    """
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    _put_in_sizes(copy.graph, model, batch, axes or {})
    put_stand_ins(copy.graph)
    if copy.functions and not _can_be_inlined(copy):
        del copy.functions[:]
    inferred = infer(copy)
    inside = {node.name: node for node in inferred.graph.node if any(map(_is_graph, node.attribute))}
    for node in proto.graph.node:
        if node.name in inside:
            node.attribute.clear()
            node.attribute.extend(inside[node.name].attribute)
    return declared_tensors(inferred.graph)


def _is_graph(attribute: onnx.AttributeProto) -> bool:
    return attribute.HasField("g")


def _put_in_sizes(graph: onnx.GraphProto, model: Model, batch: int, axes: Mapping[str, int]) -> None:
    """Gives axes their sizes before inference: then what is computed from them, such as a new shape, is known too."""
    batched = next((spec for spec in model.inputs if spec.dynamic_batch), None)
    named = {**({str(batched.shape[0]): batch} if batched else {}), **axes}
    nameless = batched.name if batched and batched.shape[0] == "?" else None
    for value in (*graph.input, *graph.output, *graph.value_info):
        for place, dim in enumerate(value.type.tensor_type.shape.dim):
            if dim.dim_param in named:
                dim.dim_value = named[dim.dim_param]
            elif place == 0 and value.name == nameless:
                dim.dim_value = batch


def _can_be_inlined(proto: onnx.ModelProto) -> bool:
    """Whether local functions stay small when inference follows every call: a small file can hold 2¹⁰⁰ of them."""

    calls = {
        (function.domain, function.name): [(node.domain, node.op_type) for node in _with_subgraphs(function.node)]
        for function in proto.functions
    }
    inlined: dict[tuple[str, str], int] = {}  # nodes by function; every pass looks one level deeper
    for _ in range(_DEEPEST_CALLS):
        deeper = {name: sum(inlined.get(call, 1) for call in body) for name, body in calls.items()}
        if deeper == inlined:
            nodes = _with_subgraphs(proto.graph.node)
            return sum(inlined.get((node.domain, node.op_type), 1) for node in nodes) <= _MOST_NODES
        inlined = deeper
    return False


def _with_subgraphs(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    for node in nodes:
        yield node
        for attribute in node.attribute:
            for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from _with_subgraphs(graph.node)


def declared_tensors(graph: onnx.GraphProto) -> dict[str, TensorSpec]:
    """What a graph says of its tensors by name, constants included."""
    declared = {tensor.name: spec_of(tensor) for tensor in graph.initializer}
    for value in (*graph.input, *graph.output, *graph.value_info):
        tensor = value.type.tensor_type
        if tensor.elem_type and value.type.HasField("tensor_type"):
            shape = tuple(map(_axis, tensor.shape.dim)) if tensor.HasField("shape") else ("?",)
            declared[value.name] = TensorSpec(value.name, type_name(tensor.elem_type), shape)
    return declared


def _axis(dim: onnx.TensorShapeProto.Dimension) -> int | str:
    if dim.HasField("dim_value"):
        return dim.dim_value
    # Inference numbers the axes that it can say nothing about.
    return "?" if not dim.dim_param or dim.dim_param.startswith("unk__") else dim.dim_param


def seen_inside(graph: onnx.GraphProto, known: Mapping[str, TensorSpec]) -> Mapping[str, TensorSpec]:
    """What the nodes of a subgraph see: its own tensors, and those of the graph around it."""
    return ChainMap(declared_tensors(graph), known)  # type: ignore[arg-type] # it is only read


def spec_of(tensor: onnx.TensorProto) -> TensorSpec:
    """Name, type and shape of a constant."""
    return TensorSpec(tensor.name, type_name(tensor.data_type), tuple(tensor.dims))


def operator_name(domain: str, op_type: str) -> str:
    """An operator as tables show it: with its domain, unless that is ONNX's own."""
    return op_type if domain in STANDARD else f"{domain}:{op_type}"


@functools.cache
def type_name(elem_type: int) -> str:
    """NumPy's name of an ONNX element type; empty for one that does not exist."""
    import onnx

    try:
        return str(onnx.helper.tensor_dtype_to_np_dtype(elem_type))
    except KeyError:
        return ""


@functools.cache
def type_bits(dtype: str) -> int:
    """Bits of one value; 0 for text and for what is not known."""
    import ml_dtypes  # noqa: F401 (gives NumPy the types below 32 bits by name)
    import numpy as np

    if dtype in ("", "object"):
        return 0
    return _PACKED_BITS.get(dtype) or np.dtype(dtype).itemsize * 8


@functools.lru_cache(4096)  # shapes repeat, and a summary asks for each several times
def sizes(shape: Shape | None) -> tuple[int, ...] | None:
    """A shape whose every axis has a size; None otherwise."""
    if shape is None or len(shape) > _MOST_AXES:
        return None
    known = tuple(size for size in shape if isinstance(size, int) and size >= 0)
    return known if len(known) == len(shape) else None


def count(shape: Shape | None) -> int | None:
    """Numbers in a tensor; None where an axis has no size."""
    known = sizes(shape)
    return None if known is None else math.prod(known)


def size_bytes(spec: TensorSpec) -> int | None:
    """Bytes of a tensor; None where its type or an axis is not known. Text counts nothing."""
    numbers = count(spec.shape)
    if numbers is None or not spec.dtype:
        return None
    return -(-numbers * type_bits(spec.dtype) // 8)
