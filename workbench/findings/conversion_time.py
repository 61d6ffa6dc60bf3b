"""Time that goes into changing number formats and memory layouts instead of computing."""

from __future__ import annotations

from collections.abc import Iterator

from workbench.findings.context import Context, Finding, nodes_of
from workbench.findings.words import in_ms, in_percent

_LEAST_SHARE = 0.1  # of the profile


def find(context: Context) -> Iterator[Finding]:
    """Looks for quantize, dequantize and reformat layers that together take a good part of the time."""
    layers = context.longest_first(entry for entry in context.profile.layers if entry.layer.kind != "compute")
    spent = context.time_of(*layers)
    if context.share_of(spent) < _LEAST_SHARE:
        return
    kinds = {"quantize": "number formats", "reformat": "memory layouts"}
    parts = []
    for kind, words in kinds.items():
        those = [entry for entry in layers if entry.layer.kind == kind and entry.layer.ms]
        if those:
            operators = ", ".join(dict.fromkeys(entry.layer.operator for entry in those))
            parts.append(f"{in_ms(context.time_of(*those))} for {words} in {len(those)} layers ({operators})")
    yield Finding(
        rule="conversion_time",
        candidate=context.row.name,
        what=f"{in_percent(context.share_of(spent))} of the time goes into conversions, not into computing.",
        evidence=f"{in_ms(spent)} of {in_ms(context.total_ms)}: {'; '.join(parts)}.",
        milliseconds=spent,
        why="Each change between float and integers, or between layouts, reads and writes a whole tensor.",
        remedy="Let neighbours share a format: quantize the layers in between as well, or keep a whole stretch of "
        "small layers in float (quantize_static's keep_float).",
        nodes=nodes_of(layers),
    )
