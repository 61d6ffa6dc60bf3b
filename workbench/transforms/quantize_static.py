"""Static quantization to INT8: weights and activations, with ranges from calibration samples."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from workbench.dataset import Dataset
from workbench.errors import DatasetError, TransformError
from workbench.jobs import Progress
from workbench.model import Model
from workbench.options import option
from workbench.transforms._onnxruntime import prepare

REQUIRES = {"onnxruntime": "cpu", "onnx": "cpu"}
NEEDS_DATASET = True

_BATCH = 16


@dataclass(frozen=True)
class Options:
    """How ranges are found and what is quantized."""

    samples: Annotated[int, option("Calibration samples to use.", minimum=1, maximum=4096, unit="samples")] = 128
    calibration: Annotated[
        Literal["minmax", "percentile"],
        option("How a range follows from the values seen; percentile cuts outliers off."),
    ] = "minmax"
    percentile: Annotated[
        float, option("Share of values kept, for percentile.", minimum=90, maximum=100, unit="%", advanced=True)
    ] = 99.99
    activations: Annotated[
        Literal["unsigned", "signed"],
        option("Unsigned runs fastest on ONNX Runtime's CPU kernels; signed is what TensorRT takes.", advanced=True),
    ] = "unsigned"
    per_channel: Annotated[bool, option("One scale per output channel of the weights.", advanced=True)] = True
    keep_float: Annotated[tuple[str, ...], option("Names of nodes that stay in float.", advanced=True)] = ()


def apply(model: Model, options: Options, dataset: Dataset, target: Path, progress: Progress) -> None:
    """Writes the model with Q/DQ nodes around what runs in INT8 (onnxruntime's `quantize_static`)."""
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    progress(0.05, "preparing the graph")
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        prepared = prepare(model, Path(scratch) / "prepared.onnx")
        names = {node.name for node in onnx.load(str(prepared), load_external_data=False).graph.node}
        if unknown := sorted(set(options.keep_float) - names):
            raise TransformError(
                f"{model.name} has no node named {', '.join(repr(name) for name in unknown)} to keep in float.",
                "Names are those of the graph after BatchNorm folding; the graph panel shows them.",
            )
        unsigned = options.activations == "unsigned"
        reader = _Reader(*_whole_batches(dataset.take(options.samples), model), progress)
        quantize_static(
            str(prepared),
            str(target),
            reader,
            quant_format=QuantFormat.QDQ,
            per_channel=options.per_channel,
            activation_type=QuantType.QUInt8 if unsigned else QuantType.QInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=list(options.keep_float),
            calibrate_method=CalibrationMethod.MinMax
            if options.calibration == "minmax"
            else CalibrationMethod.Percentile,
            extra_options={"ActivationSymmetric": not unsigned, "CalibPercentile": options.percentile},
        )


class _Reader:
    """Hands the samples to onnxruntime's calibrator batch by batch; it takes any object with `get_next`."""

    def __init__(self, dataset: Dataset, batch: int, progress: Progress) -> None:
        self._dataset, self._progress = dataset, progress
        self._batches: Iterator[dict[str, Any]] = dataset.batches(batch)
        self._seen = 0

    def get_next(self) -> dict[str, Any] | None:
        total = len(self._dataset)
        self._progress(0.1 + 0.7 * self._seen / total, f"calibrating {self._seen}/{total}")
        feed = next(self._batches, None)
        if feed is not None:
            self._seen += len(next(iter(feed.values())))
        else:
            self._progress(0.85, "writing the model")
        return feed

    def set_range(self, start_index: int, end_index: int) -> None:
        """Asked for by the strided calibrators, which are not used."""


def _whole_batches(dataset: Dataset, model: Model) -> tuple[Dataset, int]:
    """Samples and batch size without a shorter last batch, which the calibrators cannot take."""
    count = len(dataset)
    batch = model.fixed_batch or next(size for size in range(min(_BATCH, count), 0, -1) if count % size == 0)
    if count < batch:
        raise DatasetError(
            f"{dataset.name} has {count} samples to calibrate with, and {model.name} takes {batch} at a time.",
            "Give more samples, or export the model with a dynamic batch.",
        )
    return dataset.take(count // batch * batch), batch
