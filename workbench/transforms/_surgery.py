"""A graph taken apart and put together again: what the transforms share that change it node by node."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from workbench.errors import TransformError
from workbench.graph.shapes import STANDARD, infer_tensors
from workbench.model import Model
from workbench.model_file import read_whole
from workbench.options import suggest
from workbench.skeleton import read_skeleton
from workbench.transforms._opset import raise_opset

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

_SMALL = 1024  # bytes of a constant that may be a shape


class Surgery:
    """A model in memory whose constants are found by name and whose nodes can be replaced.

    Nodes have the names that the graph panel shows; constants of `Constant` nodes stand among the initializers.

    Attributes:
        proto: The model, whole.
    """

    def __init__(self, model: Model, opset: int = 0) -> None:
        """Reads the model and raises its opset where it is older.

        Raises:
            ModelError: The file is not what it should be.
            TransformError: ONNX's converter cannot bring it to that opset.
        """
        self.proto = read_whole(model.path)
        for node, shown in zip(self.proto.graph.node, read_skeleton(model.path).graph.node, strict=True):
            node.name = shown.name
        raise_opset(self.proto, opset, model.name)
        self._lift_constants()
        self._tensors = {tensor.name: tensor for tensor in self.proto.graph.initializer}
        self._taken = set(_names(self.proto.graph))

    @property
    def nodes(self) -> Sequence[onnx.NodeProto]:
        """The nodes of the main graph."""
        return self.proto.graph.node

    def constant(self, name: str) -> NDArray[Any] | None:
        """The values of a constant in float32; None if it is something else, or computed."""
        import onnx

        tensor = self._tensors.get(name)
        if tensor is None or tensor.data_type != onnx.TensorProto.FLOAT:
            return None
        values: NDArray[Any] = onnx.numpy_helper.to_array(tensor)
        return values

    def element_types(self, model: Model) -> dict[str, str]:
        """NumPy's name of the element type of every tensor of which it can be inferred."""
        import onnx

        bare = onnx.ModelProto()
        graph = self.proto.graph
        bare.opset_import.extend(self.proto.opset_import)
        bare.functions.extend(self.proto.functions)
        bare.ir_version = self.proto.ir_version
        for part in ("node", "input", "output", "value_info"):
            getattr(bare.graph, part).extend(getattr(graph, part))
        for tensor in self._tensors.values():  # the values of big ones say nothing, and would be copied
            small = tensor.ByteSize() <= _SMALL
            bare.graph.initializer.append(tensor if small else _emptied(tensor))
        return {name: spec.dtype for name, spec in infer_tensors(bare, model, 1).items()}

    def fresh(self, wanted: str) -> str:
        """A name for a new tensor that nothing has yet."""
        name, number = wanted, 1
        while name in self._taken:
            number += 1
            name = f"{wanted}_{number}"
        self._taken.add(name)
        return name

    def add_constant(self, wanted: str, values: NDArray[Any]) -> str:
        """Adds a constant and returns its name."""
        import numpy as np
        import onnx

        tensor = onnx.numpy_helper.from_array(np.ascontiguousarray(values).reshape(values.shape), self.fresh(wanted))
        self._tensors[tensor.name] = tensor
        return str(tensor.name)

    def readers(self) -> dict[str, list[onnx.NodeProto]]:
        """The nodes of the main graph that read each tensor; a node that reads it twice stands there twice."""
        found: dict[str, list[onnx.NodeProto]] = {}
        for node in self.nodes:
            for name in filter(None, node.input):
                found.setdefault(name, []).append(node)
        return found

    def seen_elsewhere(self) -> set[str]:
        """Tensors that are results of the model or read inside of subgraphs: they must keep name and value."""
        return {value.name for value in self.proto.graph.output} | set(_read_inside(self.nodes))

    def finish(self, nodes: Iterable[onnx.NodeProto]) -> onnx.ModelProto:
        """Puts the nodes in the place of the old ones, and leaves out the constants that nobody reads any more."""
        made = list(nodes)
        graph = self.proto.graph
        del graph.node[:]
        graph.node.extend(made)
        read = {name for node in made for name in node.input} | self.seen_elsewhere()
        fed = {value.name for value in graph.input}
        gone = {name for name in self._tensors if name not in read}
        kept = [tensor for name, tensor in self._tensors.items() if name in read]
        for place in reversed(range(len(graph.input))):  # old models list their constants here too
            if graph.input[place].name in gone & fed:
                del graph.input[place]
        rest = type(graph)(initializer=kept)
        del graph.initializer[:]
        graph.initializer.extend(rest.initializer)
        del graph.value_info[:]  # types may have changed
        return self.proto

    def _lift_constants(self) -> None:
        graph = self.proto.graph
        kept = []
        for node in graph.node:
            values = [attribute.t for attribute in node.attribute if attribute.name == "value"]
            if node.op_type == "Constant" and node.domain in STANDARD and values:
                values[0].name = node.output[0]
                graph.initializer.append(values[0])
            else:
                kept.append(node)
        rest = type(graph)(node=kept)
        del graph.node[:]
        graph.node.extend(rest.node)


def _emptied(tensor: onnx.TensorProto) -> onnx.TensorProto:
    import onnx

    empty = onnx.TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
    empty.data_location = onnx.TensorProto.EXTERNAL
    empty.external_data.add(key="location", value="removed")
    return empty


def _names(graph: onnx.GraphProto) -> Iterator[str]:
    yield from (value.name for value in (*graph.input, *graph.output))
    yield from (tensor.name for tensor in graph.initializer)
    for node in graph.node:
        yield from node.input
        yield from node.output
        for inner in _graphs(node):
            yield from _names(inner)


def _read_inside(nodes: Iterable[onnx.NodeProto]) -> Iterator[str]:
    for node in nodes:
        for graph in _graphs(node):
            yield from (value.name for value in graph.output)
            yield from (name for inner in graph.node for name in inner.input)
            yield from _read_inside(graph.node)


def _graphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    """The value of an attribute."""
    import onnx

    for entry in node.attribute:
        if entry.name == name:
            return onnx.helper.get_attribute_value(entry)
    return default


FOLDED = "Names are those of the graph after BatchNorm folding. "  # for graphs that were prepared first


def check_names(proto: onnx.ModelProto, names: Iterable[str], model: str, note: str = "") -> None:
    """Refuses names of nodes to keep in float that no node has.

    Raises:
        TransformError: It says which, and what is near.
    """
    known = [node.name for node in proto.graph.node]
    if unknown := sorted(set(names) - set(known)):
        near = suggest(unknown[0], known).partition("Known:")[0]
        raise TransformError(
            f"{model} has no node named {', '.join(map(repr, unknown))} to keep in float.",
            f"{near}{note}The graph panel shows the names.",
        )
