"""Two graphs compared: what a transform added, removed, fused and changed."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

from workbench.graph.fusion import Group, explain, find_groups, name_operators
from workbench.graph.matching import View, match, view
from workbench.graph.shapes import count, infer_tensors
from workbench.graph.summary import NodeSummary, summarize_nodes
from workbench.model import Model
from workbench.skeleton import read_skeleton

if TYPE_CHECKING:
    import onnx

Kind = Literal["added", "removed", "fused", "precision", "changed"]


@dataclass(frozen=True)
class NodeChange:
    """One change.

    Attributes:
        kind: Whether nodes were added, removed, fused into another, compute in another type, or changed otherwise.
        before: Names of the nodes in the first graph.
        after: Names of the nodes in the second graph that came of them.
        what: What happened, in words.
    """

    kind: Kind
    before: tuple[str, ...]
    after: tuple[str, ...]
    what: str


@dataclass(frozen=True)
class GraphDiff:
    """What lies between two graphs.

    Attributes:
        before: Name of the first model.
        after: Name of the second model.
        changes: In the first graph's order, what is new at the end; a node can be in several.
        same: Nodes of the first graph that are in the second as they were.
        operators: How often each operator occurs before and after, most frequent first.
    """

    before: str
    after: str
    changes: tuple[NodeChange, ...]
    same: int
    operators: Mapping[str, tuple[int, int]]

    @property
    def counts(self) -> Mapping[str, int]:
        """How many changes there are of each kind, most frequent first."""
        return dict(Counter(change.kind for change in self.changes).most_common())


def diff_graphs(before: Model, after: Model) -> GraphDiff:
    """Tells what became of each node of a model in another that was made of it; weights are not read.

    Nodes are paired by name, by the name of their output, then by what they read. Those without a counterpart were
    fused if what they read now feeds their readers directly, and replaced if others came between the same neighbours.
    Q/DQ nodes and casts tell in which type their neighbours compute, so they are counted together. The values of
    weights are not compared.

    Raises:
        ModelError: A file does not hold an ONNX model.
    """
    old, new = _read(before), _read(after)
    pairs = match(old.view, new.view)
    arrived = find_groups(new.view, pairs.values())
    by_source: dict[int, list[Group]] = {}
    for group in arrived:
        for source in group.sources:
            by_source.setdefault(source, []).append(group)

    changes: list[tuple[int, NodeChange]] = []
    explained: set[Group] = set()
    gone: list[Sequence[int]] = []
    absorbed: dict[int, list[int]] = {}  # by the node that took them in
    for group in find_groups(old.view, pairs):
        fate = explain(group, by_source, old.view, new.view, pairs)
        if fate.main is not None:
            absorbed.setdefault(fate.main, []).extend(group.places)
        elif fate.replaced_by is not None:
            explained.add(fate.replaced_by)
            changes.append((group.places[0], _replaced(fate.kind, group, old.view, fate.replaced_by, new.view)))
        else:
            gone.append(group.places)
    same = 0
    for place, other in pairs.items():
        found = list(_compare(old, place, new, other, absorbed.get(place, ())))
        changes += [(place, change) for change in found]
        same += not found
    gone += [[place] for place, node in enumerate(old.view.nodes) if old.view.is_plumbing(place) and place not in pairs]
    taken = set(pairs.values())
    come: list[Sequence[int]] = [group.places for group in arrived if group not in explained]
    come += [[place] for place in range(len(new.view.nodes)) if new.view.is_plumbing(place) and place not in taken]
    ordered = [change for _, change in sorted(changes, key=lambda item: item[0])]
    for places in _alike(old.view, gone):
        what = f"{name_operators(old.view, places)} left out"
        ordered.append(NodeChange("removed", _names(old.view, places), (), what))
    for places in _alike(new.view, come):
        ordered.append(NodeChange("added", (), _names(new.view, places), f"{name_operators(new.view, places)} added"))
    return GraphDiff(before.name, after.name, tuple(ordered), same, _operators(old.view, new.view))


def _alike(graph: View, groups: Iterable[Sequence[int]]) -> Iterator[Sequence[int]]:
    """Joins groups of one operator each, and all Q/DQ nodes and casts: nobody wants to read them singly."""
    joined: dict[str, list[int]] = {}
    for places in groups:
        operators = {graph.nodes[place].operator for place in places}
        if all(map(graph.is_plumbing, places)):
            joined.setdefault("", []).extend(places)
        elif len(operators) == 1:
            joined.setdefault(operators.pop(), []).extend(places)
        else:
            yield places
    yield from joined.values()


class _Graph(NamedTuple):
    view: View
    attributes: Sequence[Mapping[str, bytes]]


def _read(model: Model) -> _Graph:
    proto = read_skeleton(model.path)
    nodes = summarize_nodes(proto, infer_tensors(proto, model, 1))
    versions = {entry.domain: entry.version for entry in proto.opset_import}
    attributes = [_attributes(node, versions.get(node.domain, 1)) for node in proto.graph.node]
    inputs = (spec.name for spec in model.inputs)
    return _Graph(view(nodes, inputs, (spec.name for spec in model.outputs)), attributes)


def _attributes(node: onnx.NodeProto, version: int) -> Mapping[str, bytes]:
    """The attributes of a node by name; those that say what holds anyway are left out."""
    given = {attribute.name: attribute.SerializeToString(deterministic=True) for attribute in node.attribute}
    defaults = _defaults(node.op_type, node.domain, version) if given else {}
    return {name: value for name, value in given.items() if value != defaults.get(name)}


@functools.lru_cache(1024)
def _defaults(operator: str, domain: str, version: int) -> Mapping[str, bytes]:
    import onnx

    try:
        schema = onnx.defs.get_schema(operator, version, domain)
    except onnx.defs.SchemaError:  # not ONNX's own
        return {}
    defaults = {}
    for name, attribute in schema.attributes.items():
        value = attribute.default_value
        value.ClearField("doc_string")
        defaults[name] = value.SerializeToString(deterministic=True)
    return defaults


def _names(graph: View, places: Iterable[int]) -> tuple[str, ...]:
    return tuple(graph.nodes[place].name for place in places)


def _replaced(kind: str, group: Group, old: View, other: Group, new: View) -> NodeChange:
    what = f"{name_operators(old, group.places)} → {name_operators(new, other.places)}"
    return NodeChange(
        "fused" if kind == "fused" else "changed", _names(old, group.places), _names(new, other.places), what
    )


def _compare(old: _Graph, place: int, new: _Graph, other: int, absorbed: Sequence[int]) -> Iterator[NodeChange]:
    """What differs between two nodes that are paired."""
    first, second = old.view.nodes[place], new.view.nodes[other]
    renamed = "" if first.operator == second.operator else second.operator
    if absorbed:
        into = f"{first.operator} → {renamed}" if renamed else first.operator
        what = f"{name_operators(old.view, absorbed)} folded into {into}"
        yield NodeChange("fused", (first.name, *_names(old.view, absorbed)), (second.name,), what)
    if first.precision and second.precision and first.precision != second.precision and not old.view.is_plumbing(place):
        what = f"{first.precision} → {second.precision}" + (f", as {renamed}" if renamed and not absorbed else "")
        yield NodeChange("precision", (first.name,), (second.name,), what)
    elif not absorbed:
        differences = list(_differences(first, old.attributes[place], second, new.attributes[other]))
        if differences:
            yield NodeChange("changed", (first.name,), (second.name,), "; ".join(differences))


def _differences(
    first: NodeSummary, old: Mapping[str, bytes], second: NodeSummary, new: Mapping[str, bytes]
) -> Iterator[str]:
    if first.operator != second.operator:
        yield f"{first.operator} → {second.operator}"
    elif names := sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name)):
        moved = [name for name in names if name not in new] if len(second.inputs) > len(first.inputs) else []
        if moved:
            yield f"{', '.join(moved)} given as input"
        if other := [name for name in names if name not in moved]:
            yield f"other {', '.join(other)}"
    if first.parameters != second.parameters:
        yield f"{first.parameters:,} → {second.parameters:,} parameters"
    for one, two in zip(first.outputs[:1], second.outputs[:1], strict=False):
        if one.shape != two.shape and count(one.shape) is not None and count(two.shape) is not None:
            yield f"output {'×'.join(map(str, one.shape))} → {'×'.join(map(str, two.shape))}"


def _operators(old: View, new: View) -> Mapping[str, tuple[int, int]]:
    before, after = (Counter(node.operator for node in graph.nodes) for graph in (old, new))
    return {name: (before[name], after[name]) for name, _ in (before | after).most_common()}
