"""The teacher's answers by ONNX Runtime, which runs any model, quantized ones too; nothing of it is trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.errors import TransformError
from workbench.model import Model
from workbench.model_file import read_whole

if TYPE_CHECKING:
    from numpy.typing import NDArray

Arrays = Mapping[str, Any]  # by name, samples along the first axis
CHUNK = 128  # samples at a time where any number will do


class Teacher:
    """A model that answers in this process.

    Args:
        model: The teacher.
        features: Tensors of its graph to give besides the outputs.
        threads: Inside one operator.

    Attributes:
        outputs: Names of its outputs.

    Raises:
        TransformError: It has no such tensor, or ONNX Runtime cannot run it.
    """

    def __init__(self, model: Model, features: Sequence[str], threads: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # PyTorch needs the cores between
        source: Any = str(model.path)
        if features:
            source = _with_outputs(model, features)
        self.outputs = [spec.name for spec in model.outputs]
        self._names = [*self.outputs, *(name for name in features if name not in self.outputs)]
        self._size = model.fixed_batch
        try:
            self._session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime raises its own C++ exception classes
            raise _cannot_run(model, error) from error
        self._model = model

    def answer(self, feed: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Outputs and features for any number of samples."""

        def run(part: Arrays) -> dict[str, Any]:
            try:
                return dict(zip(self._names, self._session.run(self._names, dict(part)), strict=True))
            except Exception as error:
                raise _cannot_run(self._model, error) from error

        return in_chunks(feed, self._size, run, np.concatenate)


def in_chunks(
    feed: Arrays, fixed: int | None, run: Callable[[Arrays], Mapping[str, Any]], join: Callable[[list[Any]], Any]
) -> dict[str, Any]:
    """Runs a model over any number of samples, a few at a time.

    Args:
        feed: Arrays or tensors.
        fixed: The only number of samples that the model takes at a time, if so: the last samples are then repeated
            to fill the last chunk up, and their answers left out.
        run: The model.
        join: Makes one array or tensor of several.
    """
    count, size = len(next(iter(feed.values()))), fixed or CHUNK
    parts: list[Mapping[str, Any]] = []
    for start in range(0, count, size):
        part = {name: value[start : start + size] for name, value in feed.items()}
        kept = min(size, count - start)
        if fixed and kept < size:
            part = {name: join([value] + [value[-1:]] * (size - kept)) for name, value in part.items()}
        parts.append({name: value[:kept] for name, value in run(part).items()})
    return {name: join([part[name] for part in parts]) for name in parts[0]}


def _with_outputs(model: Model, tensors: Sequence[str]) -> bytes:
    import onnx

    proto = read_whole(model.path)
    known = {name for node in proto.graph.node for name in node.output if name}
    if unknown := sorted(set(tensors) - known):
        raise TransformError(
            f"The teacher {model.name} has no tensor {', '.join(repr(name) for name in unknown)} to match.",
            "The graph panel shows the names of a node's outputs.",
        )
    given = {value.name for value in proto.graph.output}
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in tensors if name not in given)
    return bytes(proto.SerializeToString())


def _cannot_run(model: Model, error: Exception) -> TransformError:
    reason = " ".join(str(error).split())[:300].rstrip(".")
    return TransformError(
        f"ONNX Runtime cannot run the teacher {model.name}: {reason}.", "Check that the model runs as it is."
    )
