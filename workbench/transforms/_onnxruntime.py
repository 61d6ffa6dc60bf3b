"""What the transforms over onnxruntime's quantizer share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from workbench.errors import TransformError
from workbench.model import Model
from workbench.model_file import read_whole
from workbench.model_inference import infer
from workbench.skeleton import read_skeleton
from workbench.transforms._onnx import reason_of, write_whole

if TYPE_CHECKING:
    import onnx

_OLDEST_OPSET = 13  # scales per channel
# Nothing can be folded into these, nor they into anything, so a graph of them alone is as onnxruntime would leave it.
_PLAIN = {
    *("Conv", "Gemm", "Relu", "LeakyRelu", "Clip", "Sigmoid", "HardSwish", "Softmax", "Add", "Concat", "Flatten"),
    *("MaxPool", "AveragePool", "GlobalAveragePool"),
}


def prepare(model: Model, target: Path) -> Path:
    """Writes the model as the quantizer wants it: shapes inferred, BatchNorm folded, constants folded.

    Raises:
        TransformError: onnxruntime cannot load or optimize the model.
    """
    from onnxruntime.quantization import quant_pre_process

    # Given a path, it works on a copy elsewhere, where it does not find external data; given a model, it puts the
    # shapes of Reshape into a file where onnxruntime cannot read them.
    source = model.path
    if model.external_files:
        source = target.with_name("whole.onnx")
        write_whole(read_whole(model.path), source)
    try:
        quant_pre_process(str(source), str(target), skip_symbolic_shape=True)
    except Exception as error:  # onnxruntime raises its own C++ exception classes here
        raise _unprepared(model, error) from error
    return target


def _unprepared(model: Model, error: Exception) -> TransformError:
    return TransformError(
        f"onnxruntime cannot prepare {model.name} for quantization: {reason_of(error)}.",
        "Check that the model runs as it is, and simplify it or raise its opset if it does.",
    )


def read_prepared(model: Model, scratch: Path) -> onnx.ModelProto:
    """The model as quantization wants it: BatchNorm and constants folded, types and shapes of all tensors inferred.

    Args:
        model: The float model.
        scratch: A folder for what is written on the way.

    Raises:
        TransformError: onnxruntime cannot load or optimize the model.
    """
    import onnx
    import onnxruntime

    if model.opset < _OLDEST_OPSET or model.external_files:
        return onnx.load(str(prepare(model, scratch / "prepared.onnx")))
    # The same by hand: nothing is read, written or inferred with all of the weights more often than need be.
    proto, path = onnx.load(str(model.path)), model.path
    if not _is_folded(proto):
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(path := scratch / "optimized.onnx")
        try:
            onnxruntime.InferenceSession(str(model.path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime raises its own C++ exception classes
            raise _unprepared(model, error) from error
        proto = onnx.load(str(path))
    named = read_skeleton(path)
    for node, unique in zip(proto.graph.node, named.graph.node, strict=True):
        node.name = unique.name
    del proto.graph.value_info[:]
    proto.graph.value_info.extend(infer(named).graph.value_info)
    return proto


def _is_folded(proto: onnx.ModelProto) -> bool:
    """Whether there is nothing to fold: plain operators only, each of them with something that changes to work on."""
    constants = {tensor.name for tensor in proto.graph.initializer} - {value.name for value in proto.graph.input}
    plain = all(node.op_type in _PLAIN and not node.domain for node in proto.graph.node)
    return plain and all(
        set(filter(None, node.input)) - constants
        and (node.op_type != "Add" or not set(node.input) & constants)  # may be the bias of what is before it
        for node in proto.graph.node
    )
