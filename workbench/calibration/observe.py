"""Runs a model over samples and shows the values of chosen tensors, one batch at a time; nothing is kept."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.dataset import Dataset
from workbench.errors import DatasetError, TransformError
from workbench.jobs import Progress, silent

if TYPE_CHECKING:
    import onnx
    import onnxruntime
    from numpy.typing import NDArray

_LARGEST_BATCH = 32
_BATCH_BYTES = 2**26  # of the values shown at a time: larger batches are no faster, as nothing stays in the cache


def observe(
    proto: onnx.ModelProto,
    tensors: Sequence[str],
    dataset: Dataset,
    see: Callable[[dict[str, NDArray[Any]]], None],
    *,
    progress: Progress = silent,
) -> int:
    """Runs the model on every sample and calls `see` with the values of `tensors`, batch by batch.

    Batches are as large as the values shown allow, so memory grows with neither samples nor tensors.

    Args:
        proto: The model with its weights; it comes back unchanged.
        tensors: Names of tensors of the main graph; inputs of the model are allowed.
        dataset: Samples that fit the model. Where it takes a fixed number at a time, a shorter rest is left out.
        see: Gets the arrays by name, samples along the first axis.
        progress: Called with the share done and a short text; may raise to cancel.

    Returns:
        How many samples were seen.

    Raises:
        DatasetError: There are fewer samples than the model takes at a time.
        TransformError: ONNX Runtime cannot run the model.
    """
    fixed = _fixed_batch(proto)
    total = len(dataset) // fixed * fixed if fixed else len(dataset)
    if not total:
        raise DatasetError(
            f"{dataset.name} has {len(dataset)} samples, and the model takes {fixed} at a time.",
            "Give more samples, or export the model with a dynamic batch.",
        )
    fed = [name for name in tensors if name in dataset.inputs]
    inner = [name for name in tensors if name not in dataset.inputs]
    size, seen = fixed or 1, 0
    session = _open(proto, inner)
    while seen < total:
        progress(seen / total, f"observing {seen}/{total}")
        feed = {name: np.ascontiguousarray(array[seen : seen + size]) for name, array in dataset.inputs.items()}
        shown = dict(zip(inner, _run(session, inner, feed), strict=True)) if inner else {}
        shown.update({name: feed[name] for name in fed})
        if not seen and not fixed:
            size = _batch_for(sum(array.nbytes for array in shown.values()))
        seen += len(next(iter(feed.values())))
        see(shown)
    progress(1.0, f"observed {total}/{total}")
    return total


def _batch_for(sample_bytes: int) -> int:
    return max(1, min(_LARGEST_BATCH, _BATCH_BYTES // max(sample_bytes, 1)))


def _fixed_batch(proto: onnx.ModelProto) -> int | None:
    weights = {tensor.name for tensor in proto.graph.initializer}
    for value in proto.graph.input:
        shape = value.type.tensor_type.shape.dim
        if value.name not in weights and shape and shape[0].HasField("dim_value"):
            return int(shape[0].dim_value)
    return None


def _open(proto: onnx.ModelProto, tensors: Sequence[str]) -> onnxruntime.InferenceSession:
    """A session that gives `tensors`; its memory is given back after every run instead of kept for the next."""
    import onnx
    import onnxruntime
    from google.protobuf.message import EncodeError

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.enable_cpu_mem_arena = options.enable_mem_pattern = False
    outputs = list(proto.graph.output)
    del proto.graph.output[:]
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in tensors or [outputs[0].name])
    try:
        with tempfile.TemporaryDirectory() as folder:
            source: bytes | str
            try:
                source = proto.SerializeToString()
            except (ValueError, EncodeError):  # more than the 2 GB that a message can have
                source = str(Path(folder) / "shown.onnx")
                whole = onnx.ModelProto()
                whole.CopyFrom(proto)  # what is saved beside a file is taken out of the message
                onnx.save(whole, source, save_as_external_data=True, location="shown.data")
                del whole
            try:
                session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
            except Exception as error:  # onnxruntime raises its own C++ exception classes
                raise _refused(error) from error
            del source
    finally:
        del proto.graph.output[:]
        proto.graph.output.extend(outputs)
    return session


def _run(session: onnxruntime.InferenceSession, tensors: Sequence[str], feed: dict[str, NDArray[Any]]) -> Any:
    try:
        return session.run(list(tensors), feed)
    except Exception as error:  # onnxruntime raises its own C++ exception classes
        raise _refused(error) from error


def _refused(error: Exception) -> TransformError:
    reason = " ".join(str(error).split())[:300].rstrip(".")
    return TransformError(
        f"ONNX Runtime cannot run the model to observe its tensors: {reason}.", "Check that it runs as it is."
    )
