"""What the Graph panel shows of a summary: rows of its tables, and colours with what they mean. Draws nothing."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Mapping
from typing import NamedTuple

from widgets._graph_table import Cell, Column, Row
from workbench.graph import GraphSummary, NodeSummary
from workbench.graph.diff import GraphDiff, NodeChange
from workbench.report import format_bytes, format_count

NODE_COLUMNS = (
    Column("node", True, "Its name in the graph"),
    Column("operator", True),
    Column("output shape", True, "Of its first output"),
    Column("precision", True, "What it computes in"),
    Column("parameters", note="Numbers in the weights that it alone or first uses"),
    Column("MACs", note="Multiply-accumulates; the bar is its share of the whole graph"),
    Column("memory", note="Its weights and its outputs"),
)
OPERATOR_COLUMNS = (
    Column("operator", True),
    Column("nodes"),
    Column("parameters"),
    Column("MACs", note="Multiply-accumulates; the bar is their share of the whole graph"),
    Column("activations", note="All outputs together; they do not live at the same time"),
)
CHANGE_COLUMNS = (
    Column("#", True),
    Column("kind", True),
    Column("before", True, "Nodes on the left"),
    Column("after", True, "Nodes on the right"),
    Column("what happened", True),
)
COLOR_BY = {
    "nothing": "",
    "time": "time",
    "MACs": "macs",
    "parameters": "parameters",
    "memory": "memory",
    "precision": "precision",
}

_STEPS = 5
_KINDS = 8
_CHANGES = {  # as they are named, and their colour
    "added": "var(--wb-kind-3)",
    "removed": "var(--wb-kind-7)",
    "fused": "var(--wb-kind-5)",
    "precision": "var(--wb-kind-1)",
    "changed": "var(--wb-kind-2)",
}


class Paint(NamedTuple):
    """Name of a node to its colour, and the legend: a title and a text for each colour."""

    colors: dict[str, str]
    legend: dict[str, object]


def node_rows(summary: GraphSummary) -> list[Row]:
    """A row per node, under `NODE_COLUMNS`."""
    return [
        (
            node.name,
            node.operator,
            "×".join(map(str, node.outputs[0].shape)) if node.outputs else "",
            node.precision,
            _cell(node.parameters, format_count, summary.parameters),
            _cell(node.macs, format_count, summary.macs),
            _cell(_memory(node), format_bytes),
        )
        for node in summary.nodes
    ]


def operator_rows(summary: GraphSummary) -> list[Row]:
    """A row per operator, under `OPERATOR_COLUMNS`, costliest first."""
    return [
        (
            total.operator,
            Cell(total.count, f"{total.count:,}"),
            _cell(total.parameters, format_count, summary.parameters),
            _cell(total.macs, format_count, summary.macs),
            _cell(total.activation_bytes, format_bytes),
        )
        for total in summary.by_operator
    ]


def change_rows(diff: GraphDiff) -> list[Row]:
    """A row per change, under `CHANGE_COLUMNS`; the first cell is its number, from 1."""
    return [
        (str(number), change.kind, ", ".join(change.before) or "–", ", ".join(change.after) or "–", change.what)
        for number, change in enumerate(diff.changes, 1)
    ]


def diff_line(diff: GraphDiff) -> str:
    """What differs, in a line."""
    words = {"precision": "in another precision", "changed": "changed otherwise"}
    kinds = ", ".join(f"{count:,} {words.get(kind, kind)}" for kind, count in diff.counts.items())
    return f"{kinds or 'nothing differs'} · {_nodes(diff.same)} as they were"


def paint_changes(diff: GraphDiff) -> tuple[Paint, Paint, dict[str, str]]:
    """Colours what changed in the graph before and the one after, and the rows of `change_rows`."""
    counts = diff.counts
    entries = [{"color": _CHANGES[kind], "text": f"{kind} ({count:,})"} for kind, count in counts.items()]
    legend: dict[str, object] = {"title": "Changes", "entries": entries}

    def colors(names: Callable[[NodeChange], tuple[str, ...]]) -> dict[str, str]:
        return {name: _CHANGES[change.kind] for change in diff.changes for name in names(change)}

    rows = {str(number): _CHANGES[change.kind] for number, change in enumerate(diff.changes, 1)}
    return Paint(colors(lambda change: change.before), legend), Paint(colors(lambda change: change.after), legend), rows


def facts_line(summary: GraphSummary) -> str:
    """The whole graph in a line."""
    peak = summary.peak_activation_bytes
    opsets = ", ".join(f"{domain} {version}" for domain, version in summary.opsets.items())
    parts = (
        _nodes(len(summary.nodes)),
        f"{format_count(summary.parameters)} parameters",
        f"{format_count(summary.macs)} MACs",
        f"{format_bytes(sum(summary.weight_bytes.values()))} weights",
        f"{format_bytes(peak)} peak activations at batch {summary.batch}" if peak is not None else "",
        opsets,
    )
    return " · ".join(part for part in parts if part)


def paint_nodes(summary: GraphSummary, by: str, times: Mapping[str, float] | None = None) -> Paint:
    """Colours the nodes by one of the values of `COLOR_BY`.

    Args:
        summary: The graph.
        by: What to colour by.
        times: Time by node, ms, where the model was profiled; what is fused stands at one node of the group.
    """
    nodes = summary.nodes
    if by == "time" and not times:
        return Paint({}, {"title": "Time", "entries": [{"color": "var(--wb-none)", "text": "not profiled yet"}]})
    if by == "time" and times:
        return paint_values("Time", {node.name: times.get(node.name, 0.0) for node in nodes}, format_time)
    if by == "precision":
        return paint_kinds("Precision", {node.name: node.precision or "not known" for node in nodes})
    if by == "macs":
        return paint_values("MACs", {node.name: node.macs for node in nodes}, format_count)
    if by == "parameters":
        return paint_values("Parameters", {node.name: node.parameters for node in nodes}, format_count)
    if by == "memory":
        return paint_values("Memory", {node.name: _memory(node) for node in nodes}, format_bytes)
    return Paint({}, {})


def paint_values(title: str, values: Mapping[str, float | None], text: Callable[[float], str]) -> Paint:
    """Colours nodes by a quantity in up to five steps: even ones, or even ratios where it spans more than 1 : 20."""
    positive = sorted({value for value in values.values() if value})
    if not positive:
        return Paint({}, {"title": title, "entries": [{"color": "var(--wb-none)", "text": "0 everywhere"}]})
    high, low = positive[-1], max(positive[0], positive[-1] / 1e5)
    if len(positive) <= _STEPS:
        bounds = positive
    elif high / low > 20:
        bounds = [low * (high / low) ** (step / _STEPS) for step in range(1, _STEPS)] + [high]
    else:
        bounds = [low + (high - low) * step / _STEPS for step in range(1, _STEPS)] + [high]
    heat = [f"var(--wb-heat-{_STEPS - len(bounds) + step})" for step in range(1, len(bounds) + 1)]
    colors = {
        name: heat[bisect.bisect_left(bounds, value)] if value else "var(--wb-none)" for name, value in values.items()
    }
    sign = "" if bounds is positive else "≤ "
    entries = [{"color": color, "text": sign + text(bound)} for color, bound in zip(heat, bounds, strict=True)]
    rest = [word for word, some in (("0", 0 in values.values()), ("not known", None in values.values())) if some]
    if rest:
        entries.insert(0, {"color": "var(--wb-none)", "text": " or ".join(rest)})
    return Paint(colors, {"title": title, "entries": entries})


def paint_kinds(title: str, kinds: Mapping[str, str]) -> Paint:
    """Colours nodes by a kind, the most frequent first; kinds beyond the eighth share the last colour."""
    counts: dict[str, int] = {}
    for kind in kinds.values():
        counts[kind] = counts.get(kind, 0) + 1
    ordered = sorted(counts, key=lambda kind: -counts[kind])
    color = {kind: f"var(--wb-kind-{min(number, _KINDS)})" for number, kind in enumerate(ordered, 1)}
    entries = [{"color": color[kind], "text": f"{kind} ({counts[kind]:,})"} for kind in ordered]
    return Paint({name: color[kind] for name, kind in kinds.items()}, {"title": title, "entries": entries})


def format_time(ms: float) -> str:
    """A time with three significant digits, below a millisecond in microseconds."""
    return f"{ms:.3g} ms" if ms >= 1 else f"{1000 * ms:.3g} µs"


def _nodes(count: int) -> str:
    return "1 node" if count == 1 else f"{count:,} nodes"


def _memory(node: NodeSummary) -> int | None:
    return None if node.activation_bytes is None else node.weight_bytes + node.activation_bytes


def _cell(value: float | None, text: Callable[[float | None], str], total: float = 0) -> Cell:
    return Cell(value, text(value), round((value or 0) / total, 4) if total else 0.0)
