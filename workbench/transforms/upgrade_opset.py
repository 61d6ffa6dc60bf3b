"""Another opset: the model in the words of a newer version of ONNX, for tools that ask for one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from workbench.dataset import Dataset
from workbench.errors import TransformError
from workbench.jobs import Progress
from workbench.model import Model
from workbench.model_file import read_whole
from workbench.options import option
from workbench.transforms._onnx import reason_of, write_whole

if TYPE_CHECKING:
    import onnx

REQUIRES = {"onnxruntime": "cpu", "onnx": "cpu"}
NEEDS_DATASET = False

_SMALL = 1024  # bytes; the converter reads the values of shapes and axes, never those of weights


@dataclass(frozen=True)
class Options:
    """Where to."""

    target: Annotated[
        int, option("Opset to convert to; 0 takes the newest that ONNX Runtime runs here.", minimum=0, maximum=99)
    ] = 0


def apply(model: Model, options: Options, dataset: Dataset | None, target: Path, progress: Progress) -> None:
    """Writes the model in another opset (ONNX's version converter); weights of any size stay as they are.

    Raises:
        TransformError: The opset is not known here or older than the model's, or the converter lacks an operator.
    """
    newest = _newest_opset()
    wanted = options.target or max(newest, model.opset)
    if wanted > newest:
        raise TransformError(
            f"ONNX Runtime runs opsets up to {newest} here, and {model.name} was to get {wanted}.",
            "Choose an older one, or update ONNX Runtime.",
        )
    if wanted < model.opset:
        raise TransformError(
            f"{model.name} has opset {model.opset} already, and {wanted} is older: not every model can go back.",
            "Export the model again with that opset.",
        )
    progress(0.1, "reading the model")
    proto = read_whole(model.path)
    progress(0.3, f"converting to opset {wanted}")
    if wanted > model.opset:
        with _weights_aside(proto):
            try:
                _convert(proto, wanted)
            except Exception as error:  # the converter raises RuntimeError, the checker its own
                raise TransformError(
                    f"ONNX's converter cannot bring {model.name} from opset {model.opset} to {wanted}: "
                    f"{reason_of(error)}.",
                    "Choose an opset in between, or export the model again with the newer one.",
                ) from error
    progress(0.8, "writing the model")
    write_whole(proto, target)


def _convert(proto: onnx.ModelProto, wanted: int) -> None:
    import onnx.inliner
    import onnx.version_converter

    # Bodies of functions would stay in the old opset.
    plain = onnx.inliner.inline_local_functions(proto) if proto.functions else proto
    converted = onnx.version_converter.convert_version(plain, wanted)
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


def _newest_opset() -> int:
    """The newest opset that ONNX Runtime takes, found by asking it."""
    import onnx
    import onnxruntime

    onnxruntime.set_default_logger_severity(4)  # its refusals are the answer, not news
    value = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in "xy"]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "probe", value[:1], value[1:])
    for version in range(onnx.defs.onnx_opset_version(), 1, -1):
        probe = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", version)], ir_version=8)
        with contextlib.suppress(Exception):  # onnxruntime raises its own C++ exception classes
            onnxruntime.InferenceSession(probe.SerializeToString(), providers=["CPUExecutionProvider"])
            return version
    raise TransformError("ONNX Runtime takes no opset that this ONNX knows.", "Update both packages.")
