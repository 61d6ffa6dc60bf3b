"""The engine explorer in words: an engine's layers and what is wrong with them, and how two engines differ."""

from __future__ import annotations

from collections.abc import Sequence

from workbench.explorer import EngineDiff, EngineView, Share
from workbench.findings.words import count_of, in_ms
from workbench.linters import EngineIssue
from workbench.measure.profile import ProfiledLayer
from workbench.report import columns, format_bytes, format_seconds

_HEADINGS = ("layer", "operator", "precision", "writes", "bytes", "ms", "share")
_NAME, _OPERATOR = 40, 28  # letters
_LISTED = 40  # layers printed before the rest is counted
_CHANGES = 20


def engine_view_text(view: EngineView) -> str:
    """An engine for the terminal: totals, layers in their order, and issues."""
    lines = [f"{view.model} on {view.backend}, for {view.device}: {len(view.layers)} layers"]
    lines += [f"  {name}: {value}" for name, value in view_facts(view).items()]
    lines += [f"  Note: {caveat}" for caveat in view.profile.caveats]
    timed = view.profile.sum_ms is not None
    width = len(_HEADINGS) if timed else len(_HEADINGS) - 2
    rows = [_cells(view.names[place], entry)[:width] for place, entry in enumerate(view.layers[:_LISTED])]
    table = columns([_HEADINGS[:width], *rows], left=4)
    rest = len(view.layers) - _LISTED
    more = f"\n… and {rest:,} more" if rest > 0 else ""
    return "\n".join([*lines, "", table + more, "", issues_text(view.issues)])


def view_facts(view: EngineView) -> dict[str, str]:
    """What there is to say of an engine as a whole, by what it is."""
    facts = {
        "Precision": shares_text(view.by_precision),
        "Kinds": shares_text(view.by_kind),
        "Fusion": _fusion(view),
        "Memory": ", ".join(f"{name} {format_bytes(size)}" for name, size in view.memory.items()),
    }
    if view.profile.sum_ms is not None:
        whole = view.profile.plain_ms or view.profile.whole_ms
        facts["Time"] = f"{in_ms(view.profile.sum_ms)} in layers" + (f", {in_ms(whole)} an inference" if whole else "")
    if view.manifest is not None:
        versions = ", ".join(f"{name} {number}" for name, number in view.manifest.versions.items())
        size, seconds = format_bytes(view.manifest.size_bytes), format_seconds(view.manifest.seconds)
        facts["Built"] = f"{size} in {seconds} by {versions}"
    return {name: text for name, text in facts.items() if text}


def shares_text(shares: Sequence[Share]) -> str:
    """Counts, and times where they were measured, e.g. `int8 9 layers 0.81 ms, float32 1 layer 0.02 ms`."""
    return ", ".join(
        f"{share.name} {count_of(share.layers, 'layer')}"
        f"{f' {in_ms(share.milliseconds)}' if share.milliseconds is not None else ''}"
        for share in shares
    )


def issues_text(issues: Sequence[EngineIssue]) -> str:
    """Issues as plain text."""
    if not issues:
        return "The linters found nothing."
    return "\n\n".join(
        f"{issue.what}  [{', '.join([*stakes(issue), issue.rule])}]\n  Why: {issue.why}\n  To do: {issue.remedy}"
        for issue in issues
    )


def stakes(issue: EngineIssue) -> list[str]:
    """What an issue's layers take, as far as that is known: time, and bytes written."""
    time = [in_ms(issue.milliseconds)] if issue.milliseconds is not None else []
    return [*time, *([f"{format_bytes(issue.bytes)} written"] if issue.bytes is not None else [])]


def engine_diff_text(diff: EngineDiff) -> str:
    """How two engines differ, for the terminal."""
    if not diff.changes:
        files = {True: " and the same to the byte", False: ", though their files differ", None: ""}[diff.identical]
        return f"The engines have the same {count_of(diff.same, 'layer')}{files}."
    head = f"{count_of(len(diff.changes), 'difference')}; {count_of(diff.same, 'layer')} of {diff.layers[0]:,} alike"
    rows = [(change.kind, (change.nodes or ("–",))[0][:_NAME], change.what[:80]) for change in diff.changes]
    rest = len(rows) - _CHANGES
    table = columns([("kind", "node", "difference"), *rows[:_CHANGES]], left=3)
    return f"{head}\n\n{table}{f'{chr(10)}… and {rest:,} more' if rest > 0 else ''}"


def _fusion(view: EngineView) -> str:
    fused = sum(len(entry.nodes) > 1 for entry in view.layers)
    nodes = sum(len(entry.nodes) for entry in view.layers)
    added = sum(not entry.nodes for entry in view.layers)
    parts = [f"{nodes:,} nodes in {count_of(len(view.layers) - added, 'layer')}", f"{fused:,} of them fused"]
    parts += [f"{count_of(added, 'layer')} added by the backend"] if added else []
    parts += [f"{count_of(len(view.unplaced), 'node')} in no layer"] if view.unplaced else []
    return ", ".join(parts)


def _cells(name: str, entry: ProfiledLayer) -> tuple[str, ...]:
    layer = entry.layer
    more = f" + {len(entry.nodes) - 1}" if len(entry.nodes) > 1 else ""
    return (
        f"{entry.nodes[0]}{more}" if entry.nodes else f"({name[:_NAME]})",
        layer.operator[:_OPERATOR],
        layer.precision or "–",
        layer.output_precision or "–",
        format_bytes(layer.output_bytes),
        "–" if layer.ms is None else f"{layer.ms:.4f}",
        f"{100 * entry.share:.1f} %",
    )
