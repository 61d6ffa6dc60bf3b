"""What the transforms over onnxruntime's quantizer share."""

from __future__ import annotations

from pathlib import Path

from workbench.errors import TransformError
from workbench.model import Model
from workbench.model_file import read_whole


def prepare(model: Model, target: Path) -> Path:
    """Writes the model as the quantizer wants it: shapes inferred, BatchNorm folded, constants folded.

    Raises:
        TransformError: onnxruntime cannot load or optimize the model.
    """
    from onnxruntime.quantization import quant_pre_process

    # Given a path, it works on a copy elsewhere, where it does not find external data.
    source = read_whole(model.path) if model.external_files else str(model.path)
    try:
        quant_pre_process(source, str(target), skip_symbolic_shape=True)
    except Exception as error:  # onnxruntime raises its own C++ exception classes here
        reason = " ".join(str(error).split())[:300].rstrip(".")
        raise TransformError(
            f"onnxruntime cannot prepare {model.name} for quantization: {reason}.",
            "Check that the model runs as it is, and simplify it or raise its opset if it does.",
        ) from error
    return target
