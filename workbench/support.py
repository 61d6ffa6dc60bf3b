"""Which operators of a model a backend cannot run, found by giving it each of them alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from workbench.graph.shapes import STANDARD, infer_tensors, operator_name, seen_inside
from workbench.model import Model, TensorSpec
from workbench.skeleton import read_skeleton

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True)
class Unsupported:
    """An operator that a backend does not run.

    Attributes:
        operator: Operator, with its domain unless that is ONNX's own; or the opset, where the whole of it is too new.
        reason: Why, in a sentence.
        nodes: Names of the nodes that it concerns; those in subgraphs behind the name of the node that holds them.
        remedy: What to do about it.
    """

    operator: str
    reason: str
    nodes: tuple[str, ...]
    remedy: str = ""


@dataclass(frozen=True)
class Probe:
    """One operator with the element types that it occurs with, as a model of its own.

    Attributes:
        operator: Operator, with its domain unless that is ONNX's own.
        types: Element types of its inputs; empty where one is not known, and float32 stands in.
        nodes: Names of the nodes that it stands for.
        proto: The model: no weights, no shapes, one node.
    """

    operator: str
    types: tuple[str, ...]
    nodes: tuple[str, ...]
    proto: onnx.ModelProto

    @property
    def certain(self) -> bool:
        """Whether all types are known, so that a complaint about types counts."""
        return "" not in self.types


def make_probes(model: Model) -> tuple[Probe, ...]:
    """Makes a model of one node for every operator and combination of element types in a model.

    Subgraphs and the bodies of local functions are searched; the nodes that hold or call them are not tried themselves.

    Raises:
        ModelError: The file does not hold an ONNX model.
    """
    proto = read_skeleton(model.path)
    bodies = {(function.domain, function.name) for function in proto.functions}
    found: dict[tuple[str, str, tuple[str, ...], tuple[str, ...]], list[tuple[str, onnx.NodeProto]]] = {}
    for name, node, known in _all_nodes(proto, infer_tensors(proto, model, 1)):
        if (node.domain, node.op_type) in bodies:
            continue
        inputs, outputs = (tuple(_type(known, key) for key in keys) for keys in (node.input, node.output))
        found.setdefault((node.domain, node.op_type, inputs, outputs), []).append((name, node))
    return tuple(
        Probe(
            operator=operator_name(nodes[0][1].domain, nodes[0][1].op_type),
            types=inputs,
            nodes=tuple(name for name, _ in nodes),
            proto=_alone(nodes[0][1], inputs, proto),
        )
        for (_, _, inputs, _), nodes in found.items()
    )


def _all_nodes(
    proto: onnx.ModelProto, known: Mapping[str, TensorSpec]
) -> Iterator[tuple[str, onnx.NodeProto, Mapping[str, TensorSpec]]]:
    """Every node without subgraphs, with its name and what is known of the tensors that it sees."""
    waiting: list[tuple[str, Iterable[onnx.NodeProto], Mapping[str, TensorSpec]]] = [("", proto.graph.node, known)]
    waiting += [(f"{function.name}/", function.node, {}) for function in proto.functions]
    while waiting:
        prefix, nodes, seen = waiting.pop()
        for node in nodes:
            name = prefix + (node.name or next(filter(None, node.output), node.op_type))
            graphs = [graph for a in node.attribute for graph in (*([a.g] if a.HasField("g") else []), *a.graphs)]
            waiting += [(f"{name}/", graph.node, seen_inside(graph, seen)) for graph in graphs]
            if not graphs:
                yield name, node, seen


def _type(known: Mapping[str, TensorSpec], name: str) -> str:
    """The element type; `-` for an optional input that is left out."""
    return (known[name].dtype if name in known else "") if name else "-"


def _alone(node: onnx.NodeProto, types: tuple[str, ...], proto: onnx.ModelProto) -> onnx.ModelProto:
    import numpy as np
    import onnx

    inputs, names = [], []
    for place, dtype in enumerate(types):
        names.append("" if dtype == "-" else f"input {place}")
        if dtype != "-":
            elem_type = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype or "float32"))
            inputs.append(onnx.helper.make_tensor_value_info(names[-1], elem_type, None))
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    copy.input[:] = names
    copy.output[:] = [name and f"output {place}" for place, name in enumerate(node.output)]
    outputs = [onnx.ValueInfoProto(name=name) for name in copy.output if name]
    graph = onnx.helper.make_graph([copy], "probe", inputs, outputs)
    opsets = [entry for entry in proto.opset_import if entry.domain in (*STANDARD, node.domain)]
    return onnx.helper.make_model(graph, opset_imports=opsets, ir_version=proto.ir_version)
