"""Weights set to zero, or channels taken away, without making the model faster."""

from __future__ import annotations

from collections.abc import Iterator

from workbench import jobs
from workbench.findings.context import Context, Finding, is_quantized, nodes_of
from workbench.findings.trials import aligned_pruning
from workbench.findings.words import in_ms, in_percent, in_times
from workbench.jobs import Progress
from workbench.model import Model

_SPARSE = 0.3  # share of zeros, over the original's, that somebody meant
_FEWER = 1.1  # times fewer multiply-accumulates that somebody meant
_HALF = 0.5  # of the gain that they promise: less is no effect


def find(context: Context) -> Iterator[Finding]:
    """Looks for zeros and missing channels that the time does not show.

    Only where nothing else differs from the original that changes the time: the backend, its options, quantization.
    """
    mine, first = context.row.candidate.engine, context.original.candidate.engine
    same = mine.backend == first.backend and mine.options == first.options
    if not same or is_quantized(context.graph) != is_quantized(context.original_graph):
        return
    if mine.model.sha256 != first.model.sha256:
        yield from _zeros(context)
        yield from _channels(context)


def sparsity(context: Context, model: Model) -> float:
    """Share of zeros among the weights of convolutions and matrix products; counted once, in a subprocess."""
    key = {"model": model.sha256}
    return context.workspace.result(
        "sparsity", key, float, lambda: jobs.run(_count_zeros, model, progress=context.progress)
    )


def _zeros(context: Context) -> Iterator[Finding]:
    share = sparsity(context, context.row.candidate.engine.model)
    if share - sparsity(context, context.original.candidate.engine.model) < _SPARSE:
        return
    if context.row.speedup.high > _promised(1 / (1 - share)):
        return
    products = [entry for entry in context.profile.layers if context.macs_of(entry)]
    spent = context.time_of(*products)
    yield Finding(
        rule="no_effect",
        candidate=context.row.name,
        what=f"{in_percent(share)} of the weights are zero, and the model is not faster for it.",
        evidence=f"{_times(context)}; the layers that multiply take {in_ms(spent)}, {in_ms(share * spent)} of it "
        "by zero.",
        milliseconds=share * spent or None,
        why="The kernels multiply by a zero like by any other number: on a processor, scattered zeros only make the "
        "file smaller when it is compressed.",
        remedy="Remove whole channels instead (structured pruning, to multiples of 16), or quantize.",
        step=aligned_pruning(context),
        nodes=nodes_of(products),
    )


def _channels(context: Context) -> Iterator[Finding]:
    if not context.graph.macs or not context.original_graph.macs:
        return
    fewer = context.original_graph.macs / context.graph.macs
    if fewer < _FEWER or context.row.speedup.high > _promised(fewer):
        return
    excess = context.row.p50_ms - context.original.p50_ms / fewer
    yield Finding(
        rule="no_effect",
        candidate=context.row.name,
        what=f"{in_percent(1 - 1 / fewer)} of the multiply-accumulates are gone, and the model is hardly faster.",
        evidence=f"{_times(context)}, where the count promises {fewer:.2f} ×.",
        milliseconds=max(0.0, excess),
        why="Kernels work on blocks of channels: numbers of channels that do not fill them cost as much as full ones, "
        "or fall back to slower kernels, and small layers are bound by memory and overhead.",
        remedy="Prune to multiples of 16 channels, and prune the layers that take the time; see the profile.",
        step=aligned_pruning(context),
    )


def _promised(ratio: float) -> float:
    """Half of the gain that less work promises."""
    return 1 + _HALF * (ratio - 1)


def _times(context: Context) -> str:
    return (
        f"{in_ms(context.row.p50_ms)} against the original's {in_ms(context.original.p50_ms)}: "
        f"{in_times(context.row.speedup)}"
    )


def _count_zeros(model: Model, progress: Progress) -> float:
    from onnx import numpy_helper

    from workbench.model_file import read_whole

    progress(0.1, "counting zero weights")
    zeros = total = 0
    for tensor in read_whole(model.path).graph.initializer:
        if len(tensor.dims) >= 2:  # biases, scales and shapes have one axis or none
            values = numpy_helper.to_array(tensor)
            zeros += int((values == 0).sum())
            total += values.size
    return zeros / total if total else 0.0
