"""Layers that the file keeps in float, and that ONNX Runtime computes in int8 all the same."""

from __future__ import annotations

from collections.abc import Iterator

from workbench.findings.context import Context, Finding, is_float, is_integer
from workbench.findings.trials import with_options
from workbench.findings.words import are, count_of, in_ms, in_percent, name_some
from workbench.measure.profile import ProfiledLayer


def find(context: Context) -> Iterator[Finding]:
    """Looks for products that are float in the graph and integer in what runs."""
    if context.row.candidate.engine.backend != "onnxruntime":
        return
    layers = [entry for entry in context.profile.layers if _is_unasked(context, entry)]
    if not layers:
        return
    nodes = tuple(entry.nodes[0] for entry in layers)
    spent = context.time_of(*layers)
    yield Finding(
        rule="unasked_int8",
        candidate=context.row.name,
        what=f"{count_of(len(layers), 'layer')} that the file keeps in float {are(len(layers))} computed in int8.",
        evidence=f"{name_some(nodes)} {'takes' if len(nodes) == 1 else 'take'} {in_ms(spent)}, "
        f"{in_percent(context.share_of(spent))} of an inference, in integer kernels.",
        milliseconds=spent,
        why="ONNX Runtime quantizes the weights of a product itself (its optimization WeightBiasQuantization) where a "
        "DequantizeLinear stands before it and a QuantizeLinear behind it: a single layer does not stay in float.",
        remedy="To have it in float, open the model with the backend's option `float_layers` on `keep`.",
        step=with_options(context, "float layers kept", {"float_layers": "keep"}),
        nodes=nodes,
    )


def _is_unasked(context: Context, entry: ProfiledLayer) -> bool:
    main = context.graph.by_name.get(entry.nodes[0]) if entry.nodes else None
    if main is None or not main.macs:
        return False
    return is_float(main.precision) and is_integer(entry.layer.precision)
