"""A graph in numbers, node by node and in total."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from workbench.graph.cost import count_macs
from workbench.graph.memory import find_peak
from workbench.graph.precision import find_precisions
from workbench.graph.shapes import count, infer_tensors, operator_name, size_bytes
from workbench.graph.weights import bytes_by_type, find_weights
from workbench.model import Model, TensorSpec
from workbench.skeleton import read_skeleton

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True)
class NodeSummary:
    """One node.

    Attributes:
        name: A name of its own: the node's, or its first output's where it has none, numbered where names repeat.
        operator: Operator, with its domain unless that is ONNX's own.
        inputs: Names of its inputs.
        outputs: Name, type and shape of each output, as far as shape inference knows them.
        parameters: Numbers in the trained weights that it alone or first uses; scales, zero points, indices and shapes
            are no parameters. Weights that reach it through nodes that only reshape or dequantize them are its own.
        weight_bytes: Size of all constants that it alone or first uses.
        macs: Multiply-accumulates at the summary's batch size; None where they are not known.
        activation_bytes: Size of its outputs; None where a shape is not known.
        precision: Element type that it computes in, e.g. `float32`; `int8` where Q/DQ nodes around it say so; empty if
            not known.
    """

    name: str
    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[TensorSpec, ...]
    parameters: int
    weight_bytes: int
    macs: int | None
    activation_bytes: int | None
    precision: str


@dataclass(frozen=True)
class OperatorSummary:
    """All nodes of one operator; what is not known of a node counts nothing.

    Attributes:
        operator: Operator, with its domain unless that is ONNX's own.
        count: How often it occurs.
        parameters: Numbers in the trained weights.
        macs: Multiply-accumulates.
        activation_bytes: Size of all outputs.
    """

    operator: str
    count: int
    parameters: int
    macs: int
    activation_bytes: int


@dataclass(frozen=True)
class GraphSummary:
    """A whole graph.

    Attributes:
        model: Name of the model.
        batch: Size put in for a dynamic first axis.
        nodes: In the graph's order.
        parameters: Numbers in all trained weights.
        macs: Multiply-accumulates of all nodes where they are known.
        weight_bytes: Size of all constants by element type, e.g. `{'float32': 880000}`.
        operators: How often each operator occurs, most frequent first.
        by_operator: The same with what each costs, most multiply-accumulates first.
        opsets: Version of each operator set by domain; ONNX's own is `ai.onnx`.
        peak_activation_bytes: The most that inputs, outputs and intermediate tensors take at a time; None where a shape
            is not known.
        unknown_shapes: Nodes with an output whose shape is not fully known.
        axes: Sizes put in for other dynamic axes, by name.
    """

    model: str
    batch: int
    nodes: tuple[NodeSummary, ...]
    parameters: int
    macs: int
    weight_bytes: Mapping[str, int]
    operators: Mapping[str, int]
    by_operator: tuple[OperatorSummary, ...]
    opsets: Mapping[str, int]
    peak_activation_bytes: int | None
    unknown_shapes: int
    axes: Mapping[str, int] = field(default_factory=dict)

    @cached_property
    def by_name(self) -> Mapping[str, NodeSummary]:
        """The nodes by name."""
        return {node.name: node for node in self.nodes}

    @cached_property
    def producers(self) -> Mapping[str, NodeSummary]:
        """The node that makes each tensor."""
        return {spec.name: node for node in self.nodes for spec in node.outputs}

    @cached_property
    def readers(self) -> Mapping[str, Sequence[NodeSummary]]:
        """The nodes that read each tensor."""
        found: dict[str, list[NodeSummary]] = {}
        for node in self.nodes:
            for name in node.inputs:
                found.setdefault(name, []).append(node)
        return found


def summarize_graph(model: Model, *, batch: int = 1, axes: Mapping[str, int] | None = None) -> GraphSummary:
    """Summarizes a model's graph; weights in external files are not read.

    Counted are the nodes of the main graph. The subgraphs of an `If`, `Loop` or `Scan` and the body of a local function
    belong to the node that holds or calls them: their weights count as its own; of multiply-accumulates, the dearest
    branch of an `If` counts, and those of a `Loop` or `Scan` that has any and of a function are not known.

    The peak of activation memory follows from the graph's order: an intermediate tensor lives from its producer to its
    last consumer, the inputs throughout, an output from its producer to the end. Each has its own place: runtimes that
    reuse an input's place for an output need less.

    Args:
        model: Any model.
        batch: Size put in for dynamic axes named like the first axis of the first input; others keep their names
            and the nodes that depend on them have no MACs.
        axes: Sizes put in for other dynamic axes, by name, e.g. `{"sequence": 128}`.

    Raises:
        ModelError: The file does not hold an ONNX model.
    """
    proto = read_skeleton(model.path)
    known = infer_tensors(proto, model, batch, axes)
    nodes = summarize_nodes(proto, known)
    return GraphSummary(
        model=model.name,
        batch=batch,
        nodes=nodes,
        parameters=sum(node.parameters for node in nodes),
        macs=sum(node.macs or 0 for node in nodes),
        weight_bytes=bytes_by_type(proto),
        operators=dict(Counter(node.operator for node in nodes).most_common()),
        by_operator=_by_operator(nodes),
        opsets={entry.domain or "ai.onnx": entry.version for entry in proto.opset_import},
        peak_activation_bytes=find_peak(proto.graph, known),
        unknown_shapes=sum(any(count(spec.shape) is None for spec in node.outputs) for node in nodes),
        axes=dict(axes or {}),
    )


def summarize_nodes(proto: onnx.ModelProto, known: Mapping[str, TensorSpec]) -> tuple[NodeSummary, ...]:
    """Summarizes the nodes of a skeleton, whose tensors shape inference has found, in their order."""
    weights = find_weights(proto)
    precisions = find_precisions(proto.graph, known)
    nodes = []
    for node, precision in zip(proto.graph.node, precisions, strict=True):
        outputs = tuple(known.get(name, TensorSpec(name, "", ("?",))) for name in node.output if name)
        sizes = [size_bytes(spec) for spec in outputs]
        own = weights[node.name]
        nodes.append(
            NodeSummary(
                name=node.name,
                operator=operator_name(node.domain, node.op_type),
                inputs=tuple(name for name in node.input if name),
                outputs=outputs,
                parameters=own.parameters,
                weight_bytes=own.bytes,
                macs=count_macs(node, known),
                activation_bytes=None if None in sizes else sum(size or 0 for size in sizes),
                precision=precision,
            )
        )
    return tuple(nodes)


def _by_operator(nodes: Iterable[NodeSummary]) -> tuple[OperatorSummary, ...]:
    groups: dict[str, list[NodeSummary]] = {}
    for node in nodes:
        groups.setdefault(node.operator, []).append(node)
    totals = (
        OperatorSummary(
            operator=operator,
            count=len(group),
            parameters=sum(node.parameters for node in group),
            macs=sum(node.macs or 0 for node in group),
            activation_bytes=sum(node.activation_bytes or 0 for node in group),
        )
        for operator, group in groups.items()
    )
    return tuple(sorted(totals, key=lambda total: (-total.macs, -total.parameters, -total.count, total.operator)))
