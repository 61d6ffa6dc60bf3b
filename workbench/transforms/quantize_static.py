"""Static quantization to INT8: weights and activations, with ranges from calibration samples."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from workbench.calibration import Method, Range, Statistics, collect, find_range
from workbench.dataset import Dataset
from workbench.errors import TransformError
from workbench.jobs import Progress, part_of
from workbench.model import Model
from workbench.options import option
from workbench.transforms._bias import correct_biases, input_axes
from workbench.transforms._onnx import refuse_quantized, write_whole
from workbench.transforms._onnxruntime import read_prepared
from workbench.transforms._qdq import (
    Marked,
    Placement,
    mark,
    operators_in_float,
    operators_with_int8,
    quantize_weights,
    write,
)
from workbench.transforms._surgery import FOLDED, check_names

if TYPE_CHECKING:
    import onnx

REQUIRES = {"onnxruntime": "cpu", "onnx": "cpu"}
NEEDS_DATASET = True

_FEW = 16  # samples; with fewer, the outermost values are a matter of luck


@dataclass(frozen=True)
class Options:
    """How ranges are found, what is quantized, and for what."""

    target: Annotated[
        Literal["onnxruntime", "openvino", "tensorrt"],
        option("What will run it: processors by ONNX Runtime or OpenVINO, or NVIDIA GPUs by TensorRT."),
    ] = "onnxruntime"
    samples: Annotated[int, option("Calibration samples to use.", minimum=1, maximum=65536, unit="samples")] = 128
    calibration: Annotated[
        Method,
        option(
            "How a range follows from the values seen: all of them, without the outermost, with the least information "
            "lost, or with the least squared error."
        ),
    ] = "minmax"
    percentile: Annotated[
        float, option("Share of values kept, for percentile.", minimum=90, maximum=100, unit="%", advanced=True)
    ] = 99.99
    activations: Annotated[
        Literal["auto", "unsigned", "signed"],
        option(
            "Auto takes what the target runs fastest: unsigned on processors (signed takes ONNX Runtime about twice "
            "the time), signed for TensorRT, which takes nothing else.",
            advanced=True,
        ),
    ] = "auto"
    per_channel: Annotated[bool, option("One scale per output channel of the weights.", advanced=True)] = True
    bias_correction: Annotated[
        bool, option("Takes the mean error of rounded weights out of the biases.", advanced=True)
    ] = True
    reduce_range: Annotated[
        bool,
        option("Weights in 7 bits, for processors without VNNI: their 16-bit sums overflow with 8.", advanced=True),
    ] = False
    keep_float: Annotated[tuple[str, ...], option("Names of nodes that stay in float.", advanced=True)] = ()
    operators: Annotated[
        tuple[str, ...],
        option("Operator types to quantize; all that have an INT8 form if empty.", example="Conv", advanced=True),
    ] = ()


def apply(model: Model, options: Options, dataset: Dataset, target: Path, progress: Progress) -> tuple[str, ...]:
    """Writes the model with Q/DQ nodes around what runs in INT8.

    Returns:
        What the user should know of it.

    Raises:
        TransformError: It is quantized already, options contradict each other, or nothing can be quantized.
        DatasetError: There are too few samples, or they lead to NaN or infinite values.
    """
    progress(0.02, "preparing the graph")
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        proto = read_prepared(model, Path(scratch))
    refuse_quantized(proto, model)
    placement = _placement(model, proto, options)
    marked = mark(proto, placement)
    if not marked.weights:
        raise TransformError(
            f"{model.name} has no layer with weights that could run in INT8.",
            "Check `operators` and `keep_float`; models without convolutions and matrix products gain nothing.",
        )
    axes = input_axes(proto, marked.weights) if options.bias_correction else {}
    samples = dataset.take(options.samples)
    found = collect(
        proto,
        marked.activations,
        samples,
        bins=options.calibration != "minmax",
        channels=axes,
        peaks=False,
        progress=part_of(progress, 0.1, 0.8, "calibrating: "),
    )
    progress(0.85, "writing the model")
    ranges = {
        name: find_range(one.histogram, options.calibration, percentile=options.percentile, symmetric=placement.signed)
        for name, one in found.items()
    }
    write_whole(_quantized(proto, placement, marked, ranges, found), target)
    return _notes(proto, placement, found, len(samples))


def _placement(model: Model, proto: onnx.ModelProto, options: Options) -> Placement:
    known = operators_with_int8()
    if unknown := sorted(set(options.operators) - set(known)):
        raise TransformError(
            f"The quantizer has no INT8 form for {', '.join(unknown)}.", f"It has one for: {', '.join(known)}."
        )
    check_names(proto, options.keep_float, model.name, FOLDED)
    if options.target == "tensorrt" and options.activations == "unsigned":
        raise TransformError(
            "TensorRT takes signed, symmetric activations only, and unsigned ones were asked for.",
            "Leave `activations` on auto, or choose another target.",
        )
    tensorrt = options.target == "tensorrt"
    return Placement(
        operators=options.operators or known,
        signed=tensorrt or options.activations == "signed",
        quantize_bias=not tensorrt,  # its parser refuses INT32 biases
        per_channel=options.per_channel,
        weight_levels=63 if options.reduce_range else 127,
        keep_float=options.keep_float,
    )


def _quantized(
    proto: onnx.ModelProto,
    placement: Placement,
    marked: Marked,
    ranges: Mapping[str, Range],
    found: Mapping[str, Statistics],
) -> onnx.ModelProto:
    changes = quantize_weights(proto, marked.weights, placement, ranges)
    correct_biases(proto, marked.weights, changes, found)
    return write(proto, placement, ranges)


def _notes(
    proto: onnx.ModelProto, placement: Placement, found: Mapping[str, Statistics], samples: int
) -> tuple[str, ...]:
    notes = []
    if left := operators_in_float(proto, placement.operators):
        notes.append(f"In float, as the quantizer has no INT8 form for them or was not asked to: {', '.join(left)}.")
    if samples < _FEW:
        notes.append(f"Only {samples} calibration samples: ranges may be too narrow for other inputs.")
    if constant := [name for name, one in found.items() if one.histogram.low == one.histogram.high]:
        named = ", ".join(constant[:3]) + (f" and {len(constant) - 3} more" if len(constant) > 3 else "")
        notes.append(f"The same value on every sample: {named}; check that the samples are typical.")
    return tuple(notes)
