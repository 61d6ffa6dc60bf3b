"""Dynamic quantization: weights to INT8, activation ranges found at every inference; needs no samples."""

from __future__ import annotations

import math
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from workbench.dataset import Dataset
from workbench.errors import TransformError
from workbench.jobs import Progress
from workbench.model import Model
from workbench.options import option
from workbench.skeleton import read_skeleton
from workbench.transforms._onnx import refuse_quantized
from workbench.transforms._onnxruntime import prepare
from workbench.transforms._surgery import FOLDED, check_names

if TYPE_CHECKING:
    import onnx

REQUIRES = {"onnxruntime": "cpu", "onnx": "cpu"}
NEEDS_DATASET = False

_MATRIX_OPERATORS = ("MatMul", "Gemm", "Attention", "LSTM", "Gather")
_WORTHWHILE = 0.05  # share of the weights that must lie outside of convolutions


@dataclass(frozen=True)
class Options:
    """What is quantized."""

    convolutions: Annotated[
        bool,
        option("Convolutions too: smaller, but several times slower than float on ONNX Runtime's CPU kernels."),
    ] = False
    per_channel: Annotated[bool, option("One scale per output channel of the weights.", advanced=True)] = True
    keep_float: Annotated[tuple[str, ...], option("Names of nodes that stay in float.", advanced=True)] = ()


def apply(model: Model, options: Options, dataset: Dataset | None, target: Path, progress: Progress) -> None:
    """Writes the model with integer operators (onnxruntime's `quantize_dynamic`).

    Raises:
        TransformError: There is little but convolutions and they were not asked for, the model is quantized already,
            or a name does not exist.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    operators = [*_MATRIX_OPERATORS, *(["Conv"] if options.convolutions else [])]
    progress(0.1, "preparing the graph")
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        prepared = prepare(model, Path(scratch) / "prepared.onnx")
        graph = read_skeleton(prepared)
        refuse_quantized(graph, model)
        check_names(graph, options.keep_float, model.name, FOLDED)
        _check_worthwhile(graph, model, options)
        progress(0.4, "quantizing weights")
        quantize_dynamic(
            str(prepared),
            str(target),
            op_types_to_quantize=operators,
            per_channel=options.per_channel,
            # ConvInteger has CPU kernels for unsigned weights only.
            weight_type=QuantType.QUInt8 if options.convolutions else QuantType.QInt8,
            nodes_to_exclude=list(options.keep_float),
        )


def _check_worthwhile(graph: onnx.ModelProto, model: Model, options: Options) -> None:
    sizes = {tensor.name: math.prod(tensor.dims) for tensor in graph.graph.initializer if len(tensor.dims) > 1}
    weights = {"convolutions": 0, "matrices": 0}
    for node in graph.graph.node:
        kind = "convolutions" if node.op_type == "Conv" else "matrices"
        if node.op_type in ("Conv", *_MATRIX_OPERATORS) and node.name not in options.keep_float:
            weights[kind] += sum(sizes.get(name, 0) for name in node.input)
    if options.convolutions and any(weights.values()):
        return
    if not any(weights.values()):
        looked_for = ", ".join([*_MATRIX_OPERATORS, *(["Conv"] if options.convolutions else [])])
        raise TransformError(
            f"{model.name} has nothing that dynamic quantization could touch: "
            f"no constant weights in float32 of {looked_for}.",
            "Start from the float32 model if this one was cast to another type, or use quantize_static.",
        )
    share = weights["convolutions"] / sum(weights.values())
    if share > 1 - _WORTHWHILE:
        raise TransformError(
            f"{100 * share:.0f} % of the weights of {model.name} belong to convolutions, which dynamic quantization "
            "makes several times slower than float on ONNX Runtime (its ConvInteger kernel), and the rest is too "
            "small to matter.",
            "Use quantize_static; where only the size of the file counts, force it with convolutions, or take "
            "quantize_weights, which computes in float.",
        )
