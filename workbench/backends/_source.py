"""The graph of an engine's model, in which the names that a backend gives its layers are looked up."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from workbench.graph.shapes import infer_tensors
from workbench.model import Model
from workbench.skeleton import read_skeleton

if TYPE_CHECKING:
    import onnx

_QUANTIZING = frozenset({"DequantizeLinear", "DynamicQuantizeLinear", "QuantizeLinear"})


class SourceGraph:
    """A model's nodes and tensors by name.

    Attributes:
        nodes: Each node by the name that `summarize_graph` gives it.
        types: Element type of each tensor, as far as it is known.
    """

    def __init__(self, model: Model) -> None:
        proto = read_skeleton(model.path)
        self.nodes: dict[str, onnx.NodeProto] = {node.name: node for node in proto.graph.node}
        self.types = {name: spec.dtype for name, spec in infer_tensors(proto, model, 1).items()}
        self._producers = {name: node.name for node in proto.graph.node for name in node.output if name}
        self._results = {value.name for value in proto.graph.output}
        self._readers: dict[str, list[str]] = {}
        for node in proto.graph.node:
            for name in filter(None, node.input):
                self._readers.setdefault(name, []).append(node.name)

    def producer(self, tensor: str) -> str | None:
        """The node that makes a tensor."""
        return self._producers.get(tensor)

    def find(self, name: str) -> str | None:
        """The node of that name, or the one that makes the tensor of that name."""
        return name if name in self.nodes else self._producers.get(name)

    def only_reader(self, name: str) -> str | None:
        """The node that alone reads what a node makes; None if nobody else or more than one does."""
        outputs = [output for output in self.nodes[name].output if output]
        readers = [reader for output in outputs for reader in self._readers.get(output, ())]
        return readers[0] if len(readers) == 1 and not self._results & set(outputs) else None

    def only_quantize(self, names: Iterable[str]) -> bool:
        """Whether there are nodes and all of them change between float and integers."""
        operators = {self.nodes[name].op_type for name in names}
        return bool(operators) and operators <= _QUANTIZING
