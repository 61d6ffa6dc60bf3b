"""What a rule gets to see of one candidate, and what it says: Finding."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from workbench.comparison import Row
from workbench.dataset import Dataset
from workbench.graph import GraphSummary
from workbench.jobs import Progress, silent
from workbench.measure.profile import LayerProfile, ProfiledLayer
from workbench.workspace import Workspace


@dataclass(frozen=True)
class Finding:
    """One reason, with its evidence and what to do about it.

    Attributes:
        rule: Name of the rule that found it, e.g. `unfused_qdq`.
        candidate: Name of the candidate that has it.
        what: What was found, in a sentence.
        evidence: The measured figures, in words, with units.
        milliseconds: Time of one inference that is at stake, ms; None where it was not measured.
        why: How that comes about.
        remedy: What to do, in a sentence.
        step: The candidate to try instead, as a recipe has it under `candidates` (`name`, `transforms`, `backend`,
            `options`); None where no step of the workbench mends it.
        nodes: Nodes of the candidate's graph that are meant.
    """

    rule: str
    candidate: str
    what: str
    evidence: str
    milliseconds: float | None
    why: str
    remedy: str
    step: Mapping[str, Any] | None = None
    nodes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Context:
    """One candidate as a rule sees it.

    Attributes:
        row: What was measured of the candidate.
        original: What it is compared with; the same for the original itself.
        graph: The candidate's graph.
        original_graph: The original's graph.
        profile: Where the candidate's time goes; without layers where its backend does not tell.
        dataset: Samples to time trials with, and to calibrate them; random values if there are none.
        workspace: Where trials are kept.
        progress: Called with the share done and a short text; may raise to cancel.
    """

    row: Row
    original: Row
    graph: GraphSummary
    original_graph: GraphSummary
    profile: LayerProfile
    dataset: Dataset | None
    workspace: Workspace
    progress: Progress = silent

    @property
    def batch(self) -> int:
        """Samples per inference."""
        return self.row.latency.batch

    @cached_property
    def total_ms(self) -> float:
        """Time of one inference that the layers share, ms; 0 where nothing was measured."""
        return (self.profile.sum_ms or 0.0) * self._scale

    @cached_property
    def _scale(self) -> float:
        """Brings the layers' times down to an inference without the profiler, which adds its own to each of them."""
        total, plain = self.profile.sum_ms, self.profile.plain_ms
        return min(1.0, plain / total) if total and plain else 1.0

    def time_of(self, *layers: ProfiledLayer) -> float:
        """Time that layers take of one inference, ms."""
        return self._scale * sum(entry.layer.ms or 0.0 for entry in layers)

    def longest_first(self, layers: Iterable[ProfiledLayer]) -> list[ProfiledLayer]:
        """Layers in the order of their time."""
        return sorted(layers, key=lambda entry: -(entry.layer.ms or 0.0))

    def macs_of(self, layer: ProfiledLayer) -> int:
        """Multiply-accumulates of a layer; 0 for what does not multiply."""
        return sum(self.graph.by_name[name].macs or 0 for name in layer.nodes if name in self.graph.by_name)

    def share_of(self, milliseconds: float) -> float:
        """A time as a share of all layers'."""
        return milliseconds / self.total_ms if self.total_ms else 0.0


def is_quantized(graph: GraphSummary) -> bool:
    """Whether a graph quantizes anything, or computes in integers."""
    return any("Quantize" in name or "QLinear" in name or name.endswith("Integer") for name in graph.operators)


def is_integer(precision: str) -> bool:
    """Whether an element type is one that quantized layers compute in."""
    return precision.startswith(("int", "uint"))


def is_float(precision: str) -> bool:
    """Whether an element type is a floating-point one."""
    return precision.startswith(("float", "bfloat"))


def nodes_of(layers: Iterable[ProfiledLayer]) -> tuple[str, ...]:
    """The nodes that several layers compute, each once and in order."""
    return tuple(dict.fromkeys(name for entry in layers for name in entry.nodes))
