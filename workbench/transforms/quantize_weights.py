"""Weight-only quantization: matrices to INT8 or INT4, block by block; activations stay in float; needs no samples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from workbench.dataset import Dataset
from workbench.errors import TransformError
from workbench.graph.shapes import STANDARD
from workbench.jobs import Progress
from workbench.model import Model
from workbench.options import option
from workbench.transforms._blocks import pack_pairs, round_blocks
from workbench.transforms._onnx import refuse_quantized, write_whole
from workbench.transforms._surgery import Surgery, attribute, check_names

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

REQUIRES = {"onnxruntime": "cpu", "onnx": "cpu"}
NEEDS_DATASET = False

_BLOCKED_OPSET = 21  # the first whose DequantizeLinear takes blocks and 4 bits
_CHANNELS_OPSET = 13  # the first whose DequantizeLinear takes one scale per channel
_MICROSOFT = "com.microsoft"
_NAMED = 5  # nodes in a note
_SMALLEST = 16  # block that MatMulNBits takes
_WEIGHT = {"Conv": 1, "ConvTranspose": 1, "Gather": 0, "Gemm": 1, "MatMul": 1}


@dataclass(frozen=True)
class Options:
    """What is rounded, how finely, and in which form it is written."""

    bits: Annotated[Literal["8", "4"], option("Of each weight; with 4, check the accuracy.")] = "8"
    block_size: Annotated[
        Literal["16", "32", "64", "128", "256"],
        option("Weights that share a scale: small blocks are more exact and take more room."),
    ] = "32"
    form: Annotated[
        Literal["operator", "qdq"],
        option(
            "operator is MatMulNBits, for ONNX Runtime and OpenVINO; qdq is ONNX's own (opset 21), for TensorRT too."
        ),
    ] = "operator"
    convolutions: Annotated[
        bool,
        option("Weights of convolutions too, INT8 per channel: smaller, but slower, as each inference unpacks them."),
    ] = False
    embeddings: Annotated[bool, option("Tables of embeddings too (Gather), INT8 per row.")] = False
    symmetric: Annotated[bool, option("Without zero points; TensorRT takes nothing else.", advanced=True)] = True
    arithmetic: Annotated[
        Literal["int8", "float32"],
        option(
            "What MatMulNBits multiplies in: int8 rounds activations as well, block by block; float32 is more exact, "
            "and in 8 bits about 3 times slower than a float model.",
            advanced=True,
        ),
    ] = "int8"
    keep_float: Annotated[tuple[str, ...], option("Names of nodes that stay in float.", advanced=True)] = ()


def apply(model: Model, options: Options, dataset: Dataset | None, target: Path, progress: Progress) -> tuple[str, ...]:
    """Writes the model with rounded weights: for size, and for models whose speed is that of reading their weights.

    A matrix stays in float where that takes no more room, and in the qdq form where no block divides its rows, which
    OpenVINO insists on. ONNX Runtime and OpenVINO round activations as well where they fuse the qdq form.

    Returns:
        Which matrices stay in float, where any do.

    Raises:
        TransformError: There is nothing to quantize, the model is quantized already, or a name does not exist.
    """
    progress(0.05, "reading the model")
    writer = _Writer(Surgery(model, _BLOCKED_OPSET if options.form == "qdq" else _CHANNELS_OPSET), options)
    refuse_quantized(writer.surgery.proto, model)
    check_names(writer.surgery.proto, options.keep_float, model.name)
    nodes = list(writer.surgery.nodes)
    made: list[onnx.NodeProto] = []
    for done, node in enumerate(nodes):
        progress(0.1 + 0.8 * done / len(nodes), f"rounding {node.name}")
        made += [node] if node.name in options.keep_float else writer.rewrite(node)
    if not writer.rounded:
        raise TransformError(
            f"{model.name} has nothing that weight-only quantization makes smaller: no matrix product with a constant "
            f"float32 matrix that blocks of {options.block_size} fit.",
            "Try smaller blocks; convolutions and embeddings are options of their own, and quantize_static is for "
            "convolutional models that are to be faster.",
        )
    progress(0.9, "writing the model")
    write_whole(writer.finish(made), target)
    if not writer.left:
        return ()
    named = ", ".join(writer.left[:_NAMED]) + (f" and {count} more" if (count := len(writer.left) - _NAMED) > 0 else "")
    return (f"In float, as it would be no smaller or no block fits: {named}.",)


class _Writer:
    """Rewrites node after node, and keeps what it has rounded for the nodes that share a weight."""

    def __init__(self, surgery: Surgery, options: Options) -> None:
        self.surgery = surgery
        self.rounded: dict[tuple[str, ...], list[str]] = {}  # constants made, by what they were made of
        self.left: list[str] = []  # nodes whose weights stay as they are
        self._options = options
        self._bits, self._block = int(options.bits), int(options.block_size)

    def rewrite(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """The nodes that take the place of one; itself where nothing is to be rounded."""
        place = _WEIGHT.get(node.op_type) if node.domain in STANDARD else None
        weight = None if place is None else self.surgery.constant(node.input[place])
        if weight is None or not weight.size:
            return [node]
        if node.op_type in ("Conv", "ConvTranspose"):
            return self._convolution(node, weight) if self._options.convolutions else [node]
        if weight.ndim != 2 or attribute(node, "transA", 0):
            return [node]
        if node.op_type == "Gather":
            return self._embedding(node, weight) if self._options.embeddings else [node]
        return self._operator(node, weight) if self._options.form == "operator" else self._blocked(node, weight)

    def finish(self, nodes: list[onnx.NodeProto]) -> onnx.ModelProto:
        """The whole model."""
        import onnx

        proto = self.surgery.finish(nodes)
        known = {entry.domain for entry in proto.opset_import}
        if _MICROSOFT not in known and any(node.domain == _MICROSOFT for node in nodes):
            proto.opset_import.append(onnx.helper.make_opsetid(_MICROSOFT, 1))
        return proto

    def _operator(self, node: onnx.NodeProto, weight: NDArray[Any]) -> list[onnx.NodeProto]:
        """MatMulNBits, and an addition where a Gemm had one."""
        import onnx

        turned = bool(attribute(node, "transB", 0))
        rows, columns = weight.T.shape if turned else weight.shape
        size = min(self._block, max(_SMALLEST, 1 << (rows - 1).bit_length()))
        alpha, beta = attribute(node, "alpha", 1.0), attribute(node, "beta", 1.0)
        third = node.input[2] if len(node.input) > 2 else ""
        added = self.surgery.constant(third) if third else None
        if third and beta != 1 and added is None:
            return [node]

        def make() -> list[NDArray[Any]]:
            matrix = alpha * (weight.T if turned else weight)
            blocks = round_blocks(matrix, self._bits, size, symmetric=self._options.symmetric, negative=True)
            steps = blocks.steps.transpose(2, 0, 1)  # (N, blocks, block size)
            arrays: list[NDArray[Any]] = [pack_pairs(steps) if self._bits == 4 else steps, blocks.scale.T.ravel()]
            if not self._options.symmetric:
                zero = blocks.zero.T  # (N, blocks)
                arrays.append((pack_pairs(zero) if self._bits == 4 else zero).ravel())
            return arrays

        names = self._constants(node, (node.input[1], "operator", str(turned), str(alpha)), weight, make)
        if not names:
            return [node]
        product = onnx.helper.make_node(
            "MatMulNBits",
            [node.input[0], *names],
            list(node.output),
            name=node.name,
            domain=_MICROSOFT,
            K=rows,
            N=columns,
            bits=self._bits,
            block_size=size,
            accuracy_level={"float32": 1, "int8": 4}[self._options.arithmetic],
        )
        if not third:
            return [product]
        if added is not None and beta != 1:
            third = self.surgery.add_constant(third, beta * added)
        product.output[0] = self.surgery.fresh(f"{node.output[0]}/product")
        return [
            product,
            onnx.helper.make_node("Add", [product.output[0], third], list(node.output), name=f"{node.name}/add"),
        ]

    def _blocked(self, node: onnx.NodeProto, weight: NDArray[Any]) -> list[onnx.NodeProto]:
        """DequantizeLinear over blocks before the node."""
        axis = 1 if attribute(node, "transB", 0) else 0
        size = self._dividing(weight.shape[axis])
        names = self._constants(
            node, (node.input[1], "qdq", str(axis)), weight, lambda: self._signed(weight, axis, size)
        )
        return self._dequantized(node, 1, names, axis=axis, block_size=size) if names else [node]

    def _embedding(self, node: onnx.NodeProto, weight: NDArray[Any]) -> list[onnx.NodeProto]:
        """Rows are looked up as they are stored and multiplied by their scales after that."""
        import onnx

        if attribute(node, "axis", 0) != 0:
            return [node]
        names = self._constants(node, (node.input[0], "rows"), weight, lambda: _per_channel(weight, 0, keep_axes=True))
        if not names:
            return [node]
        output = node.output[0]
        steps, scale, values = (self.surgery.fresh(f"{output}/{part}") for part in ("steps", "scale", "values"))
        return [
            onnx.helper.make_node("Gather", [names[0], node.input[1]], [steps], name=node.name),
            onnx.helper.make_node("Gather", [names[1], node.input[1]], [scale], name=scale),
            onnx.helper.make_node("Cast", [steps], [values], name=values, to=onnx.TensorProto.FLOAT),
            onnx.helper.make_node("Mul", [values, scale], [output], name=f"{node.name}/scale"),
        ]

    def _convolution(self, node: onnx.NodeProto, weight: NDArray[Any]) -> list[onnx.NodeProto]:
        """DequantizeLinear with a scale for each output channel before the node."""
        axis = 0
        if node.op_type == "ConvTranspose":  # (inputs, outputs per group, …): with groups, an axis of no channel
            axis = 1 if attribute(node, "group", 1) == 1 else 0
        key = (node.input[1], "channels", str(axis))
        names = self._constants(node, key, weight, lambda: _per_channel(weight, axis))
        return self._dequantized(node, 1, names, axis=axis) if names else [node]

    def _signed(self, weight: NDArray[Any], axis: int, size: int) -> list[NDArray[Any]]:
        """Steps as ONNX stores them, in the weight's own shape, their scales, and zero points where they have any."""
        import numpy as np
        import onnx

        if not size:
            return []
        symmetric = self._options.symmetric
        matrix = weight.T if axis else weight
        blocks = round_blocks(matrix, self._bits, size, symmetric=symmetric, negative=False)
        steps, zero = blocks.steps.reshape(matrix.shape), blocks.zero
        kinds = onnx.TensorProto
        kind = {
            (8, True): kinds.INT8,
            (8, False): kinds.UINT8,
            (4, True): kinds.INT4,
            (4, False): kinds.UINT4,
        }[self._bits, symmetric]
        dtype = onnx.helper.tensor_dtype_to_np_dtype(kind)
        if symmetric:
            arrays = [(steps.astype(np.int16) - 2 ** (self._bits - 1)).astype(np.int8).astype(dtype), blocks.scale]
        else:
            arrays = [steps.astype(dtype), blocks.scale, zero.astype(dtype)]
        return [array.T if axis else array for array in arrays]

    def _dividing(self, length: int) -> int:
        """The block size, halved until it divides the length as not all runtimes take a rest; 0 if none does."""
        size = self._block
        while size >= _SMALLEST and length % size:
            size //= 2
        return size if size >= _SMALLEST else 0

    def _constants(
        self, node: onnx.NodeProto, key: tuple[str, ...], weight: NDArray[Any], make: Callable[[], list[NDArray[Any]]]
    ) -> list[str]:
        """Names of the arrays that stand for a node's weight; none where they take no less room."""
        if key not in self.rounded:
            arrays = make()
            if not arrays or sum(map(_bytes, arrays)) >= weight.nbytes:
                self.left.append(node.name)
                return []
            names = zip(arrays, ("steps", "scale", "zero"), strict=False)
            self.rounded[key] = [self.surgery.add_constant(f"{key[0]}/{part}", array) for array, part in names]
        return self.rounded[key]

    def _dequantized(
        self, node: onnx.NodeProto, place: int, names: list[str], **attributes: Any
    ) -> list[onnx.NodeProto]:
        """The node with a weight that is dequantized before it; one of its own, as runtimes fuse the two."""
        import onnx

        weight = self.surgery.fresh(f"{node.input[place]}/float")
        node.input[place] = weight
        return [onnx.helper.make_node("DequantizeLinear", names, [weight], name=weight, **attributes), node]


def _per_channel(weight: NDArray[Any], axis: int, keep_axes: bool = False) -> list[NDArray[Any]]:
    """INT8 steps of the weight's shape, and a scale for each index of an axis."""
    import numpy as np

    others = tuple(place for place in range(weight.ndim) if place != axis)
    scale = np.abs(weight).max(axis=others, keepdims=True) / np.float32(127)
    scale = np.where(scale, scale, 1).astype(np.float32)
    return [np.rint(weight / scale).astype(np.int8), scale if keep_axes else scale.reshape(-1)]


def _bytes(array: NDArray[Any]) -> int:
    """Bytes in a file, where numbers of 4 bits are packed."""
    return (array.size + 1) // 2 if array.dtype.name.endswith("int4") else array.nbytes
