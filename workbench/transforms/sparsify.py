"""Zeros in the weights: a smaller file once it is packed, and speed where sparse tensor cores are; none on a CPU."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray

from workbench.dataset import Dataset
from workbench.errors import TransformError
from workbench.graph.shapes import STANDARD
from workbench.jobs import Progress
from workbench.model import Model
from workbench.model_file import read_whole
from workbench.options import option
from workbench.skeleton import read_skeleton
from workbench.transforms._onnx import refuse_quantized, write_whole

if TYPE_CHECKING:
    import onnx

REQUIRES = {"onnxruntime": "cpu", "onnx": "cpu"}
NEEDS_DATASET = False

_OF_FOUR = 2  # that stay


@dataclass(frozen=True)
class Options:
    """Which weights become zero: in each layer the smallest. Processors compute zeros like any other number."""

    pattern: Annotated[
        Literal["unstructured", "2:4"],
        option(
            "Anywhere: gains nothing in speed on a CPU, only a smaller file when it is packed (zip, gzip). 2:4 is two "
            "of every four along the input channels: TensorRT can use it on Ampere GPUs and later, CPUs cannot."
        ),
    ] = "unstructured"
    share: Annotated[
        float,
        option("Weights of each layer that become zero, where they may lie anywhere.", minimum=0, maximum=99, unit="%"),
    ] = 50.0
    keep: Annotated[tuple[str, ...], option("Names of nodes whose weights stay as they are.", advanced=True)] = ()


def apply(model: Model, options: Options, dataset: Dataset | None, target: Path, progress: Progress) -> tuple[str, ...]:
    """Writes the model with the smallest weights of each Conv, Gemm and MatMul set to zero.

    Han et al., Learning both Weights and Connections, NeurIPS 2015, without the training in between. 2:4 is the pattern
    of NVIDIA's sparse tensor cores (Mishra et al., Accelerating Sparse Deep Neural Networks, arXiv:2104.08378, 2021).

    Raises:
        TransformError: The model is quantized, has no such layer, or a name does not exist.
    """
    import onnx

    progress(0.1, "reading the model")
    proto = read_whole(model.path)
    refuse_quantized(proto, model)
    names = [node.name for node in read_skeleton(model.path).graph.node]
    if unknown := sorted(set(options.keep) - set(names)):
        raise TransformError(
            f"{model.name} has no node named {', '.join(map(repr, unknown))} whose weights could stay.",
            "The graph panel shows the names.",
        )
    axes = _weights(proto, {place for place, name in enumerate(names) if name in options.keep})
    if not axes:
        raise TransformError(
            f"{model.name} has no weights to set to zero: no Conv, Gemm or MatMul with constant ones.",
            "Choose another transform, or keep fewer layers.",
        )
    zeros = numbers = 0
    for done, (name, (tensor, axis)) in enumerate(axes.items()):
        progress(0.2 + 0.7 * done / len(axes), f"thinning out {name}")
        array = onnx.numpy_helper.to_array(tensor)
        sizes = np.abs(array.astype(np.float32))
        mask = _two_of_four(sizes, axis) if options.pattern == "2:4" else _largest(sizes, options.share)
        thin = np.where(mask, array, np.zeros((), array.dtype))
        tensor.CopyFrom(onnx.numpy_helper.from_array(thin, name))
        zeros, numbers = zeros + int((thin == 0).sum()), numbers + thin.size
    progress(0.9, "writing the model")
    write_whole(proto, target)
    return (
        f"{zeros:,} of {numbers:,} weights are zero ({100 * zeros / numbers:.0f} %); the file keeps its size until it "
        "is packed.",
    )


def _weights(proto: onnx.ModelProto, kept: set[int]) -> dict[str, tuple[onnx.TensorProto, int]]:
    """The weights that only layers read, and none that stays as it is; with the axis of their input channels."""
    tensors = {tensor.name: tensor for tensor in proto.graph.initializer}
    for node in proto.graph.node:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].HasField("t"):
            tensors[node.output[0]] = node.attribute[0].t
    found: dict[str, tuple[onnx.TensorProto, int]] = {}
    barred: set[str] = {value.name for value in proto.graph.output}
    for place, node in enumerate(proto.graph.node):
        axis = _input_axis(node) if node.domain in STANDARD and place not in kept else None
        for number, name in enumerate(node.input):
            if number == 1 and axis is not None and name in tensors and len(tensors[name].dims) >= 2:
                found[name] = tensors[name], axis % len(tensors[name].dims)
            else:
                barred.add(name)
    return {name: entry for name, entry in found.items() if name not in barred}


def _input_axis(node: onnx.NodeProto) -> int | None:
    """The axis of the weights in input 1 that reads channels; None where there are no such weights."""
    if node.op_type == "Gemm":
        return int(next((entry.i for entry in node.attribute if entry.name == "transB"), 0))
    return {"Conv": 1, "ConvTranspose": 0, "MatMul": -2}.get(node.op_type)


def _largest(sizes: NDArray[Any], share: float) -> NDArray[np.bool_]:
    """Which stay: all but the smallest share."""
    mask = np.ones(sizes.size, bool)
    mask[np.argsort(sizes, axis=None, kind="stable")[: int(sizes.size * share / 100)]] = False
    return mask.reshape(sizes.shape)


def _two_of_four(sizes: NDArray[Any], axis: int) -> NDArray[np.bool_]:
    """Which stay: the two largest of every four along an axis; all where it does not divide into fours."""
    if sizes.shape[axis] % 4:
        return np.ones(sizes.shape, bool)
    last = np.moveaxis(sizes, axis, -1)
    fours = last.reshape(-1, 4)
    mask = np.zeros(fours.shape, bool)
    np.put_along_axis(mask, np.argsort(-fours, axis=1, kind="stable")[:, :_OF_FOUR], True, axis=1)
    return np.moveaxis(mask.reshape(last.shape), -1, axis)
