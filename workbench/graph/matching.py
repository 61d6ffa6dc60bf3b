"""Which node of one graph became which node of another: by name, by output, then by what it reads."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from workbench.graph.summary import NodeSummary

PLUMBING = frozenset({"Cast", "Constant", "DequantizeLinear", "DynamicQuantizeLinear", "QuantizeLinear"})
"""Operators that change how a value is stored, not what it is."""

_LAYOUT = frozenset({"Identity", "ReorderInput", "ReorderOutput"})
_FAMILIES = {
    **dict.fromkeys(("ConvInteger", "FusedConv", "NhwcConv", "NhwcFusedConv"), "Conv"),
    **dict.fromkeys(("DynamicQuantizeMatMul", "FusedGemm", "FusedMatMul", "Gemm", "GemmFastGelu"), "MatMul"),
    **dict.fromkeys(("MatMulBnb4", "MatMulInteger", "MatMulIntegerToFloat", "MatMulNBits", "QGemm"), "MatMul"),
    **dict.fromkeys(("TransposeMatMul", "SparseToDenseMatMul"), "MatMul"),
    **dict.fromkeys(("BiasGelu", "FastGelu", "QuickGelu"), "Gelu"),
    **dict.fromkeys(("SkipLayerNormalization",), "LayerNormalization"),
    **dict.fromkeys(("DynamicQuantizeLSTM",), "LSTM"),
    **dict.fromkeys(("QAttention", "MultiHeadAttention"), "Attention"),
    "Upsample": "Resize",
}
# What ONNX Runtime appends to a node's name when it writes another in its place.
_SUFFIXES = re.compile(r"(_nchwc|_nhwc|_quant|_token_\d+)+$")
_LOOKED_AT = 16  # candidates that are compared for one node; the first is nearly always right
_MOST_SOURCES = 8  # of one node; more would only cost time


def family(operator: str) -> str:
    """What an operator computes, however it is fused, quantized or laid out."""
    name = operator.rpartition(":")[2].removeprefix("QLinear")
    return _FAMILIES.get(name, name)


class View(NamedTuple):
    """A graph as the comparison needs it.

    Attributes:
        nodes: In the graph's order.
        sources: For each node, the nodes whose values it reads, plumbing left out.
        results: The nodes whose values the outputs of the graph are, by output.
    """

    nodes: Sequence[NodeSummary]
    sources: Sequence[tuple[int, ...]]
    results: Sequence[tuple[str, tuple[int, ...]]]

    def is_plumbing(self, place: int) -> bool:
        """Whether a node only changes how a value is stored."""
        return self.nodes[place].operator.rpartition(":")[2] in PLUMBING


def view(nodes: Sequence[NodeSummary], inputs: Iterable[str], outputs: Iterable[str]) -> View:
    """Finds what each node reads, through casts and Q/DQ nodes."""
    # The inputs of the graph count as sources too; negative numbers cannot be mistaken for nodes.
    origins: dict[str, tuple[int, ...]] = {name: (-1 - place,) for place, name in enumerate(inputs)}
    sources: list[tuple[int, ...]] = []
    for place, node in enumerate(nodes):
        read = dict.fromkeys(source for name in node.inputs for source in origins.get(name, ()))
        sources.append(tuple(read)[:_MOST_SOURCES])
        passed_on = node.operator.rpartition(":")[2] in PLUMBING | _LAYOUT
        for spec in node.outputs:
            origins[spec.name] = sources[-1] if passed_on else (place,)
    return View(nodes, sources, [(name, origins.get(name, ())) for name in outputs])


def match(before: View, after: View) -> dict[int, int]:
    """Pairs the nodes of two graphs that compute the same thing.

    Returns:
        Place in the second graph by place in the first. What was fused, removed or added is not in it.
    """
    pairs = _by_name(before, after)
    taken = set(pairs.values())
    # What is still free, by what it reads and computes.
    free: dict[tuple[int, str], deque[int]] = {}
    for place, node in enumerate(after.nodes):
        if place not in taken and not after.is_plumbing(place):
            for source in after.sources[place]:
                free.setdefault((source, family(node.operator)), deque()).append(place)
    # The nearest sources that are paired: those between them and the node were fused or removed.
    reached: list[tuple[int, ...]] = []
    for place, node in enumerate(before.nodes):
        nearest: dict[int, None] = {}
        for source in before.sources[place]:
            if source < 0:
                nearest[source] = None
            elif source in pairs:
                nearest[pairs[source]] = None
            else:
                nearest.update(dict.fromkeys(reached[source]))
        reached.append(tuple(nearest)[:_MOST_SOURCES])
        if place in pairs or before.is_plumbing(place):
            continue
        found = _candidate(node, reached[place], free, taken, after)
        if found is not None:
            pairs[place] = found
            taken.add(found)
    return pairs


def _by_name(before: View, after: View) -> dict[int, int]:
    """Names that are the same, or were but for what ONNX Runtime appends; names of nodes and of their first outputs."""
    named: dict[tuple[str, str], int] = {}
    for place, node in enumerate(before.nodes):
        kind = family(node.operator)
        for spec in node.outputs[:1]:
            named.setdefault((kind, spec.name), place)
    for place, node in enumerate(before.nodes):
        named[family(node.operator), node.name] = place
    pairs: dict[int, int] = {}
    taken: set[int] = set()
    for shorten in (False, True):
        for place, node in enumerate(after.nodes):
            if place in taken:
                continue
            for name in (node.name, *(spec.name for spec in node.outputs[:1])):
                found = named.get((family(node.operator), _SUFFIXES.sub("", name) if shorten else name))
                if found is not None and found not in pairs:
                    pairs[found] = place
                    taken.add(place)
                    break
    return pairs


def _candidate(
    node: NodeSummary, sources: Iterable[int], free: dict[tuple[int, str], deque[int]], taken: set[int], after: View
) -> int | None:
    """The first free node of the family that reads one of the sources; one with the same output shapes is preferred."""
    shapes = [spec.shape for spec in node.outputs]
    second = None
    for source in sources:
        candidates = free.get((source, family(node.operator)), deque())
        while candidates and candidates[0] in taken:
            candidates.popleft()
        for place in list(candidates)[:_LOOKED_AT] if len(candidates) <= _LOOKED_AT else [candidates[0]]:
            if place in taken:
                continue
            if [spec.shape for spec in after.nodes[place].outputs] == shapes:
                return place
            second = place if second is None else second
    return second
