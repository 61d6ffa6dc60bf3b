"""Which nodes of a model's graph each layer of a backend computes, and what became of them in another model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from workbench.engine import Layer
from workbench.graph import NodeSummary, diff_graphs, summarize_graph
from workbench.graph.matching import PLUMBING, match, view
from workbench.model import Model

if TYPE_CHECKING:
    from workbench.measure.profile import LayerProfile, ProfiledLayer


@dataclass(frozen=True)
class MatchedLayers:
    """What computes the same in two profiles: a layer, or several that are fused in one of them only.

    Attributes:
        nodes: Nodes of the first model, the one that takes longest first; none for what the second one adds.
        others: Nodes of the second model; none for what it does no more.
        operator: What the first model calls it, else the second.
        ms: Time in the first profile; None where it has no such layer or it was not measured.
        other_ms: Time in the second profile.
    """

    nodes: tuple[str, ...]
    others: tuple[str, ...]
    operator: str
    ms: float | None
    other_ms: float | None


def map_layers(nodes: Sequence[NodeSummary], layers: Sequence[Layer]) -> list[tuple[str, ...]]:
    """Finds the nodes that each layer computes, fused ones as a group.

    A layer computes its sources, and what lies between them and the sources of other layers before them. A source that
    several layers name goes to the one that has its name, or to the first that computes.

    Args:
        nodes: The model's nodes in the graph's order.
        layers: What the backend runs.

    Returns:
        For each layer, names of nodes, the one with the most multiply-accumulates first; none for what was added.
    """
    producers = {spec.name: place for place, node in enumerate(nodes) for spec in node.outputs}
    names = {**producers, **{node.name: place for place, node in enumerate(nodes)}}
    owners: dict[int, int] = {}
    for number, layer in enumerate(layers):
        for place in {names[source] for source in layer.sources if source in names}:
            rival = owners.get(place)
            if rival is None or _claim(layer, nodes[place]) > _claim(layers[rival], nodes[place]):
                owners[place] = number
    for start in sorted(owners):
        stack = [start]
        while stack:
            place = stack.pop()
            for name in nodes[place].inputs:
                source = producers.get(name)
                if source is not None and source not in owners:
                    owners[source] = owners[start]
                    stack.append(source)
    groups: list[list[int]] = [[] for _ in layers]
    for place in sorted(owners):
        if nodes[place].operator != "Constant":
            groups[owners[place]].append(place)
    return [tuple(nodes[place].name for place in _main_first(nodes, group)) for group in groups]


def match_profiles(
    before: Model, profile: LayerProfile, after: Model, other: LayerProfile
) -> tuple[MatchedLayers, ...]:
    """Puts the layers of two profiles side by side; what is fused in one of them only stands in one row.

    Args:
        before: A model, e.g. the original.
        profile: Its profile.
        after: A model that was made of it, or the same again, on another backend.
        other: The profile of that.

    Returns:
        In the order of the first profile; what only the second has comes last.

    Raises:
        ModelError: A file does not hold an ONNX model.
    """
    return tuple(_row(mine, theirs) for mine, theirs in match_layers(before, profile.layers, after, other.layers))


def match_layers(
    before: Model, layers: Sequence[ProfiledLayer], after: Model, others: Sequence[ProfiledLayer]
) -> list[tuple[list[ProfiledLayer], list[ProfiledLayer]]]:
    """Puts together the layers of two models that compute the same nodes; either side of a pair may be empty.

    Raises:
        ModelError: A file does not hold an ONNX model.
    """
    rows = _Rows()
    for side, entries in enumerate((layers, others)):
        for number, entry in enumerate(entries):
            rows.join([(side, number), *((side, name) for name in entry.nodes)])
    for mine, theirs in _counterparts(before, after):
        rows.join([*((0, name) for name in mine), *((1, name) for name in theirs)])
    found: dict[_Item, tuple[list[ProfiledLayer], list[ProfiledLayer]]] = {}
    for side, entries in enumerate((layers, others)):
        for number, entry in enumerate(entries):
            found.setdefault(rows.find((side, number)), ([], []))[side].append(entry)
    return list(found.values())


def _counterparts(before: Model, after: Model) -> Iterator[tuple[Sequence[str], Sequence[str]]]:
    """Names of nodes that compute the same in two models."""
    nodes = summarize_graph(before).nodes
    if before.sha256 == after.sha256:
        yield from (([node.name], [node.name]) for node in nodes)
        return
    others = summarize_graph(after).nodes
    inputs = [spec.name for spec in before.inputs]
    for place, other in match(view(nodes, inputs, ()), view(others, inputs, ())).items():
        yield [nodes[place].name], [others[other].name]
    for change in diff_graphs(before, after).changes:
        if change.kind == "fused":
            yield change.before, change.after


_Item: TypeAlias = tuple[int, int | str]  # a side, and a layer's number or a node's name


class _Rows:
    """Disjoint sets of layers and nodes."""

    def __init__(self) -> None:
        self._parents: dict[_Item, _Item] = {}

    def find(self, item: _Item) -> _Item:
        """The one that stands for the item's set."""
        parents = self._parents
        parents.setdefault(item, item)
        while parents[item] != item:
            parents[item] = item = parents[parents[item]]
        return item

    def join(self, items: Iterable[_Item]) -> None:
        """Makes one set of those that the items are in."""
        head, *rest = map(self.find, items)
        for item in rest:
            self._parents[self.find(item)] = self.find(head)


def _row(mine: Sequence[ProfiledLayer], theirs: Sequence[ProfiledLayer]) -> MatchedLayers:
    mine, theirs = (sorted(side, key=lambda entry: -(entry.layer.ms or 0.0)) for side in (mine, theirs))
    times, others = ([entry.layer.ms for entry in side if entry.layer.ms is not None] for side in (mine, theirs))
    return MatchedLayers(
        nodes=tuple(dict.fromkeys(name for entry in mine for name in entry.nodes)),
        others=tuple(dict.fromkeys(name for entry in theirs for name in entry.nodes)),
        operator=(mine or theirs)[0].layer.operator,
        ms=sum(times) if times else None,
        other_ms=sum(others) if others else None,
    )


def _claim(layer: Layer, node: NodeSummary) -> tuple[bool, bool]:
    """How strong a layer's claim to a node is that others name, too."""
    return layer.name.startswith(node.name), layer.kind == "compute"


def _main_first(nodes: Sequence[NodeSummary], group: Sequence[int]) -> list[int]:
    """The node that computes most before the others, which keep their order."""
    if not group:
        return []
    main = max(group, key=lambda place: (nodes[place].macs or 0, nodes[place].operator not in PLUMBING, -place))
    return [main, *(place for place in group if place != main)]
