"""What a linter gets to see of an engine, and what it says: EngineIssue."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from workbench.engine import Engine
from workbench.graph import GraphSummary, NodeSummary
from workbench.graph.cost import PRODUCTS
from workbench.measure.profile import LayerProfile, ProfiledLayer


@dataclass(frozen=True)
class EngineIssue:
    """One thing that is wrong with an engine, or worth a look.

    Attributes:
        rule: Name of the linter that found it, e.g. `float_outputs`.
        what: What was found, in a sentence.
        why: How that comes about, and why it matters.
        remedy: What to do, in a sentence.
        layers: Names of the layers that are meant, as `EngineView.names` has them.
        nodes: Nodes of the model's graph that these compute.
        milliseconds: Time that they take of one inference; None where it was not measured.
        bytes: Size of what they write; None where the backend does not tell.
    """

    rule: str
    what: str
    why: str
    remedy: str
    layers: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()
    milliseconds: float | None = None
    bytes: int | None = None


@dataclass(frozen=True)
class Subject:
    """An engine as a linter sees it.

    Attributes:
        engine: What was built.
        graph: The graph of its model, at the batch of `profile`.
        profile: Its layers, with times where they were measured.
        names: A name for each layer that no other has.
    """

    engine: Engine
    graph: GraphSummary
    profile: LayerProfile
    names: tuple[str, ...]

    @cached_property
    def products(self) -> Mapping[int, NodeSummary]:
        """The layers, by their place, that convolve or multiply matrices, and the node that says so."""
        found = {}
        for place, entry in enumerate(self.profile.layers):
            node = next(
                (self.graph.by_name[name] for name in entry.nodes if is_product(self.graph.by_name.get(name))), None
            )
            if node is not None and entry.layer.kind == "compute":
                found[place] = node
        return found

    def behind(self, node: NodeSummary) -> Iterator[NodeSummary]:
        """Every node that depends on one, the nearest first."""
        waiting, seen = [node], {node.name}
        while waiting:
            for spec in waiting.pop(0).outputs:
                for reader in self.graph.readers.get(spec.name, ()):
                    if reader.name not in seen:
                        seen.add(reader.name)
                        waiting.append(reader)
                        yield reader

    def is_last(self, node: NodeSummary) -> bool:
        """Whether no other product depends on a node: what it gives is the model's result, more or less."""
        return not any(map(is_product, self.behind(node)))

    def entries(self, places: Sequence[int]) -> list[ProfiledLayer]:
        """The layers at these places."""
        return [self.profile.layers[place] for place in places]

    def issue(self, rule: str, places: Sequence[int], *, what: str, why: str, remedy: str) -> EngineIssue:
        """An issue with the names, nodes, time and bytes of the layers at these places."""
        entries = self.entries(places)
        times = [entry.layer.ms for entry in entries if entry.layer.ms is not None]
        sizes = [entry.layer.output_bytes for entry in entries if entry.layer.output_bytes is not None]
        return EngineIssue(
            rule=rule,
            what=what,
            why=why,
            remedy=remedy,
            layers=tuple(self.names[place] for place in places),
            nodes=tuple(dict.fromkeys(name for entry in entries for name in entry.nodes)),
            milliseconds=sum(times) if times else None,
            bytes=sum(sizes) if sizes else None,
        )


def is_product(node: NodeSummary | None) -> bool:
    """Whether a node convolves or multiplies matrices."""
    return node is not None and bare(node.operator) in PRODUCTS


def bare(operator: str) -> str:
    """An operator without its domain."""
    return operator.rpartition(":")[2]


def is_quantized(precision: str) -> bool:
    """Whether an element type is one of those that quantized layers compute in: integers and FP8."""
    return precision.startswith(("int", "uint", "float8", "float4"))


def is_float(precision: str) -> bool:
    """Whether an element type is an ordinary floating-point one."""
    return precision.startswith(("float", "bfloat")) and not is_quantized(precision)
