"""A model in words: interface, costs, how its conversion went, what a backend cannot run, what a transform changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from workbench.conversion import Conversion
from workbench.graph import GraphSummary
from workbench.graph.diff import GraphDiff
from workbench.model import Model
from workbench.report import columns, format_bytes, format_count, format_size
from workbench.support import Unsupported

CHECK_HEADINGS = ("output", "max abs error", "of the range", "cosine similarity", "top-1 agreement")
OPERATOR_HEADINGS = ("operator", "nodes", "parameters", "MACs", "activations")
_LISTED = 30  # changes printed before the rest is counted


def model_text(model: Model, summary: GraphSummary) -> str:
    """A model for the terminal: interface, totals and totals by operator."""
    others = (f"{domain} {version}" for domain, version in summary.opsets.items() if domain != "ai.onnx")
    sets = ", ".join((f"opset {model.opset}", *others))
    lines = [f"{model.name}: {format_size(model.size_bytes / 1e6)}, {sets}"]
    lines += [f"  in   {spec}" for spec in model.inputs] + [f"  out  {spec}" for spec in model.outputs]
    lines += [f"  {name}: {value}" for name, value in totals(summary).items()]
    rows = [OPERATOR_HEADINGS]
    for entry in summary.by_operator:
        rows.append(
            (
                f"  {entry.operator}",
                f"{entry.count:,}",
                format_count(entry.parameters) if entry.parameters else "–",
                format_count(entry.macs) if entry.macs else "–",
                format_bytes(entry.activation_bytes) if entry.activation_bytes else "–",
            )
        )
    rows[0] = (f"  {rows[0][0]}", *rows[0][1:])
    return "\n".join([*lines, "", columns(rows, left=1)])


def totals(summary: GraphSummary) -> dict[str, str]:
    """What the whole graph costs, in words."""
    peak = summary.peak_activation_bytes
    found = {
        "Nodes": f"{len(summary.nodes):,}",
        "Parameters": f"{summary.parameters:,}",
        "Multiply-accumulates": f"{format_count(summary.macs)} at batch {summary.batch}",
        "Peak activation memory": f"{format_bytes(peak)} at batch {summary.batch}" if peak is not None else "not known",
    }
    if summary.unknown_shapes:
        found["Shapes not known"] = f"{summary.unknown_shapes:,} nodes: the totals leave out what depends on them"
    return found


def check_rows(conversion: Conversion) -> list[tuple[str, ...]]:
    """One row per output, in the order of `CHECK_HEADINGS`."""
    return [
        (
            check.output,
            f"{check.max_abs_error:.2g}",
            f"{check.max_abs_error / check.range:.1e}" if check.range else "–",
            f"{check.cosine_similarity:.7f}",
            "–" if check.top1_agreement is None else f"{100 * check.top1_agreement:.1f} %",
        )
        for check in conversion.checks
    ]


def conversion_summary(conversion: Conversion) -> str:
    """What ran, on what, and whether it holds."""
    samples = f"{conversion.samples} {'sample' if conversion.samples == 1 else 'samples'}"
    return (
        f"Converted from {conversion.framework}; the original and the ONNX model agree within "
        f"{conversion.tolerance:g} of the range on {samples} ({conversion.inputs})."
    )


def conversion_text(model: Model) -> str:
    """How a model's conversion went, for the terminal; empty if it was ONNX already."""
    if model.conversion is None:
        return ""
    table = columns([CHECK_HEADINGS, *check_rows(model.conversion)], left=1)
    notes = "".join(f"\nNote: {note}" for note in model.conversion.notes)
    return f"{conversion_summary(model.conversion)}\n\n{table}\n{notes}".rstrip()


def support_text(unsupported: Mapping[str, Sequence[Unsupported]]) -> str:
    """What the installed backends cannot run, and what to do; empty if they run everything."""
    lines = []
    for backend, operators in unsupported.items():
        for entry in operators:
            nodes = ", ".join(entry.nodes[:3]) + (f" and {len(entry.nodes) - 3:,} more" if len(entry.nodes) > 3 else "")
            where = f" ({nodes})" if nodes else ""
            lines.append(f"{backend} cannot run {entry.operator}{where}: {entry.reason} {entry.remedy}".rstrip())
    return "\n".join(lines)


def diff_text(diff: GraphDiff) -> str:
    """What changed between two graphs, for the terminal."""
    counts = ", ".join(f"{count} {kind}" for kind, count in diff.counts.items() if count) or "nothing changed"
    lines = [f"{diff.before} → {diff.after}: {counts}; {diff.same:,} nodes the same"]
    rows = [(change.kind, change.what, ", ".join(change.after or change.before)[:80]) for change in diff.changes]
    if rows:
        lines += ["", columns(rows[:_LISTED], left=3)]
    if len(rows) > _LISTED:
        lines.append(f"… and {len(rows) - _LISTED:,} more")
    return "\n".join(lines)
