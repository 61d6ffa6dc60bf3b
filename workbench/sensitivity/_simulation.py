"""Runs a float model with any choice of its layers quantized, and computes again only what a choice changes.

The graph is cut in front of each layer. A piece is compiled once for each set of its tensors that is rounded, when it
is first needed. Rounded floats stand for integers, with the ranges of the model in which every layer is quantized: a
result differs from the real INT8 model's only where a sum falls on the other side of a step.
"""

from __future__ import annotations

import math
from collections import ChainMap
from collections.abc import Collection, Iterator, Mapping, MutableMapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from workbench.backends._host import physical_cores
from workbench.engine import Tensors
from workbench.errors import ModelError
from workbench.sensitivity._quantized import Quantized, Rounding

if TYPE_CHECKING:
    import onnx
    import onnxruntime
    from numpy.typing import NDArray

_FED = "//fed"  # behind the name of what the caller feeds
_EXACT = "//exact"  # behind the name of a tensor before it is rounded


@dataclass(eq=False)
class _Piece:
    """Nodes that run together.

    Attributes:
        nodes: In order.
        tensors: Names of the tensors of which it matters whether they are rounded.
        needs: Names of the values that come from other pieces.
        gives: Names of the values that others, or the caller, read.
        sessions: Compiled, by the tensors that are rounded.
    """

    nodes: list[onnx.NodeProto]
    tensors: AbstractSet[str] = frozenset()
    needs: tuple[str, ...] = ()
    gives: tuple[str, ...] = ()
    sessions: dict[frozenset[str], onnxruntime.InferenceSession] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class State:
    """One run: which tensors were rounded, and the values between the pieces."""

    rounded: frozenset[str]
    values: Mapping[str, onnxruntime.OrtValue]

    def __getitem__(self, name: str) -> NDArray[Any]:
        """A copy of the tensor of that name."""
        array: NDArray[Any] = self.values[name].numpy()
        return array

    @property
    def size_bytes(self) -> int:
        """About what the values take."""
        return sum(4 * math.prod(value.shape()) for value in self.values.values())


def share_resources() -> None:
    """Makes one pool of threads and of memory for all sessions of this process, hundreds of which would have their own.

    From then on ONNX Runtime refuses sessions with a pool of their own: for a process that does nothing else.
    """
    import onnxruntime

    onnxruntime.set_global_thread_pool_sizes(physical_cores(), 1)
    device = onnxruntime.OrtMemoryInfo(
        "Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
    )
    onnxruntime.create_and_register_allocator(device, onnxruntime.OrtArenaCfg(0, -1, -1, -1))


