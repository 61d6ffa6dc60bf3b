"""Names in the ONNX graph that PyTorch's exporter writes, and what must not stay in it."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from typing import Any

INSIDE = "model"  # the module's name in the wrapper that is exported
_KEPT = ("pkg.torch.onnx.name_scopes", "pkg.torch.onnx.class_hierarchy")  # the rest shows the maker's folders


def name_ends(model: Any, inputs: Sequence[str], outputs: Sequence[str]) -> None:
    """Gives inputs, outputs and weights the names that the user knows; inner values make way."""
    graph = model.graph
    ends = {*graph.inputs, *graph.outputs}
    for value in list(graph.initializers.values()):
        value.name = value.name.removeprefix(f"{INSIDE}.")
    taken = {*inputs, *outputs}
    others = [*graph.initializers.values(), *(value for node in graph for value in node.outputs)]
    known = {value.name for value in others} | taken
    for value in others:
        if value not in ends and value.name in taken:
            while value.name in known:
                value.name += "_inner"
            known.add(value.name)
    for number, value in enumerate((*graph.inputs, *graph.outputs)):  # out of each other's way
        value.name = f"_end_{number}"
    for value, name in zip((*graph.inputs, *graph.outputs), (*inputs, *outputs), strict=True):
        value.name = name


def clean_graph(model: Any, title: str) -> None:
    """Leaves out source lines and folders of the machine it was made on; keeps which layer a node belongs to."""
    model.metadata_props.clear()
    model.graph.name = title
    for part in (model.graph, *model.functions.values()):
        part.metadata_props.clear()
        for node in part.all_nodes():
            scopes = {key: _scopes(node.metadata_props[key]) for key in _KEPT if key in node.metadata_props}
            node.metadata_props.clear()
            node.metadata_props.update(scopes)
            node.doc_string = None
            for value in node.outputs:
                value.metadata_props.clear()
    for value in (*model.graph.inputs, *model.graph.initializers.values()):
        value.metadata_props.clear()


def _scopes(text: str) -> str:
    """Takes the wrapper out of a node's list of scopes."""
    scopes = ast.literal_eval(text)
    if len(scopes) > 1:
        del scopes[0]
    return str(["" if name == INSIDE else name.removeprefix(f"{INSIDE}.") for name in scopes])
