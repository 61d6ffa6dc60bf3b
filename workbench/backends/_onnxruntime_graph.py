"""The graph that ONNX Runtime really runs: what each of its nodes computes in, and what it was made of."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from workbench.backends._source import SourceGraph
from workbench.engine import Layer

if TYPE_CHECKING:
    import onnx

# What ONNX Runtime appends to the name of a node or tensor when it makes another of it.
_SUFFIX = re.compile(r"(_nchwc|_nhwc|_quant|_token_\d+|/duplicated|/QuickGeluFusion/)+$")
_INTEGER = re.compile(r"Q[A-Z]|DynamicQuantize(?!Linear)|\w*Integer")  # names of operators that compute in 8 bits
_QUANTIZE = ("DequantizeLinear", "DynamicQuantizeLinear", "QuantizeLinear")
_REFORMAT = ("MemcpyFromHost", "MemcpyToHost", "ReorderInput", "ReorderOutput")
_FLOATS = (1, 10, 11, 16)  # ONNX's numbers of float32, float16, float64 and bfloat16
_SETTINGS = ("bool", "int32", "int64")  # types of indices and shapes
# What it computes inside the node before it.
_FUSED_BEHIND = frozenset(
    {"Add", "BatchNormalization", "Clip", "Elu", "HardSigmoid", "HardSwish", "LeakyRelu", "Mul", "QuantizeLinear"}
    | {"Relu", "Sigmoid", "Tanh"}
)


def read_layers(path: Path, source: SourceGraph, provider: str) -> list[tuple[onnx.NodeProto, Layer]]:
    """Reads an optimized model that a session wrote; its weights are not read.

    Args:
        path: The optimized model.
        source: The graph that it was made of.
        provider: What it was optimized for.

    Returns:
        Each node in the order of the graph, and what it is as a layer without a time.
    """
    import onnx

    graph = onnx.load(str(path), load_external_data=False).graph
    precisions, written = _precisions(graph, source)
    inserted = [_is_inserted(node, source) for node in graph.node]
    origins = _origins(graph, inserted, source)
    return [
        (
            node,
            Layer(
                node.name or node.output[0],
                node.op_type,
                _kind(node, precision, added),
                precision,
                None,
                origin,
                provider,
                output,
            ),
        )
        for node, precision, output, added, origin in zip(
            graph.node, precisions, written, inserted, origins, strict=True
        )
    ]


def _is_inserted(node: onnx.NodeProto, source: SourceGraph) -> bool:
    """Whether a node only changes a layout, and nobody but ONNX Runtime asked for that."""
    return node.op_type in _REFORMAT or (node.op_type in ("Cast", "Transpose") and node.name not in source.nodes)


def _kind(node: onnx.NodeProto, precision: str, inserted: bool) -> Literal["compute", "quantize", "reformat"]:
    if node.op_type in _QUANTIZE:
        return "quantize"
    if node.op_type == "Cast" and "float" in precision and node.attribute[0].i in _FLOATS:
        return "reformat"
    return "reformat" if inserted else "compute"


def _precisions(graph: onnx.GraphProto, source: SourceGraph) -> tuple[list[str], list[str]]:
    """The types that each node computes in and writes; the file holds those of some tensors only: they are followed."""
    import onnx

    names = {code: str(onnx.helper.tensor_dtype_to_np_dtype(code)) for code in onnx.TensorProto.DataType.values()[1:]}
    types: dict[str, str] = dict(source.types)
    types |= {tensor.name: names[tensor.data_type] for tensor in graph.initializer}
    types |= {value.name: names[code] for value in graph.value_info if (code := value.type.tensor_type.elem_type)}
    precisions: list[str] = []
    written: list[str] = []
    for node in graph.node:
        read = [types[name] for name in node.input if name in types]
        given = [kind for kind in read if kind not in _SETTINGS] or read or [types.get(node.output[0], "")]
        precision = "int64" if node.op_type in ("Shape", "Size") else given[0]
        if node.op_type in _QUANTIZE or _INTEGER.match(node.op_type):
            precision = next((kind for kind in given if kind in ("int8", "uint8")), precision)
        becomes = precision
        if node.op_type == "DequantizeLinear" or "ToFloat" in node.op_type or node.op_type.endswith("MatMul"):
            becomes = next((kind for kind in given if "float" in kind), precision)
        for name in filter(None, node.output):
            types.setdefault(name, becomes)
        output = types.get(node.output[0], "")
        if node.op_type in ("ConvInteger", "MatMulInteger"):
            output = "int32"
        elif node.op_type == "QGemm" and not "".join(node.input[7:8]):  # without a scale of its result
            output = "float32"
        for kind, listed in ((precision, precisions), (output, written)):
            listed.append("int8" if kind == "uint8" else kind)
    return precisions, written


def _origins(graph: onnx.GraphProto, inserted: Sequence[bool], source: SourceGraph) -> list[tuple[str, ...]]:
    """The nodes of the source whose results each node gives, found by the names that optimization keeps.

    A group's output keeps its name unless the layout changes. Then the name of the node tells one of the group, and
    what only that one leads to belongs to the group as well, if it is of a kind that fuses and nobody else computes it.
    """
    aliases: Mapping[str, str] = {
        node.input[0]: node.output[0] for node, added in zip(graph.node, inserted, strict=True) if added
    }
    found: list[list[str]] = []
    for node, added in zip(graph.node, inserted, strict=True):
        tensors = [aliases.get(name, name) if source.producer(name) is None else name for name in node.output]
        found.append([name for tensor in tensors if not added and (name := source.producer(tensor))])
    named = [_by_name(node.name, source) for node in graph.node]
    taken = {name for names in found for name in names} | {name for name in named if name}
    # Backwards: of two that lead to the same Add, the one that runs later computes it.
    for node, results, name, added in reversed(list(zip(graph.node, found, named, inserted, strict=True))):
        if added or name is None or name in results:
            continue
        last = _last_fused(name, taken, source)
        if not results:
            results.append(last)
        if node.op_type == source.nodes[name].op_type or name in results or _INTEGER.match(node.op_type):
            results.append(name)
    return [tuple(dict.fromkeys(results)) for results in found]


def _by_name(name: str, source: SourceGraph) -> str | None:
    return source.find(name) or source.find(_SUFFIX.sub("", name))


def _last_fused(name: str, taken: set[str], source: SourceGraph) -> str:
    """The last node of the chain that a node begins and that is computed with it; the chain is taken then."""
    here = name
    while (reader := source.only_reader(here)) and reader not in taken:
        if source.nodes[reader].op_type not in _FUSED_BEHIND:
            break
        here = reader
        taken.add(here)
        if source.nodes[here].op_type == "QuantizeLinear":
            break
    return here