class Simulation:
    """A float model whose layers are quantized by choice.

    Args:
        quantized: The model and its quantization.
        name: What messages call it.
        shared: Run on the process's pools, see `share_resources`; else on one thread.
    """

    def __init__(self, quantized: Quantized, name: str, *, shared: bool = False) -> None:
        self._quantized, self._name, self._shared = quantized, name, shared
        graph = quantized.proto.graph
        self._constants = {tensor.name: tensor for tensor in graph.initializer}
        self._outputs = [value.name for value in graph.output]
        #: By layer, the tensor that it gives, after the Relu or Clip behind it.
        self.results = {node.name: self._result(node) for node in graph.node if node.name in quantized.layers}
        self._pieces = self._cut()

    @property
    def layers(self) -> Mapping[str, str]:
        """Operator by name of the layers, in the graph's order."""
        return self._quantized.layers

    def start(self, feed: Tensors, layers: Collection[str]) -> State:
        """Runs the whole model on samples with these layers quantized, all others in float.

        Raises:
            ModelError: ONNX Runtime cannot run it.
        """
        import onnxruntime

        fed = {name + _FED: onnxruntime.OrtValue.ortvalue_from_numpy(array) for name, array in feed.items()}
        return self._run(State(frozenset(), fed), layers, every=True)

    def change(self, state: State, layers: Collection[str]) -> State:
        """The same samples with other layers quantized; what that leaves as it is comes from `state`.

        Raises:
            ModelError: ONNX Runtime cannot run it.
        """
        return self._run(state, layers, every=False)

    def outputs(self, state: State) -> dict[str, NDArray[Any]]:
        """The model's outputs in a state, by name."""
        return {name: state[name] for name in self._outputs}

    def _run(self, state: State, layers: Collection[str], *, every: bool) -> State:
        rounded = self._quantized.rounded(layers)
        new: MutableMapping[str, onnxruntime.OrtValue] = {}
        values = ChainMap(new, dict(state.values))
        for piece in self._pieces:
            key = rounded & piece.tensors
            if every or key != state.rounded & piece.tensors or not new.keys().isdisjoint(piece.needs):
                feed = {name: values[name] for name in piece.needs}
                new.update(zip(piece.gives, self._compute(piece, key, feed), strict=True))
        return State(rounded, values)

    def _compute(
        self, piece: _Piece, key: frozenset[str], feed: Mapping[str, onnxruntime.OrtValue]
    ) -> list[onnxruntime.OrtValue]:
        try:
            if key not in piece.sessions:
                piece.sessions[key] = self._compile(piece, key, feed)
            values: list[onnxruntime.OrtValue] = piece.sessions[key].run_with_ort_values(piece.gives, feed)
        except Exception as error:  # onnxruntime raises its own C++ exception classes
            reason = " ".join(str(error).split())[:300].rstrip(".")
            raise ModelError(
                f"ONNX Runtime cannot run {self._name} with some of its layers quantized: {reason}.",
                "Check that the model and its quantized form run as they are.",
            ) from error
        return values

    def _cut(self) -> list[_Piece]:
        """Cuts the graph in front of each layer; what is fed and rounded comes first."""
        import onnx

        graph, roundings = self._quantized.proto.graph, self._quantized.roundings
        fed = [value.name for value in graph.input if value.name not in self._constants]
        pieces = [_Piece([onnx.helper.make_node("Identity", [name + _FED], [name]) for name in fed])]
        for node in graph.node:
            if node.name in self._quantized.layers or len(pieces) == 1:
                pieces.append(_Piece([]))
            pieces[-1].nodes.append(node)
        wanted = {*self._outputs, *self.results.values()}
        for piece in reversed(pieces):
            made = dict.fromkeys(name for node in piece.nodes for name in node.output if name)
            read = dict.fromkeys(name for node in piece.nodes for name in _reads(node))
            piece.tensors = roundings.keys() & {*made, *(read.keys() & self._constants.keys())}
            piece.needs = tuple(name for name in read if name not in made and name not in self._constants)
            piece.gives = tuple(name for name in made if name in wanted)
            wanted.update(piece.needs)
        return pieces

    def _result(self, layer: onnx.NodeProto) -> str:
        """The layer's output, or what a Relu or Clip makes of it where nothing else reads it."""
        readers = [node for node in self._quantized.proto.graph.node if layer.output[0] in _reads(node)]
        if len(readers) == 1 and readers[0].op_type in ("Relu", "Clip") and layer.output[0] not in self._outputs:
            return str(readers[0].output[0])
        return str(layer.output[0])

    def _compile(
        self, piece: _Piece, rounded: frozenset[str], feed: Mapping[str, onnxruntime.OrtValue]
    ) -> onnxruntime.InferenceSession:
        """Makes the session of a piece in which these of its tensors are rounded."""
        import onnx
        import onnxruntime
        from onnx import helper

        nodes: list[onnx.NodeProto] = []
        constants: list[onnx.TensorProto] = []
        for name in dict.fromkeys(name for node in piece.nodes for name in _reads(node) if name in self._constants):
            constants.append(_renamed(self._constants[name], name + _EXACT if name in rounded else name))
            if name in rounded:
                _add_rounding(name, self._quantized.roundings[name], nodes, constants)
        for node in piece.nodes:
            now = onnx.NodeProto()
            now.CopyFrom(node)
            now.output[:] = [name + _EXACT if name in rounded else name for name in node.output]
            if node.name in self._quantized.attributes and not rounded.isdisjoint(node.input):
                del now.attribute[:]
                now.attribute.extend(self._quantized.attributes[node.name])
            nodes.append(now)
            for name in rounded.intersection(node.output):
                _add_rounding(name, self._quantized.roundings[name], nodes, constants)
        inputs = [helper.make_tensor_value_info(name, value.element_type(), None) for name, value in feed.items()]
        outputs = [onnx.ValueInfoProto(name=name) for name in piece.gives]
        proto = self._quantized.proto
        model = helper.make_model(
            helper.make_graph(nodes, "piece", inputs, outputs, constants),
            ir_version=proto.ir_version,
            opset_imports=[helper.make_opsetid(*entry) for entry in self._quantized.imports.items()],
            functions=proto.functions,
        )
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.use_per_session_threads = not self._shared
        options.intra_op_num_threads = 0 if self._shared else 1
        if self._shared:
            options.add_session_config_entry("session.use_env_allocators", "1")
        options.add_session_config_entry("session.disable_quant_qdq", "1")  # rounded weights become constants
        return onnxruntime.InferenceSession(
            model.SerializeToString(),
            options,
            providers=["CPUExecutionProvider"],
            disabled_optimizers=["WeightBiasQuantization"],  # it would round the weights of a layer that is in float
        )


def _add_rounding(
    name: str, rounding: Rounding, nodes: list[onnx.NodeProto], constants: list[onnx.TensorProto]
) -> None:
    """Adds what makes `name` of its exact value, all under names of its own."""
    import onnx

    if not rounding.nodes:
        constants.append(_renamed(rounding.constants[0], name))
        return
    stored = {tensor.name for tensor in rounding.constants}
    constants.extend(_renamed(tensor, f"{name}//{tensor.name}") for tensor in rounding.constants)
    for node in rounding.nodes:
        now = onnx.NodeProto()
        now.CopyFrom(node)
        now.name = f"{name}//{node.op_type}"
        now.input[:] = [f"{name}//{entry}" if entry in stored else entry for entry in node.input]
        if node.op_type == "QuantizeLinear":
            now.input[0] = name + _EXACT
        elif node.input[0] not in stored:
            now.input[0] = f"{name}//integers"
        now.output[:] = [name if node is rounding.nodes[-1] else f"{name}//integers"]
        nodes.append(now)


def _renamed(tensor: onnx.TensorProto, name: str) -> onnx.TensorProto:
    import onnx

    copy = onnx.TensorProto()
    copy.CopyFrom(tensor)
    copy.name = name
    return copy


def _reads(node: onnx.NodeProto) -> Iterator[str]:
    """Names of the tensors that a node reads, in the bodies of its loops and branches, too."""
    yield from (name for name in node.input if name)
    for entry in node.attribute:
        for graph in (*entry.graphs, *([entry.g] if entry.HasField("g") else [])):
            known = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
            known.update(name for inner in graph.node for name in inner.output)
            yield from (name for inner in graph.node for name in _reads(inner) if name not in known)
            yield from (value.name for value in graph.output if value.name not in known)
