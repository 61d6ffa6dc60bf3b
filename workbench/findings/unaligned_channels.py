"""Convolutions whose channels do not fill the vectors that the processor computes with."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from workbench.backends import build_engine
from workbench.findings.context import Context, Finding
from workbench.findings.convolutions import BLOCK, Convolution, read_convolutions
from workbench.findings.trials import aligned_pruning, measure_once, median_ms
from workbench.findings.words import count_of, in_ms, in_percent, in_times, name_some
from workbench.measure.latency import speedup
from workbench.measure.statistics import Estimate

_LEAST_SHARE = 0.05  # of the profile
_MOST_PROBES = 2
_CLEAR = 1.15  # dearer by multiply-accumulate


class _Probe(NamedTuple):
    """A convolution measured alone, in turns with its aligned twin.

    Attributes:
        conv: The convolution as it is.
        layer_ms: Its time in the profile.
        as_it_is_ms: Its time alone.
        aligned_ms: The twin's time alone.
        dearer: How many times dearer it is by multiply-accumulate.
    """

    conv: Convolution
    layer_ms: float
    as_it_is_ms: float
    aligned_ms: float
    dearer: Estimate


def find(context: Context) -> Iterator[Finding]:
    """Measures the costliest unaligned convolutions alone, as they are and with whole blocks of channels."""
    unaligned = _unaligned(context)
    probes = [_measure(context, conv, ms) for conv, ms in unaligned[:_MOST_PROBES]]
    slow = [probe for probe in probes if probe.dearer.low > _CLEAR]
    if not slow:
        return
    spent = sum(ms for _, ms in unaligned)
    names = tuple(conv.name for conv, _ in unaligned)
    yield Finding(
        rule="unaligned_channels",
        candidate=context.row.name,
        what=f"{count_of(len(names), 'convolution')} with numbers of channels that do not fill vectors of {BLOCK}: "
        f"{name_some(names)}.",
        evidence=f"They take {in_ms(spent)}, {in_percent(context.share_of(spent))} of an inference. "
        f"{' '.join(_describe(probe) for probe in slow)}",
        milliseconds=sum(probe.layer_ms * (1 - 1 / probe.dearer.value) for probe in slow),
        why="Kernels lay channels out in blocks as wide as a vector register; what does not fill a block is padded, "
        "or goes through a slower kernel.",
        remedy=f"Train or prune to multiples of {BLOCK} channels (pruning tools call it round_to); the nearest "
        "multiple often costs less than the number as it is.",
        step=aligned_pruning(context),
        nodes=names,
    )


def _unaligned(context: Context) -> list[tuple[Convolution, float]]:
    """Unaligned convolutions that count, with their time in the profile, the costliest first."""
    convolutions = read_convolutions(context.row.candidate.engine.model, context.batch)
    found = []
    for entry in context.profile.layers:
        conv = next((convolutions[name] for name in entry.nodes if name in convolutions), None)
        ms = context.time_of(entry)
        if conv and context.share_of(ms) >= _LEAST_SHARE and conv.aligned() != conv:
            found.append((conv, ms))
    return sorted(found, key=lambda item: -item[1])


def _measure(context: Context, conv: Convolution, layer_ms: float) -> _Probe:
    engine = context.row.candidate.engine
    twin = conv.aligned()
    models = [one.as_model(context.workspace) for one in (conv, twin)]
    engines = [build_engine(model, engine.backend, engine.options) for model in models]
    as_it_is, aligned = measure_once(context, engines)
    # Slower by this much with the same work: the twin's is a little more or less.
    ratio, work = speedup(as_it_is, aligned).p10, twin.work / conv.work
    dearer = Estimate(ratio.value * work, ratio.low * work, ratio.high * work)
    return _Probe(conv, layer_ms, median_ms(as_it_is), median_ms(aligned), dearer)


def _describe(probe: _Probe) -> str:
    now, then = (" → ".join(map(str, conv.channels)) for conv in (probe.conv, probe.conv.aligned()))
    return (
        f"'{probe.conv.name}' alone takes {in_ms(probe.as_it_is_ms)} with {now} channels and {in_ms(probe.aligned_ms)} "
        f"with {then}, measured in turns: {in_times(probe.dearer)} as much for the same work."
    )
