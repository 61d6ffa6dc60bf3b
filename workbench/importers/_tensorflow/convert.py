"""Runs tf2onnx and tidies what comes out: plain names, named axes, words where it cannot convert."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workbench.dataset import Dataset
from workbench.errors import ConversionError
from workbench.importers._tensorflow.operators import handlers
from workbench.importers._tensorflow.words import listed, reason_of
from workbench.model_file import shown

_NHWC_TO_NCHW, _NCHW_TO_NHWC = (0, 3, 1, 2), (0, 2, 3, 1)
_ROWS = 3  # not 1, so that a batch frozen by the conversion shows
_FREE = 32  # random size of a free axis, such as height or sequence length: large enough for strides and kernels


@dataclass(frozen=True)
class Images:
    """Names of the inputs and outputs that have four axes, channels last."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    def notes(self, nchw: bool) -> list[str]:
        """Says which layout they have in ONNX."""
        parts = [("Input", self.inputs), ("Output", self.outputs)]
        layout = "NCHW (channels first), where training had NHWC" if nchw else "NHWC (channels last), as trained"
        return [
            f"{kind}{'s' if len(names) > 1 else ''} {', '.join(names)}: images as {layout}."
            for kind, names in parts
            if names
        ]

    def as_asked(self, name: str, value: NDArray[Any]) -> NDArray[Any]:
        """Turns an output from the trained layout to the one that was asked for."""
        return np.transpose(value, _NHWC_TO_NCHW) if name in self.outputs else value


def to_trained(value: NDArray[Any], turn: bool) -> NDArray[Any]:
    """Turns an image input from channels first to the trained layout."""
    return np.ascontiguousarray(np.transpose(value, _NCHW_TO_NHWC)) if turn else value


def convert(
    where: str,
    graph: Any,
    *,
    names: Mapping[str, str],
    inputs: Sequence[str],
    outputs: Sequence[str],
    opset: int,
    images: Images,
    shapes: Mapping[str, Sequence[int | None]],
    tables: Any = None,
    large: bool = False,
    tflite: Path | None = None,
) -> tuple[Any, Any]:
    """Converts a frozen graph, or a TFLite file.

    Args:
        where: The file, for messages.
        graph: A frozen `GraphDef`; None for a TFLite file.
        names: Tensor → ONNX name of inputs and outputs.
        inputs: Tensors that are fed.
        outputs: Tensors that come out.
        opset: Operator set.
        images: Inputs and outputs, by their ONNX names, to turn to channels first.
        shapes: ONNX name → shape of inputs and outputs as trained; None for a free axis.
        tables: Contents of lookup tables.
        large: Whether the weights do not fit into one protobuf message.
        tflite: The TFLite file.

    Returns:
        The ONNX model, and tf2onnx's store of weights if it is large.

    Raises:
        ConversionError: An operator cannot be converted; the message names it and its nodes.
    """
    import tensorflow as tf
    from tf2onnx import convert as tf2onnx

    tensors = {name: tensor for tensor, name in names.items()}
    complaints = _Complaints()
    logger = logging.getLogger("tf2onnx")
    logger.addHandler(complaints)
    try:
        with tf.device("/cpu:0"):
            proto, storage = tf2onnx._convert_common(
                graph,
                name=Path(where).name,
                continue_on_error=True,
                opset=opset,
                input_names=list(inputs),
                output_names=list(outputs),
                tensors_to_rename=dict(names),
                inputs_as_nchw=[tensors[name] for name in images.inputs],
                outputs_as_nchw=[tensors[name] for name in images.outputs],
                initialized_tables=tables,
                large_model=large,
                tflite_path=str(tflite) if tflite else None,
                custom_op_handlers=handlers(),
            )
    except Exception as error:
        if complaints.failed:
            raise ConversionError(
                f"{where} cannot be converted to ONNX: {complaints.failed[0]}.", _REPLACE, str(error)
            ) from None
        raise
    finally:
        logger.removeHandler(complaints)
    _refuse_unsupported(where, proto, complaints)
    _name_axes(proto, {name: _turn(shape, name in (*images.inputs, *images.outputs)) for name, shape in shapes.items()})
    return proto, storage


_REPLACE = "Replace the layer that uses it before saving, or move that step out of the model; another opset may help."


