"""Dynamic quantization: weights to INT8, activation ranges found at every inference; needs no samples."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from workbench.dataset import Dataset
from workbench.errors import TransformError
from workbench.jobs import Progress
from workbench.model import Model
from workbench.options import option
from workbench.transforms._onnxruntime import prepare

REQUIRES = {"onnxruntime": "cpu", "onnx": "cpu"}
NEEDS_DATASET = False

_MATRIX_OPERATORS = ("MatMul", "Gemm", "Attention", "LSTM", "Gather")


@dataclass(frozen=True)
class Options:
    """What is quantized."""

    convolutions: Annotated[
        bool,
        option("Convolutions too: smaller, but several times slower than float on ONNX Runtime's CPU kernels."),
    ] = False
    per_channel: Annotated[bool, option("One scale per output channel of the weights.", advanced=True)] = True


def apply(model: Model, options: Options, dataset: Dataset | None, target: Path, progress: Progress) -> None:
    """Writes the model with integer operators (onnxruntime's `quantize_dynamic`)."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    operators = [*_MATRIX_OPERATORS, *(["Conv"] if options.convolutions else [])]
    progress(0.1, "preparing the graph")
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        prepared = prepare(model, Path(scratch) / "prepared.onnx")
        present = {node.op_type for node in onnx.load(str(prepared), load_external_data=False).graph.node}
        if not present & set(operators):
            raise TransformError(
                f"{model.name} has nothing that dynamic quantization should touch: none of {', '.join(operators)}.",
                "Use quantize_static for convolutional models.",
            )
        progress(0.4, "quantizing weights")
        quantize_dynamic(
            str(prepared),
            str(target),
            op_types_to_quantize=operators,
            per_channel=options.per_channel,
            # ConvInteger has CPU kernels for unsigned weights only.
            weight_type=QuantType.QUInt8 if options.convolutions else QuantType.QInt8,
        )
