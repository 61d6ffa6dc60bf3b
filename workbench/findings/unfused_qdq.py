"""Q/DQ pairs that the backend did not fuse: it converts to float and back for every one of them."""

from __future__ import annotations

from collections.abc import Iterator

from workbench.findings.context import Context, Finding, nodes_of
from workbench.findings.trials import static_quantization
from workbench.findings.words import count_of, in_ms, in_percent, name_some
from workbench.graph.quantized import PLUMBING, is_between

_LEAST_SHARE = 0.02  # of the profile: less is not worth a word


def find(context: Context) -> Iterator[Finding]:
    """Looks for QuantizeLinear and DequantizeLinear left between layers that were meant to meet in integers."""
    left = [
        entry
        for entry in context.profile.layers
        if entry.layer.kind == "quantize" and any(is_between(context.graph, name) for name in entry.nodes)
    ]
    lost = context.time_of(*left)
    if not left or context.share_of(lost) < _LEAST_SHARE:
        return
    meant = sum(node.operator in PLUMBING for node in context.graph.nodes)
    yield Finding(
        rule="unfused_qdq",
        candidate=context.row.name,
        what=f"{count_of(len(left), 'quantize or dequantize layer')} did not fuse with the layers around them.",
        evidence=f"They take {in_ms(lost)}, {in_percent(context.share_of(lost))} of an inference; "
        f"{meant} such nodes are in the file, among those left are {name_some(nodes_of(left))}.",
        milliseconds=lost,
        why="A backend computes in integers only where it knows the pattern of Q/DQ nodes around an operator; "
        "elsewhere it converts to float, computes there and converts back.",
        remedy="Quantize the float model for this backend again, with quantize_static's unsigned activations on ONNX "
        "Runtime's CPU; keep in float what has no integer kernel.",
        step=static_quantization(context),
        nodes=nodes_of(left),
    )
