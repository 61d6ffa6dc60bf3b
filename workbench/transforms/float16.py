"""Half precision: weights and computation in FP16, inputs and outputs as they were."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from workbench.dataset import Dataset
from workbench.jobs import Progress
from workbench.model import Model
from workbench.model_file import read_whole
from workbench.options import option
from workbench.transforms._onnx import write_whole
from workbench.transforms._surgery import check_names

REQUIRES = {"onnxruntime": "cpu", "onnx": "cpu"}
NEEDS_DATASET = False


@dataclass(frozen=True)
class Options:
    """What stays in FP32."""

    keep_float: Annotated[
        tuple[str, ...], option("Names of nodes that stay in FP32, e.g. a softmax that overflows.", advanced=True)
    ] = ()


def apply(model: Model, options: Options, dataset: Dataset | None, target: Path, progress: Progress) -> None:
    """Writes the model cast to FP16 (onnxruntime's `convert_float_to_float16`)."""
    from onnxruntime.transformers.float16 import convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    progress(0.1, "reading the model")
    proto = read_whole(model.path)
    check_names(proto, options.keep_float, model.name)
    progress(0.3, "casting")
    with warnings.catch_warnings():
        # It warns for each weight that rounds to the smallest FP16 number; the measured error says it better.
        warnings.simplefilter("ignore", UserWarning)
        half = convert_float_to_float16(proto, keep_io_types=True, node_block_list=list(options.keep_float))
    progress(0.8, "writing the model")
    ordered = OnnxModel(half)
    ordered.topological_sort()  # the converter appends its casts at the end
    write_whole(ordered.model, target)
