"""What the transforms that rewrite a whole model in memory share: writing it, and what libraries say."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

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


def reason_of(error: Exception) -> str:
    """What a library says, short enough for a sentence of ours."""
    said = " ".join(str(error).split()).rpartition(" failed: ")[2]  # behind a place in its source code
    return (said[:300] or type(error).__name__).rstrip(".")
