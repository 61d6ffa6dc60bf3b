"""Frozen TensorFlow graphs: one file of operators and constants, which does not say what goes in and comes out."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from workbench.dataset import Dataset
from workbench.errors import ModelError, OptionsError
from workbench.importers._source import Source
from workbench.importers._tensorflow.safety import check_graph
from workbench.importers._tensorflow.source import FunctionSource, TensorFlowOptions, start_tensorflow, unique_names
from workbench.importers._tensorflow.words import listed
from workbench.options import suggest

_VARIABLES = {"Variable", "VariableV2", "VarHandleOp"}
_NO_OUTPUT = {"NoOp", "Assert", "Const", "Placeholder", "PlaceholderWithDefault", "SaveV2", "RestoreV2"}


def open_frozen(
    path: Path, inputs: str, outputs: str, options: TensorFlowOptions, samples: Dataset | None, trust: bool
) -> Source:
    """Opens a frozen graph: the part that leads to the outputs, after its operators were checked.

    Args:
        path: The `.pb` file.
        inputs: Names with commas, with shapes if need be; its placeholders if empty.
        outputs: Names with commas; the one node that nothing uses if empty.
        options: What the user chose.
        samples: What the user gave to compare on.
        trust: Whether the user vouches for the file.

    Raises:
        ModelError: It cannot be read, is not frozen, or is not safe.
        OptionsError: Inputs or outputs do not exist, or are not clear.
    """
    tf = start_tensorflow()
    graph = _parse(path)
    fetches = _names(path, graph, outputs) or [_only_output(path, graph)]
    shapes = _shapes(inputs)
    feeds = _names(path, graph, ",".join(shapes))
    graph = tf.compat.v1.graph_util.extract_sub_graph(graph, [name.partition(":")[0] for name in (*fetches, *feeds)])
    variables = [node.name for node in graph.node if node.op in _VARIABLES]
    if variables:
        raise ModelError(
            f"{path} is not frozen: the values of {listed(variables, 3)} are not in it.",
            "Freeze it with its checkpoint, or save the model as a SavedModel.",
        )
    check_graph(str(path), graph, trust)
    feeds = feeds or [f"{node.name}:0" for node in graph.node if node.op == "Placeholder"]
    if not feeds:
        raise OptionsError(f"{path} has no placeholder to feed.", "Name its inputs with the option `inputs`.")
    _set_shapes(graph, shapes)
    function = tf.compat.v1.wrap_function(lambda: tf.import_graph_def(graph, name=""), []).prune(feeds, fetches)
    tensors = [function.graph.get_tensor_by_name(name) for name in (*feeds, *fetches)]
    names = unique_names([_plain(name) for name in (*feeds, *fetches)])
    given = dict(zip(names[: len(feeds)], tensors, strict=False))
    wanted = dict(zip(names[len(feeds) :], tensors[len(feeds) :], strict=True))

    def run(feed: Any) -> list[Any]:
        return [value.numpy() for value in function(*(tf.constant(feed[name]) for name in given))]

    framework = f"TensorFlow {tf.__version__}"
    source = FunctionSource(str(path), framework, function, function, given, wanted, run, options, samples)
    if not inputs or not outputs:
        source.notes.append(f"Inputs ({', '.join(given)}) and outputs ({', '.join(wanted)}) are those that it shows.")
    return source


def _parse(path: Path) -> Any:
    from google.protobuf.message import DecodeError
    from tensorflow.core.framework import graph_pb2

    graph = graph_pb2.GraphDef()
    try:
        graph.ParseFromString(path.read_bytes())
    except DecodeError:
        raise ModelError(
            f"{path} is not a TensorFlow graph, or only a part of one.",
            "Copy or save it again, and compare sizes if it was copied.",
        ) from None
    return graph


def _shapes(inputs: str) -> dict[str, list[int] | None]:
    """`x[-1,28,28,1],y` as names with their shapes, None where none is given."""
    found = {}
    for name, shape in re.findall(r"([^,\[\]]+)(?:\[([^\]]*)\])?", inputs):
        try:
            found[name.strip()] = [int(size) for size in shape.split(",")] if shape else None
        except ValueError:
            raise OptionsError(
                f"The shape [{shape}] of '{name.strip()}' is not a list of sizes.", "Write it like x[-1,28,28,1]."
            ) from None
    return found


def _names(path: Path, graph: Any, words: str) -> list[str]:
    """Tensor names of what the user wrote: `scores` is `scores:0`."""
    known = {node.name: node.op for node in graph.node}
    names = [word.strip() for word in words.split(",") if word.strip()]
    for name in names:
        if name.partition(":")[0] not in known:
            raise OptionsError(f"{path} has no node '{name}'.", suggest(name, _candidates(graph)))
    return [name if ":" in name else f"{name}:0" for name in names]


def _candidates(graph: Any) -> list[str]:
    return [*(node.name for node in graph.node if node.op == "Placeholder"), *_sinks(graph)]


def _sinks(graph: Any) -> list[str]:
    """Nodes that nothing uses, among those that an input leads to."""
    used, reached = set(), set()
    consumers: dict[str, list[str]] = {}
    for node in graph.node:
        for source in node.input:
            name = source.removeprefix("^").partition(":")[0]
            used.add(name)
            consumers.setdefault(name, []).append(node.name)
    waiting = [node.name for node in graph.node if node.op == "Placeholder"]
    while waiting:
        name = waiting.pop()
        if name not in reached:
            reached.add(name)
            waiting += consumers.get(name, [])
    ends = [node.name for node in graph.node if node.name not in used and node.op not in _NO_OUTPUT]
    return [name for name in ends if name in reached] or ends


def _only_output(path: Path, graph: Any) -> str:
    found = _sinks(graph)
    if len(found) != 1:
        some = f"{len(found)} nodes could be its outputs: {listed(found, 8)}" if found else "No node is its output"
        raise OptionsError(f"{some} ({path}).", "Name the ones that you need with the option `outputs`.")
    return f"{found[0]}:0"


def _set_shapes(graph: Any, shapes: dict[str, list[int] | None]) -> None:
    for node in graph.node:
        shape = shapes.get(node.name, shapes.get(f"{node.name}:0"))
        if shape is not None and node.op == "Placeholder":
            node.attr["shape"].shape.Clear()
            for size in shape:
                node.attr["shape"].shape.dim.add(size=size)


def _plain(tensor: str) -> str:
    node, _, index = tensor.partition(":")
    return node if index == "0" else f"{node}_{index}"
