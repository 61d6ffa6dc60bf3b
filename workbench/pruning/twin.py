"""Two models of the same inputs in one graph, so that one run shows what both make of the same samples."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from workbench.pruning.graphs import names_inside

if TYPE_CHECKING:
    import onnx

PREFIX = "pruned/"  # before the names of the second model


def twin(first: onnx.ModelProto, second: onnx.ModelProto, tensors: Sequence[str]) -> onnx.ModelProto:
    """A model that computes some tensors of both; those of the second have `PREFIX` before their names.

    Args:
        first: A model.
        second: One with the same inputs.
        tensors: What is wanted, by its name in the twin. What nothing of it depends on is left out.
    """
    import onnx

    both = onnx.ModelProto(ir_version=max(first.ir_version, 4), opset_import=first.opset_import)
    both.graph.name = "twin"
    constants = {tensor.name for model in (first, second) for tensor in model.graph.initializer}
    inputs = [value for value in first.graph.input if value.name not in constants]
    both.graph.input.extend(inputs)
    fed = {value.name for value in inputs}
    for model, prefix in ((first, ""), (second, PREFIX)):
        wanted = {name.removeprefix(prefix) for name in tensors if name.startswith(PREFIX) == bool(prefix)}
        nodes = _needed(model.graph.node, wanted)
        used = wanted | {name for node in nodes for name in (*node.input, *names_inside(node))}
        both.graph.node.extend(nodes)
        if prefix:
            _rename(both.graph.node[len(both.graph.node) - len(nodes) :], prefix, fed)
        for tensor in model.graph.initializer:
            if tensor.name in used:
                both.graph.initializer.add().CopyFrom(tensor)
                both.graph.initializer[-1].name = f"{prefix}{tensor.name}"
    return both


def _needed(nodes: Sequence[onnx.NodeProto], wanted: set[str]) -> list[onnx.NodeProto]:
    """The nodes that some tensors depend on, in their order."""
    wanted, kept = set(wanted), []
    for node in reversed(nodes):
        if wanted.intersection(node.output):
            kept.append(node)
            wanted.update(node.input, names_inside(node))
    return kept[::-1]


def _rename(nodes: Iterable[onnx.NodeProto], prefix: str, fed: set[str]) -> None:
    for node in nodes:
        node.name = f"{prefix}{node.name}"
        for names in (node.input, node.output):
            names[:] = [name if not name or name in fed else f"{prefix}{name}" for name in names]
        for attribute in node.attribute:
            for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                for value in (*graph.input, *graph.output):
                    value.name = f"{prefix}{value.name}"
                for tensor in graph.initializer:
                    tensor.name = f"{prefix}{tensor.name}"
                _rename(graph.node, prefix, fed)
