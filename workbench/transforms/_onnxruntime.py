"""What the transforms over onnxruntime's quantizer share."""

from __future__ import annotations

from pathlib import Path

from workbench.errors import TransformError
from workbench.model import Model


def prepare(model: Model, target: Path) -> Path:
    """Writes the model as the quantizer wants it: shapes inferred, BatchNorm folded, constants folded.

    Raises:
        TransformError: onnxruntime cannot load or optimize the model.
    """
    from onnxruntime.quantization import quant_pre_process

    try:
        quant_pre_process(str(model.path), str(target), skip_symbolic_shape=True)
    except Exception as error:  # onnxruntime raises its own C++ exception classes here
        raise TransformError(
            f"onnxruntime cannot prepare {model.name} for quantization: {' '.join(str(error).split())[:300]}.",
            "Check that the model runs as it is, and simplify it or raise its opset if it does.",
        ) from error
    return target
