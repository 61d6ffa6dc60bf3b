"""Runs a model over samples and shows the values of chosen tensors, one batch at a time; nothing is kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from workbench.dataset import Dataset
from workbench.errors import DatasetError, TransformError
from workbench.jobs import Progress, silent

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

BATCH = 8  # samples at a time where the model takes any number: larger ones are no faster and take more memory


def observe(
    proto: onnx.ModelProto,
    tensors: Sequence[str],
    dataset: Dataset,
    see: Callable[[dict[str, NDArray[Any]]], None],
    *,
    batch: int = BATCH,
    progress: Progress = silent,
) -> int:
    """Runs the model on every sample and calls `see` with the values of `tensors`, batch by batch.

    Args:
        proto: The model with its weights; it comes back unchanged.
        tensors: Names of tensors of the main graph; inputs of the model are allowed.
        dataset: Samples that fit the model. Where it takes a fixed number at a time, a shorter rest is left out.
        see: Gets the arrays by name, samples along the first axis; they are overwritten by the next batch.
        batch: Samples at a time where the model takes any number.
        progress: Called with the share done and a short text; may raise to cancel.

    Returns:
        How many samples were seen.

    Raises:
        DatasetError: There are fewer samples than the model takes at a time.
        TransformError: ONNX Runtime cannot run the model.
    """
    import onnxruntime

    fixed = _fixed_batch(proto)
    size = fixed or min(batch, len(dataset))
    total = len(dataset) // size * size if fixed else len(dataset)
    if not total:
        raise DatasetError(
            f"{dataset.name} has {len(dataset)} samples, and the model takes {size} at a time.",
            "Give more samples, or export the model with a dynamic batch.",
        )
    fed = [name for name in tensors if name in dataset.inputs]
    inner = [name for name in tensors if name not in dataset.inputs]
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(
            _with_outputs(proto, inner).SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        seen = 0
        for feed in dataset.take(total).batches(size):
            progress(seen / total, f"observing {seen}/{total}")
            values = dict(zip(inner, session.run(inner, feed) if inner else [], strict=True))
            see({**values, **{name: feed[name] for name in fed}})
            seen += len(next(iter(feed.values())))
    except (DatasetError, TransformError):
        raise
    except Exception as error:  # onnxruntime raises its own C++ exception classes
        if type(error).__module__.partition(".")[0] != "onnxruntime":
            raise
        reason = " ".join(str(error).split())[:300].rstrip(".")
        raise TransformError(
            f"ONNX Runtime cannot run the model to observe its tensors: {reason}.", "Check that it runs as it is."
        ) from error
    progress(1.0, f"observed {seen}/{total}")
    return seen


def _fixed_batch(proto: onnx.ModelProto) -> int | None:
    weights = {tensor.name for tensor in proto.graph.initializer}
    for value in proto.graph.input:
        shape = value.type.tensor_type.shape.dim
        if value.name not in weights and shape and shape[0].HasField("dim_value"):
            return int(shape[0].dim_value)
    return None


def _with_outputs(proto: onnx.ModelProto, tensors: Sequence[str]) -> onnx.ModelProto:
    """The model with only `tensors` as outputs; it shares nothing with the original but what Protobuf copies."""
    import onnx

    shown = onnx.ModelProto()
    shown.CopyFrom(proto)
    del shown.graph.output[:]
    shown.graph.output.extend(onnx.ValueInfoProto(name=name) for name in tensors)
    return shown
