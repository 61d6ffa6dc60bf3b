"""Convolutions and matrix products that run in float although the model has Q/DQ nodes around them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from workbench.findings.context import Context, Finding, is_float, is_integer, nodes_of
from workbench.findings.trials import static_quantization
from workbench.findings.words import in_ms, in_percent, name_some
from workbench.measure.profile import ProfiledLayer

_ENOUGH = 0.9  # share of the multiply-accumulates meant to be in integers that make no finding


@dataclass(frozen=True)
class Coverage:
    """How much of what multiplies runs in integers.

    Attributes:
        products: Convolutions and matrix products that the backend runs.
        integer: Those that compute in integers.
        macs: Multiply-accumulates of all of them.
        integer_macs: Those in integers.
        missed: Layers that run in float although Q/DQ nodes around them say that they need not.
        missed_macs: Their multiply-accumulates.
    """

    products: int
    integer: int
    macs: int
    integer_macs: int
    missed: tuple[ProfiledLayer, ...]
    missed_macs: int


def int8_coverage(context: Context) -> Coverage:
    """Counts what computes in integers, from what the backend made of the graph; nothing needs to be timed."""
    products = [entry for entry in context.profile.layers if context.macs_of(entry)]
    integer = [entry for entry in products if is_integer(entry.layer.precision)]
    missed = [entry for entry in products if is_float(entry.layer.precision) and _was_meant(context, entry)]
    return Coverage(
        products=len(products),
        integer=len(integer),
        macs=sum(map(context.macs_of, products)),
        integer_macs=sum(map(context.macs_of, integer)),
        missed=tuple(missed),
        missed_macs=sum(map(context.macs_of, missed)),
    )


def find(context: Context) -> Iterator[Finding]:
    """Looks for products that were quantized for nothing."""
    found = int8_coverage(context)
    meant = found.integer_macs + found.missed_macs
    if not found.missed or found.integer_macs > _ENOUGH * meant:
        return
    lost = context.time_of(*found.missed)
    evidence = (
        f"{found.integer} of {found.products} convolutions and matrix products run in integers, "
        f"{in_percent(found.integer_macs / found.macs)} of the multiply-accumulates"
    )
    if lost:
        evidence += (
            f"; those that were quantized and still run in float take {in_ms(lost)}, "
            f"{in_percent(context.share_of(lost))} of an inference"
        )
    yield Finding(
        rule="low_int8_coverage",
        candidate=context.row.name,
        what=f"In float although the file quantizes them: {len(found.missed)} of {found.products} convolutions and "
        "matrix products.",
        evidence=f"{evidence}: {name_some(nodes_of(found.missed))}.",
        milliseconds=lost or None,
        why=f"{context.row.candidate.engine.backend} has no integer kernel for the pattern of Q/DQ nodes around them, "
        "so it dequantizes, computes in float and quantizes again.",
        remedy="Quantize the float model with quantize_static, which writes the pattern that ONNX Runtime and OpenVINO "
        "know, in place of a foreign quantizer; signed activations are for TensorRT.",
        step=static_quantization(context),
        nodes=nodes_of(found.missed),
    )


def _was_meant(context: Context, entry: ProfiledLayer) -> bool:
    """Whether the graph says integers: all that the product reads is dequantized."""
    return any(
        is_integer(context.graph.by_name[name].precision) for name in entry.nodes if context.graph.by_name[name].macs
    )