class _Complaints(logging.Handler):
    """Keeps what tf2onnx logs about single nodes; its exceptions do not say which one it was."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.failed: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if str(record.msg).startswith("Failed to convert node") and record.args:
            error = record.exc_info[1] if record.exc_info else None
            reason = f" ({reason_of(error)})" if isinstance(error, Exception) else ""
            self.failed.append(f"node '{shown(str(next(iter(record.args))))}' fails{reason}")


def _refuse_unsupported(where: str, proto: Any, complaints: _Complaints) -> None:
    """tf2onnx leaves what it does not know in the graph, where no runtime can run it."""
    import onnx

    found: dict[str, list[str]] = {}
    for node in _nodes(proto.graph):
        if node.domain in ("", "ai.onnx") and not onnx.defs.has(node.op_type):
            found.setdefault(node.op_type.removeprefix("TFL_"), []).append(node.name)
    if found:
        places = "; ".join(f"{shown(kind)} ('{listed(nodes, 2)}')" for kind, nodes in sorted(found.items())[:3])
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        raise ConversionError(f"{where} uses operators that have no form in ONNX: {places}{more}.", _REPLACE)
    if complaints.failed:
        raise ConversionError(f"{where} cannot be converted to ONNX: {complaints.failed[0]}.", _REPLACE)


def _nodes(graph: Any) -> list[Any]:
    found = []
    for node in graph.node:
        found.append(node)
        for attribute in node.attribute:
            if attribute.HasField("g"):
                found += _nodes(attribute.g)
    return found


def _turn(shape: Sequence[int | None], turn: bool) -> list[int | None]:
    return [shape[axis] for axis in _NHWC_TO_NCHW] if turn else list(shape)


def _name_axes(proto: Any, shapes: Mapping[str, Sequence[int | None]]) -> None:
    """Names free axes: the first is the batch, the others are called after what they belong to."""
    for value in proto.graph.value_info:
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:  # a name of tf2onnx's own for every single axis
                dim.Clear()
    for value in (*proto.graph.input, *proto.graph.output):
        tensor = value.type.tensor_type
        sizes = shapes.get(value.name)
        if sizes is not None and not tensor.HasField("shape"):
            tensor.shape.SetInParent()
            for _ in sizes:
                tensor.shape.dim.add()
        for axis, dim in enumerate(tensor.shape.dim):
            size = sizes[axis] if sizes is not None and len(sizes) == len(tensor.shape.dim) else max(dim.dim_value, 0)
            if size:
                dim.dim_value = size
            else:
                dim.dim_param = f"{value.name}_axis{axis}" if axis else "batch"


def save(proto: Any, storage: Any, target: Path) -> None:
    """Writes the model; weights that tf2onnx keeps apart go beside it."""
    import onnx

    for name, content in (storage.name_to_tensor_data if storage else {}).items():
        (target.parent / Path(name).name).write_bytes(content)
    onnx.save(proto, target)


def make_samples(proto: Any) -> Dataset | None:
    """Random inputs where the usual ones (0 to 1, free axes of size 1) would say little; None where they serve.

    That is: free axes besides the batch, which strides and kernels need larger; whole numbers of quantized models,
    which use all of their range; and text.
    """
    import onnx

    generator = np.random.default_rng(0)
    arrays: dict[str, NDArray[Any]] = {}
    special = False
    for value in proto.graph.input:
        tensor = value.type.tensor_type
        sizes = [dim.dim_value for dim in tensor.shape.dim]
        special |= 0 in sizes[1:]
        shape = [size or (_FREE if axis else _ROWS) for axis, size in enumerate(sizes)]
        if tensor.elem_type == onnx.TensorProto.STRING:
            special = True
            arrays[value.name] = generator.choice(np.array(["a", "b", "word", ""], dtype=object), shape)
            continue
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
        if dtype in (np.int8, np.uint8):
            special = True
            bounds = np.iinfo(dtype)
            arrays[value.name] = generator.integers(bounds.min, bounds.max + 1, shape).astype(dtype)
        elif np.issubdtype(dtype, np.floating):
            arrays[value.name] = generator.random(shape).astype(dtype)
        else:
            arrays[value.name] = generator.integers(0, 2, shape).astype(dtype)
    same = len({array.shape[:1] for array in arrays.values()}) == 1 and all(array.ndim for array in arrays.values())
    return Dataset(arrays, None, "random values") if special and same else None


def inner_layouts(path: Path, shapes: Mapping[str, tuple[int | None, ...]]) -> dict[str, tuple[int, ...]]:
    """Inner values that the original and the ONNX model both name, with the transposition between their layouts.

    tf2onnx moves transpositions through the graph, so a value may keep its name and change its layout; where sizes
    do not tell which it is, the value is left out.
    """
    import onnx

    proto = onnx.shape_inference.infer_shapes(onnx.load(str(path), load_external_data=False))
    found = {}
    for value in (*proto.graph.value_info, *proto.graph.output):
        if value.name not in shapes or not value.type.tensor_type.HasField("shape"):
            continue
        ours = [dim.dim_value or None for dim in value.type.tensor_type.shape.dim]
        theirs = shapes[value.name]
        same = tuple(range(len(theirs)))
        orders = [same, _NHWC_TO_NCHW] if len(theirs) == 4 else [same]
        fitting = [
            order
            for order in orders
            if len(ours) == len(theirs)
            and all(a is None or b is None or a == b for a, b in zip(ours, (theirs[i] for i in order), strict=True))
        ]
        if len(fitting) == 1:
            found[value.name] = fitting[0]
    return found
