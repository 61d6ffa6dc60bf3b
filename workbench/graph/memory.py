"""How much memory the tensors between a graph's nodes take at a time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from workbench.graph.shapes import size_bytes
from workbench.model import TensorSpec

if TYPE_CHECKING:
    import onnx


def find_peak(graph: onnx.GraphProto, known: Mapping[str, TensorSpec]) -> int | None:
    """Finds the most bytes that are alive at once when the nodes run in the graph's order.

    A tensor lives from its producer to its last consumer, subgraphs counted as part of their node; inputs live
    throughout, outputs to the end; one that nobody reads lives while its producer runs. Constants are not counted.

    Returns:
        The peak in bytes, or None where the size of a tensor is not known.
    """
    constants = {tensor.name for tensor in graph.initializer}
    constants |= {name for node in graph.node if node.op_type == "Constant" for name in node.output}
    inputs = {value.name for value in graph.input} - constants
    outputs = {value.name for value in graph.output}
    last_use: dict[str, int] = {}
    for place, node in enumerate(graph.node):
        for name in (*node.output, *_reads(node)):
            last_use[name] = place
    ending: dict[int, list[str]] = {}
    for name, place in last_use.items():
        if name not in inputs and name not in outputs:
            ending.setdefault(place, []).append(name)

    sizes: dict[str, int] = {}
    for name in (*inputs, *(name for node in graph.node for name in node.output if name and name not in constants)):
        size = size_bytes(known[name]) if name in known else None
        if size is None:
            return None
        sizes[name] = size
    alive = peak = sum(sizes[name] for name in inputs)
    for place, node in enumerate(graph.node):
        alive += sum(sizes.get(name, 0) for name in set(node.output))
        peak = max(peak, alive)
        alive -= sum(sizes.get(name, 0) for name in ending.get(place, ()))
    return peak


def _reads(node: onnx.NodeProto) -> list[str]:
    """What a node reads, from within its subgraphs too; names that are theirs alone do no harm."""
    names = list(node.input)
    for attribute in node.attribute:
        for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
            names += [value.name for value in graph.output]
            for inner in graph.node:
                names += _reads(inner)
    return names
