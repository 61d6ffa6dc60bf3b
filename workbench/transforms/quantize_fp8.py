"""FP8 quantization: weights and activations as 8-bit floats, for NVIDIA GPUs from Ada on; ranges from samples."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from workbench.calibration import collect
from workbench.dataset import Dataset
from workbench.errors import TransformError
from workbench.graph.shapes import STANDARD
from workbench.jobs import Progress, part_of
from workbench.model import Model
from workbench.options import option
from workbench.transforms._onnx import refuse_quantized, write_whole
from workbench.transforms._surgery import Surgery, attribute, check_names

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

REQUIRES = {"onnxruntime": "cpu", "onnx": "cpu"}
NEEDS_DATASET = True

_OPSET = 19  # the first whose QuantizeLinear takes FP8
_LARGEST = 448.0  # of float8e4m3fn: four bits of exponent, three of fraction


@dataclass(frozen=True)
class Options:
    """How ranges are found and what is quantized."""

    samples: Annotated[int, option("Calibration samples to use.", minimum=1, maximum=4096, unit="samples")] = 128
    convolutions: Annotated[bool, option("Convolutions too, as far as they are not depthwise.")] = True
    attention: Annotated[bool, option("Products of two activations too, as in attention.", advanced=True)] = True
    per_channel: Annotated[bool, option("One scale per output channel of the weights.", advanced=True)] = True
    keep_float: Annotated[tuple[str, ...], option("Names of nodes that stay in float.", advanced=True)] = ()


def apply(model: Model, options: Options, dataset: Dataset, target: Path, progress: Progress) -> tuple[str, ...]:
    """Writes the model with Q/DQ nodes in float8e4m3fn before convolutions and matrix products.

    Scales put the largest absolute value seen on 448, the largest of the type: an FP8 number carries its own exponent,
    so that finer choices of the range, as INT8 needs them, gain nothing (Micikevicius et al., "FP8 formats for deep
    learning", 2022, arXiv:2209.05433, section 4). Weights are stored in FP8, biases stay as they are.

    Returns:
        What the user should know: not every backend runs it.

    Raises:
        TransformError: There is nothing to quantize, the model is quantized already, or a name does not exist.
        DatasetError: There are too few samples, or they lead to NaN or infinite values.
    """
    progress(0.02, "reading the model")
    surgery = Surgery(model, _OPSET)
    refuse_quantized(surgery.proto, model)
    check_names(surgery.proto, options.keep_float, model.name)
    types = surgery.element_types(model)
    places = {
        node.name: _places(node, surgery, options)
        for node in surgery.nodes
        if node.name not in options.keep_float and all(types.get(name) == "float32" for name in node.input[:2])
    }
    activations = sorted(
        {
            node.input[place]
            for node in surgery.nodes
            for place in places.get(node.name, ())
            if surgery.constant(node.input[place]) is None
        }
    )
    if not activations:
        raise TransformError(
            f"{model.name} has nothing to compute in FP8: no convolution or matrix product in float32 that the options "
            "let through.",
            "FP8 suits models of large convolutions and matrix products; use float16 for others.",
        )
    found = collect(
        surgery.proto,
        activations,
        dataset.take(options.samples),
        bins=False,
        progress=part_of(progress, 0.05, 0.85),
    )
    largest = {name: max(-one.histogram.low, one.histogram.high) for name, one in found.items()}
    writer = _Writer(surgery, largest, options.per_channel)
    nodes = [made for node in list(surgery.nodes) for made in writer.rewrite(node, places.get(node.name, ()))]
    progress(0.9, "writing the model")
    write_whole(surgery.finish(nodes), target)
    return (
        "This is for TensorRT on GPUs from SM89 (Ada) on. OpenVINO computes it on processors, in float. ONNX Runtime "
        "runs it with graph_level basic or disabled only: above, it refuses it or gives wrong answers, as it takes a "
        "ReLU before an FP8 QuantizeLinear for superfluous.",
    )


def _places(node: onnx.NodeProto, surgery: Surgery, options: Options) -> tuple[int, ...]:
    """Which inputs of a node are quantized: the first two, or none."""
    if node.op_type not in ("Conv", "Gemm", "MatMul") or node.domain not in STANDARD:
        return ()
    weight = surgery.constant(node.input[1])
    if node.op_type == "Conv":
        depthwise = attribute(node, "group", 1) > 1
        return (0, 1) if options.convolutions and weight is not None and not depthwise else ()
    if weight is None and surgery.constant(node.input[0]) is None:
        return (0, 1) if options.attention else ()
    return (0, 1)


class _Writer:
    """Puts Q/DQ pairs before nodes; one pair for each tensor, whoever reads it."""

    def __init__(self, surgery: Surgery, largest: dict[str, float], per_channel: bool) -> None:
        self._surgery, self._largest, self._per_channel = surgery, largest, per_channel
        self._done: dict[tuple[str, int | None], str] = {}
        self._zeros: dict[int, str] = {}

    def rewrite(self, node: onnx.NodeProto, places: tuple[int, ...]) -> Iterator[onnx.NodeProto]:
        """The node behind what quantizes its inputs."""
        for place in places:
            name = node.input[place]
            weight = self._surgery.constant(name)
            axis = None if weight is None or not self._per_channel else _channel(node, place, weight.ndim)
            key = (name, axis)
            if key not in self._done:
                self._done[key] = self._surgery.fresh(f"{name}/fp8")
                yield from self._pair(name, key) if weight is None else self._stored(name, weight, key)
            node.input[place] = self._done[key]
        yield node

    def _pair(self, name: str, key: tuple[str, int | None]) -> Iterator[onnx.NodeProto]:
        """Quantizes and dequantizes an activation."""
        import numpy as np
        import onnx

        largest = self._largest[name]
        scale = np.float32(largest / _LARGEST if largest else 1.0)
        output = self._done[key]
        parameters = [self._surgery.add_constant(f"{name}/fp8_scale", np.array(scale)), self._zero(0)]
        rounded = self._surgery.fresh(f"{name}/fp8_steps")
        yield onnx.helper.make_node("QuantizeLinear", [name, *parameters], [rounded], name=rounded)
        yield onnx.helper.make_node("DequantizeLinear", [rounded, *parameters], [output], name=output)

    def _stored(self, name: str, weight: NDArray[Any], key: tuple[str, int | None]) -> Iterator[onnx.NodeProto]:
        """Stores a weight in FP8 and dequantizes it."""
        import numpy as np
        import onnx

        axis, output = key[1], self._done[key]
        others = tuple(place for place in range(weight.ndim) if place != axis)
        largest = np.abs(weight).max(axis=others, keepdims=True, initial=0)
        scale = np.where(largest, largest / np.float32(_LARGEST), 1).astype(np.float32)
        steps = (weight / scale).clip(-_LARGEST, _LARGEST).astype(_fp8())
        shaped = scale.reshape(() if axis is None else -1)
        parameters = [
            self._surgery.add_constant(f"{name}/fp8_steps", steps),
            self._surgery.add_constant(f"{name}/fp8_scale", shaped),
            self._zero(shaped.size if shaped.ndim else 0),
        ]
        attributes: dict[str, Any] = {} if axis is None else {"axis": axis}
        yield onnx.helper.make_node("DequantizeLinear", parameters, [output], name=output, **attributes)

    def _zero(self, size: int) -> str:
        """A zero point of that many numbers, 0 for a lone one: it is what tells QuantizeLinear the type."""
        import numpy as np

        if size not in self._zeros:
            self._zeros[size] = self._surgery.add_constant("fp8_zero", np.zeros(size or (), _fp8()))
        return self._zeros[size]


def _fp8() -> Any:
    import onnx

    return onnx.helper.tensor_dtype_to_np_dtype(onnx.TensorProto.FLOAT8E4M3FN)


def _channel(node: onnx.NodeProto, place: int, axes: int) -> int | None:
    """The axis of a weight that has one index for each output channel; None if it has no such axis."""
    if node.op_type == "Conv":
        return 0
    if axes < 2:
        return None
    turned = bool(attribute(node, "transB" if place else "transA", 0))
    return axes - 2 if turned == bool(place) else axes - 1
