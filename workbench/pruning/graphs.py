"""A graph made ready to be followed: constants as initializers, their uses counted, shapes inferred."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from workbench.graph.quantized import is_quantizing
from workbench.graph.shapes import STANDARD, Shape, declared_tensors
from workbench.model_inference import infer

if TYPE_CHECKING:
    import onnx

_SMALL = 1024  # bytes; shapes follow from constants below this
_FOLDED = {"Cast", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"}  # what exporters put behind weights


def ready(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose functions are inlined, whose constants are initializers and whose every node has a name."""
    import onnx
    import onnx.inliner

    copy = onnx.inliner.inline_local_functions(proto) if proto.functions else onnx.ModelProto()
    if not proto.functions:
        copy.CopyFrom(proto)
    graph = copy.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    kept = []
    for node in graph.node:
        made = _computed(node, constants, copy)
        if made is None:
            kept.append(node)
        else:
            made.name = node.output[0]
            constants[made.name] = made
            graph.initializer.append(made)
    del graph.node[:]
    graph.node.extend(kept)
    for node in graph.node:
        node.name = node.name or next((name for name in node.output if name), "")
    _drop_unused(graph)
    return copy


def _drop_unused(graph: onnx.GraphProto) -> None:
    """Leaves out what folding has made useless, so that no weight is written twice."""
    used = {value.name for value in (*graph.input, *graph.output)}
    used.update(name for node in graph.node for name in (*node.input, *names_inside(node)))
    for place in reversed(range(len(graph.initializer))):
        if graph.initializer[place].name not in used:
            del graph.initializer[place]


def is_quantized(proto: onnx.ModelProto) -> bool:
    """Whether the graph holds integer or Q/DQ operators."""
    return any(is_quantizing(node.op_type) for node in proto.graph.node)


def _computed(
    node: onnx.NodeProto, constants: dict[str, onnx.TensorProto], proto: onnx.ModelProto
) -> onnx.TensorProto | None:
    """What a node computes from constants alone, where that only moves or recasts them."""
    import onnx

    if node.domain not in STANDARD:
        return None
    if node.op_type == "Constant":
        return _constant(node.attribute[0]) if len(node.attribute) == 1 else None
    if node.op_type not in _FOLDED or not node.input or not all(name in constants for name in node.input if name):
        return None
    from onnx.reference import ReferenceEvaluator

    feeds = {name: onnx.numpy_helper.to_array(constants[name]) for name in node.input if name}
    inputs, outputs = ([onnx.ValueInfoProto(name=name) for name in names] for names in (feeds, node.output))
    graph = onnx.helper.make_graph([node], "constant", inputs, outputs)
    model = onnx.helper.make_model(graph, opset_imports=proto.opset_import)
    [array] = ReferenceEvaluator(model).run(None, feeds)
    return onnx.numpy_helper.from_array(np.ascontiguousarray(array))


def _constant(attribute: onnx.AttributeProto) -> onnx.TensorProto | None:
    import onnx

    types = {"value_float": np.float32, "value_floats": np.float32, "value_int": np.int64, "value_ints": np.int64}
    if attribute.name == "value":
        tensor = onnx.TensorProto()
        tensor.CopyFrom(attribute.t)
        return tensor
    if attribute.name in types:
        value = np.array(onnx.helper.get_attribute_value(attribute), types[attribute.name])
        return onnx.numpy_helper.from_array(value)
    return None


class Graph:
    """What rules ask of a graph that is `ready`.

    Attributes:
        nodes: In their order.
        opset: Version of the default operator set.
        outputs: Names of the graph's outputs.
        uses: How often nodes, subgraphs and the graph's outputs name each tensor.
        readers: Places of the nodes that read each tensor.
    """

    def __init__(self, proto: onnx.ModelProto) -> None:
        self.nodes = list(proto.graph.node)
        self.opset = max((entry.version for entry in proto.opset_import if entry.domain in STANDARD), default=1)
        self.outputs = [value.name for value in proto.graph.output]
        self.uses: Counter[str] = Counter(self.outputs)
        self.readers: defaultdict[str, list[int]] = defaultdict(list)
        self.made = {name: place for place, node in enumerate(self.nodes) for name in node.output if name}
        for place, node in enumerate(self.nodes):
            for name in (*node.input, *names_inside(node)):
                self.uses[name] += 1
                self.readers[name].append(place)
        self._constants = {tensor.name: tensor for tensor in proto.graph.initializer}
        self._shapes = {name: spec.shape for name, spec in declared_tensors(infer(_light(proto)).graph).items()}

    def dims(self, name: str) -> tuple[int, ...] | None:
        """Shape of a constant; None if the tensor is none."""
        return tuple(self._constants[name].dims) if name in self._constants else None

    def array(self, name: str) -> NDArray[Any]:
        """Values of a constant."""
        import onnx

        return onnx.numpy_helper.to_array(self._constants[name])

    def shape(self, name: str) -> Shape | None:
        """Shape of a tensor; None where not even its rank is known."""
        shape = self._shapes.get(name)
        return None if shape == ("?",) and name not in self._constants else shape


def names_inside(node: onnx.NodeProto) -> Iterator[str]:
    """Names that the subgraphs of a node use; some may be their own."""

    def inside(nodes: Iterable[onnx.NodeProto]) -> Iterator[str]:
        for one in nodes:
            for attribute in one.attribute:
                for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                    yield from (value.name for value in graph.output)
                    yield from (name for each in graph.node for name in each.input)
                    yield from inside(graph.node)

    return inside([node])


def _light(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The model with large constants as inputs: inference copies all that it gets, and takes 2 GB at most."""
    import onnx

    light = onnx.ModelProto(ir_version=max(proto.ir_version, 4), opset_import=proto.opset_import)
    graph, light.graph.name = proto.graph, "light"
    light.graph.node.extend(graph.node)
    light.graph.output.extend(graph.output)
    light.graph.value_info.extend(graph.value_info)
    constants = {tensor.name for tensor in graph.initializer}
    light.graph.input.extend(value for value in graph.input if value.name not in constants)
    for tensor in graph.initializer:
        if tensor.ByteSize() <= _SMALL:
            light.graph.initializer.append(tensor)
        else:
            light.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    return light
