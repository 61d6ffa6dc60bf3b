"""What became of the nodes that have no counterpart: fused into a neighbour, replaced together, or removed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from workbench.graph.cost import PRODUCTS
from workbench.graph.matching import View

# What a runtime or a simplifier computes inside a neighbour, or folds into the neighbour's weights.
_INTO_PRODUCER = frozenset(
    {"Add", "BatchNormalization", "Clip", "Div", "Elu", "HardSigmoid", "HardSwish", "LeakyRelu", "Mul", "PRelu", "Relu"}
    | {"Sigmoid", "Sub", "Tanh"}
)
_INTO_CONSUMER = frozenset({"Add", "Div", "Mul", "Pad", "Sub", "Transpose"})
_FUSED = ("Bias", "Fused", "Skip")  # how ONNX Runtime's names say that there is more in it


class Group(NamedTuple):
    """Neighbouring nodes without a counterpart.

    Attributes:
        places: Where they are in their graph, in order.
        sources: The paired nodes and the graph's inputs (negative) that they read.
        readers: The paired nodes that read them.
        results: The graph's outputs that they compute.
    """

    places: tuple[int, ...]
    sources: frozenset[int]
    readers: frozenset[int]
    results: frozenset[str]


class Fate(NamedTuple):
    """What became of a group.

    Attributes:
        kind: `fused`, `changed` or `removed`.
        main: The node of the first graph that took it in, if one did.
        replaced_by: The group of the second graph that came in its place, if one did.
    """

    kind: str
    main: int | None = None
    replaced_by: Group | None = None


def find_groups(graph: View, paired: Iterable[int]) -> list[Group]:
    """Joins the nodes that are neither paired nor plumbing with their neighbours of the kind."""
    known = set(paired)
    root: dict[int, int] = {
        place: place for place in range(len(graph.nodes)) if place not in known and not graph.is_plumbing(place)
    }

    def find(place: int) -> int:
        while root[place] != place:
            root[place] = place = root[root[place]]
        return place

    # A value that a paired node reads as well is still there: what makes it and what else reads it went separate ways.
    kept = {source for place in known for source in graph.sources[place]}
    for place in root:
        for source in graph.sources[place]:
            if source in root and source not in kept:
                root[find(place)] = find(source)
    members: dict[int, list[int]] = {}
    for place in root:
        members.setdefault(find(place), []).append(place)
    readers: dict[int, set[int]] = {}
    for place in known:
        for source in graph.sources[place]:
            if source in root:
                readers.setdefault(find(source), set()).add(place)
    results: dict[int, set[str]] = {}
    for name, sources in graph.results:
        for source in sources:
            if source in root:
                results.setdefault(find(source), set()).add(name)
    return [
        Group(
            places=tuple(places),
            sources=frozenset(source for place in places for source in graph.sources[place] if source not in root),
            readers=frozenset(readers.get(key, ())),
            results=frozenset(results.get(key, ())),
        )
        for key, places in sorted(members.items(), key=lambda item: item[1][0])
    ]


def explain(group: Group, arrived: Mapping[int, list[Group]], old: View, new: View, pairs: Mapping[int, int]) -> Fate:
    """Says what became of a group of the first graph.

    Args:
        group: Nodes of the first graph.
        arrived: The groups of the second graph, by what they read.
        old: The first graph.
        new: The second graph.
        pairs: Place in the second graph by place in the first.
    """
    sources = {pairs.get(source, source) for source in group.sources}
    readers = {pairs[reader] for reader in group.readers}
    for source in sources:
        for other in arrived.get(source, ()):
            if readers & other.readers or group.results & other.results:
                return Fate("fused" if len(other.places) < len(group.places) else "changed", None, other)
    operators = {_bare(old, place) for place in group.places}
    results = dict(new.results)
    # Those before and behind it that are direct neighbours now, the nearest first.
    ahead = [
        source
        for source in sorted((source for source in group.sources if source >= 0), reverse=True)
        if any(pairs[source] in new.sources[reader] for reader in readers)
        or any(pairs[source] in results.get(name, ()) for name in group.results)
    ]
    behind = [reader for reader in sorted(group.readers) if sources & set(new.sources[pairs[reader]])]
    for place in (*ahead, *behind):
        if _bare(new, pairs[place]).startswith(_FUSED) and not _bare(old, place).startswith(_FUSED):
            return Fate("fused", place)
    if ahead and operators <= _INTO_PRODUCER:
        return Fate("fused", ahead[0])
    products = [reader for reader in behind if _bare(old, reader) in PRODUCTS]
    if products and operators <= _INTO_CONSUMER:
        return Fate("fused", products[0])
    return Fate("removed")


def name_operators(graph: View, places: Iterable[int]) -> str:
    """Lists operators in words, in order: `2 Add, Relu`."""
    counts = Counter(_bare(graph, place) for place in places)
    return ", ".join(f"{count} {name}" if count > 1 else name for name, count in counts.items())


def _bare(graph: View, place: int) -> str:
    return graph.nodes[place].operator.rpartition(":")[2]
