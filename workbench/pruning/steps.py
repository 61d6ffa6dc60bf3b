"""One node as the rules of pruning see it: its inputs with their channels, its constants and attributes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from workbench.graph.shapes import Shape
from workbench.pruning.channels import Dependencies, Kind, Labels, Layer, UnknownError, Value
from workbench.pruning.graphs import Graph

if TYPE_CHECKING:
    import onnx


class Step:
    """A node that is being followed.

    Attributes:
        node: The node.
        place: Its place in the graph.
        graph: The graph that it belongs to.
        found: What has been found so far; rules add to it.
    """

    def __init__(self, graph: Graph, place: int, found: Dependencies, values: Mapping[str, Value]) -> None:
        self.node: onnx.NodeProto = graph.nodes[place]
        self.graph, self.place, self.found = graph, place, found
        self._values = values

    def input(self, place: int) -> str:
        """Name of an input; empty if it is left out."""
        return self.node.input[place] if place < len(self.node.input) else ""

    def value(self, place: int = 0, axis: int | None = None) -> Value | None:
        """The channels of an input; None where nothing there can go.

        Args:
            place: Which input.
            axis: Where they have to lie.

        Raises:
            UnknownError: They lie elsewhere.
        """
        value = self._values.get(self.input(place))
        if value is not None and axis is not None and value.axis != axis:
            raise UnknownError(f"reads them from axis {axis}, and they lie on axis {value.axis}")
        return value

    def followed(self) -> list[Value]:
        """The channels of all inputs that have some."""
        return [self._values[name] for name in self.node.input if name in self._values]

    def constant(self, place: int) -> tuple[int, ...]:
        """Shape of an input that has to be constant.

        Raises:
            UnknownError: It is not.
        """
        dims = self.graph.dims(self.input(place))
        if dims is None:
            raise UnknownError(f"computes its input {place}, '{self.input(place)}', while the model runs")
        return dims

    def numbers(self, place: int, attribute: str = "") -> list[Any] | None:
        """The values of a small constant input, or of the attribute that held them in older opsets.

        Raises:
            UnknownError: They are computed while the model runs.
        """
        if attribute and (given := self.attribute(attribute)) is not None:
            return list(given)
        if not self.input(place):
            return None
        self.constant(place)
        return list(self.graph.array(self.input(place)).reshape(-1).tolist())

    def attribute(self, name: str, default: Any = None) -> Any:
        """Value of an attribute."""
        import onnx

        for entry in self.node.attribute:
            if entry.name == name:
                return onnx.helper.get_attribute_value(entry)
        return default

    def shape(self, place: int) -> Shape | None:
        """Shape of an input; None where not even its rank is known."""
        return self.graph.shape(self.input(place))

    def name(self) -> str:
        """The node's name."""
        return self.node.name

    def make_layer(
        self, kind: Kind, inputs: int | None, outputs: int, labels: Labels, taken: Value | None, bias: str = ""
    ) -> Layer:
        """Notes that this node makes channels with weights in its input 1."""
        source, weight = self.input(0), self.input(1)
        layer = Layer(
            name=self.node.name,
            node=self.place,
            kind=kind,
            source=source,
            target=self.node.output[0],
            weight=weight,
            inputs=inputs,
            outputs=outputs,
            labels=labels,
            taken=None if taken is None else taken.labels,
            axis=1 if taken is None else taken.axis,
            bias=bias if self.graph.uses[bias] == 1 else "",
        )
        self.found.layers.append(layer)
        return layer
