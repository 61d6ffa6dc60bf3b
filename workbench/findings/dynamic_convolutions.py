"""Dynamically quantized convolutions: every inference finds the range of every tensor, and the kernel is slow."""

from __future__ import annotations

from collections.abc import Iterator

from workbench.findings.context import Context, Finding
from workbench.findings.trials import try_static_quantization
from workbench.findings.words import are, count_of, in_ms, in_percent


def find(context: Context) -> Iterator[Finding]:
    """Looks for ConvInteger nodes, and measures the model quantized statically in their place."""
    nodes = tuple(node.name for node in context.graph.nodes if node.operator == "ConvInteger")
    if not nodes:
        return
    trial = try_static_quantization(context)
    if trial is None or not trial.is_faster:
        return
    layers = [entry for entry in context.profile.layers if entry.layer.operator in ("ConvInteger", "Convolution")]
    ranges = [entry for entry in context.profile.layers if "DynamicQuantize" in entry.layer.operator]
    computing, looking = context.time_of(*layers), context.time_of(*ranges)
    share = in_percent(context.share_of(computing + looking))
    profiled = (
        f"The convolutions take {in_ms(computing)} and finding ranges {in_ms(looking)}, {share} of an inference. "
        if layers
        else ""
    )
    yield Finding(
        rule="dynamic_convolutions",
        candidate=context.row.name,
        what=f"{count_of(len(nodes), 'convolution')} {are(len(nodes))} quantized dynamically.",
        evidence=f"{profiled}{trial.describe('quantized statically')}.",
        milliseconds=trial.saved_ms,
        why="Dynamic quantization reads each tensor twice to find its range at every inference and scales the result "
        "in float; ConvInteger's kernel is not made for speed. It is meant for matrix products of language models.",
        remedy="Quantize statically (quantize_static) with about 100 samples, or leave convolutions in float.",
        step=trial.step,
        nodes=nodes,
    )
