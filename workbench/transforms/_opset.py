"""A model in memory brought to a newer opset, for the transforms whose operators are that new."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from workbench.errors import TransformError
from workbench.model_rules import default_opset
from workbench.transforms._onnx import reason_of

if TYPE_CHECKING:
    import onnx

_SMALL = 1024  # bytes; the converter reads the values of shapes and axes, never those of weights


def raise_opset(proto: onnx.ModelProto, wanted: int, name: str) -> None:
    """Converts in place (ONNX's version converter); a model that is as new already stays as it is.

    Args:
        proto: The model with its weights, which stay as they are whatever their size.
        wanted: The opset to reach.
        name: Of the model, for the message.

    Raises:
        TransformError: The converter lacks an operator.
    """
    had = default_opset(proto)
    if had >= wanted:
        return
    with _weights_aside(proto):
        try:
            _convert(proto, wanted)
        except Exception as error:  # the converter raises RuntimeError, the checker its own
            raise TransformError(
                f"ONNX's converter cannot bring {name} from opset {had} to {wanted}: {reason_of(error)}.",
                "Choose an opset in between, or export the model again with the newer one.",
            ) from error


def _convert(proto: onnx.ModelProto, wanted: int) -> None:
    import onnx.inliner
    import onnx.version_converter

    # Bodies of functions would stay in the old opset.
    plain = onnx.inliner.inline_local_functions(proto) if proto.functions else proto
    converted = onnx.version_converter.convert_version(plain, wanted)
    converted.ir_version = max(converted.ir_version, onnx.helper.find_min_ir_version_for(converted.opset_import, True))
    onnx.checker.check_model(converted)
    proto.CopyFrom(converted)


@contextlib.contextmanager
def _weights_aside(proto: onnx.ModelProto) -> Iterator[None]:
    """Makes inputs of the weights for a while: the converter copies all that it gets, and takes 2 GB at most."""
    import onnx

    fed = {value.name for value in proto.graph.input}
    kept = [tensor for tensor in proto.graph.initializer if tensor.ByteSize() <= _SMALL or tensor.name in fed]
    aside = [tensor for tensor in proto.graph.initializer if tensor.ByteSize() > _SMALL and tensor.name not in fed]
    for tensor in aside:
        proto.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    weights, small = onnx.GraphProto(initializer=aside), onnx.GraphProto(initializer=kept)
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(small.initializer)
    yield
    names = {tensor.name for tensor in weights.initializer}
    for place in reversed(range(len(proto.graph.input))):
        if proto.graph.input[place].name in names:
            del proto.graph.input[place]
    proto.graph.initializer.extend(weights.initializer)
