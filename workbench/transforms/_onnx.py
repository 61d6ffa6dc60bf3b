"""What the transforms that rewrite a whole model in memory share: writing it, and what libraries say."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from workbench.errors import TransformError
from workbench.graph.quantized import is_quantizing
from workbench.model import Model

if TYPE_CHECKING:
    import onnx

_LARGEST_FILE = 2**31 - 2**20  # Protobuf's limit for one message, and some room


def write_whole(proto: onnx.ModelProto, target: Path) -> None:
    """Writes a model into one file, or with its weights beside it where one file cannot hold them."""
    import onnx

    if sum(tensor.ByteSize() for tensor in proto.graph.initializer) < _LARGEST_FILE:
        onnx.save(proto, str(target))
    else:
        onnx.save(proto, str(target), save_as_external_data=True, location=f"{target.stem}.data")


def refuse_quantized(proto: onnx.ModelProto, model: Model) -> None:
    """Refuses a model that computes with integers already: rounding a second time only adds error.

    Raises:
        TransformError: It has nodes that quantize or compute with quantized numbers.
    """
    found = sorted({node.op_type for node in proto.graph.node if is_quantizing(node.op_type)})
    if found:
        raise TransformError(
            f"{model.name} is quantized already: it has {', '.join(found)}.",
            "Start from the float model; to quantize it in another way, apply the other transform to the original.",
        )


def reason_of(error: Exception) -> str:
    """What a library says, short enough for a sentence of ours."""
    said = " ".join(str(error).split()).rpartition(" failed: ")[2]  # behind a place in its source code
    return (said[:300] or type(error).__name__).rstrip(".")
