"""Layers that nobody quantized in a quantized candidate, and the time they take."""

from __future__ import annotations

from collections.abc import Iterator

from workbench.findings.context import Context, Finding, is_float, is_integer, is_quantized, nodes_of
from workbench.findings.words import are, count_of, in_ms, in_percent, name_some
from workbench.measure.profile import ProfiledLayer

_LEAST_SHARE = 0.1  # of the profile


def find(context: Context) -> Iterator[Finding]:
    """Looks for float layers that take a good part of a quantized candidate's time."""
    if not is_quantized(context.graph):
        return
    layers = context.longest_first(entry for entry in context.profile.layers if _is_left(context, entry))
    spent = context.time_of(*layers)
    if context.share_of(spent) < _LEAST_SHARE:
        return
    operators = ", ".join(dict.fromkeys(entry.layer.operator for entry in layers))
    yield Finding(
        rule="float_layers",
        candidate=context.row.name,
        what=f"{count_of(len(layers), 'layer')} of the quantized model {are(len(layers))} left in float.",
        evidence=f"They take {in_ms(spent)}, {in_percent(context.share_of(spent))} of an inference ({operators}); "
        f"the costliest: {name_some([entry.nodes[0] for entry in layers if entry.nodes])}.",
        milliseconds=spent,
        why="What is not quantized gains nothing, and every change between float and integers costs time too.",
        remedy="Quantize these layers as well where accuracy allows (see `keep_float`); operators without an integer "
        "kernel can only be replaced in the model.",
        nodes=nodes_of(layers),
    )


def _is_left(context: Context, entry: ProfiledLayer) -> bool:
    """Whether a layer computes in float and no Q/DQ nodes say that it need not."""
    if entry.layer.kind != "compute" or not is_float(entry.layer.precision):
        return False
    main = context.graph.by_name.get(entry.nodes[0]) if entry.nodes else None
    return main is None or not is_integer(main.precision)
