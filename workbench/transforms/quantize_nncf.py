"""Static INT8 quantization by NNCF, OpenVINO's own quantizer: Q/DQ where its kernels want them; ranges from samples."""

from __future__ import annotations

import importlib
import itertools
import logging
import sys
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from workbench.dataset import Dataset
from workbench.errors import DatasetError, TransformError, WorkbenchError
from workbench.jobs import Progress
from workbench.model import Model
from workbench.options import option
from workbench.transforms._onnx import reason_of, refuse_quantized, write_whole
from workbench.transforms._onnxruntime import read_prepared
from workbench.transforms._opset import raise_opset
from workbench.transforms._surgery import FOLDED, check_names

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

REQUIRES = {"nncf": "nncf", "onnxruntime": "cpu", "onnx": "cpu"}
NEEDS_DATASET = True

_OPSET = 13  # the first with a scale for each channel


@dataclass(frozen=True)
class Options:
    """How ranges are found and what is quantized."""

    samples: Annotated[int, option("Calibration samples to use.", minimum=1, maximum=4096, unit="samples")] = 128
    preset: Annotated[
        Literal["performance", "mixed"],
        option("performance has symmetric activations; mixed asymmetric ones, for activations that are no ReLU."),
    ] = "performance"
    model_type: Annotated[
        Literal["any", "transformer"],
        option("transformer keeps attention precise and smooths outliers; take mixed with it."),
    ] = "any"
    fast_bias_correction: Annotated[
        bool, option("Corrects the shift of every layer by itself; the slow way runs the model again for each.")
    ] = True
    keep_float: Annotated[tuple[str, ...], option("Names of nodes that stay in float.", advanced=True)] = ()


def apply(model: Model, options: Options, dataset: Dataset, target: Path, progress: Progress) -> None:
    """Writes the model with Q/DQ nodes around what runs in INT8 (NNCF's `quantize`).

    Raises:
        TransformError: NNCF cannot quantize the model, it is quantized already, or a name does not exist.
        DatasetError: There are fewer samples than the model takes at a time.
    """
    progress(0.02, "preparing the graph")
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        proto = read_prepared(model, Path(scratch))
    refuse_quantized(proto, model)
    check_names(proto, options.keep_float, model.name, FOLDED)
    raise_opset(proto, _OPSET, model.name)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made = _quantize(proto, model, options, dataset.take(options.samples), progress)
    except WorkbenchError:
        raise
    except Exception as error:  # it raises whatever its graph library meets
        raise TransformError(
            f"NNCF cannot quantize {model.name}: {reason_of(error)}.",
            "Keep the nodes that it names in float, or use quantize_static.",
        ) from error
    if not any(node.op_type == "QuantizeLinear" for node in made.graph.node):
        raise TransformError(
            f"{model.name} has nothing that NNCF quantizes.", "It takes convolutions and matrix products."
        )
    progress(0.95, "writing the model")
    write_whole(made, target)


def _quantize(
    proto: onnx.ModelProto, model: Model, options: Options, dataset: Dataset, progress: Progress
) -> onnx.ModelProto:
    batch = model.fixed_batch or 1
    count = len(dataset) // batch
    if not count:
        raise DatasetError(
            f"{dataset.name} has {len(dataset)} samples to calibrate with, and {model.name} takes {batch} at a time.",
            "Give more samples, or export the model with a dynamic batch.",
        )
    progress(0.05, "starting NNCF")
    nncf = _load_nncf()
    shown = itertools.count()

    def show(feed: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        seen = next(shown) % count  # it goes through the samples more than once
        progress(0.1 + 0.8 * seen / count, f"calibrating {seen * batch}/{count * batch}")
        return feed

    made: onnx.ModelProto = nncf.quantize(
        proto,
        nncf.Dataset(list(dataset.take(count * batch).batches(batch)), show),
        preset=nncf.QuantizationPreset(options.preset),
        subset_size=count,
        fast_bias_correction=options.fast_bias_correction,
        model_type=nncf.ModelType.TRANSFORMER if options.model_type == "transformer" else None,
        ignored_scope=nncf.IgnoredScope(names=list(options.keep_float)) if options.keep_float else None,
    )
    return made


def _load_nncf() -> Any:
    """Imports NNCF, silent, and without the package that reports its use to its makers: as if that were missing."""
    package = "openvino_telemetry"
    hidden = {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] == package}
    sys.modules[package] = None  # type: ignore[assignment]  # how an import is made to fail
    try:
        nncf = importlib.import_module("nncf")
    finally:
        del sys.modules[package]
        sys.modules.update(hidden)
    nncf.set_log_level(logging.ERROR)
    return nncf
