"""What is known of a build before it is begun: the model's precision, what a target lacks, what is refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from workbench.backends._tensorrt_listener import make_log
from workbench.backends._tensorrt_options import Options, device_of, option_faults, resolve
from workbench.backends._tensorrt_package import Package, has_gpu
from workbench.backends._tensorrt_profiles import resolve_profiles
from workbench.engine import BuildCheck
from workbench.errors import OptionsError
from workbench.graph import GraphSummary, NodeSummary, summarize_graph
from workbench.graph.cost import PRODUCTS
from workbench.model import Model
from workbench.skeleton import read_skeleton

_LISTED = 3
_NAMES = {"int8": "INT8", "float8_e4m3fn": "FP8", "int4": "INT4", "float4_e2m1fn": "FP4", "bfloat16": "BF16"}
# All below was measured with TensorRT-RTX 1.7.1: each pair was built (tests/backends/test_tensorrt_targets.py).
_LACKING = {
    "bfloat16": ("SM75",),
    "int4": ("SM75",),
    "float8_e4m3fn": ("SM75", "SM80", "SM86"),
    "float4_e2m1fn": ("SM75", "SM80", "SM86", "SM89"),
}
_TURING = "SM75"
_MATRICES = ("MatMul", "Gemm", "Einsum", "LSTM", "GRU", "RNN")  # Turing has none of them in float32
_KINDS = {"Conv": "convolution", "ConvTranspose": "transposed convolution", "MatMul": "matrix product"}


def find_checks(model: Model, options: Options, package: Package) -> Iterator[BuildCheck]:
    """Looks at the options, the machine, the profiles and the model, in this order.

    Args:
        model: What would be built.
        options: As the user gave them.
        package: What would build.
    """
    yield from option_faults(options, package)
    yield from _check_machine(options, package)
    try:
        profiles = resolve_profiles(model, options)
        if profiles:
            yield BuildCheck("ok", f"Profile{'s' if len(profiles) > 1 else ''}: {' | '.join(map(str, profiles))}.")
    except OptionsError as error:
        yield BuildCheck("refused", error.message, error.remedy)
    summary = summarize_graph(model)
    yield _check_precision(model, summary)
    if package.targets:
        yield from _check_targets(summary, resolve(options, package).targets)
    yield from _check_operators(summary, package)
    yield from _check_quantization(model, summary)


def silent_fault(model: Model) -> BuildCheck | None:
    """What TensorRT would build without a word, to a plan that computes something else."""
    unsigned = [
        node.name
        for node in summarize_graph(model).nodes
        if node.operator == "QuantizeLinear" and node.outputs[0].dtype == "uint8"
    ]
    if not unsigned:
        return None
    return BuildCheck(
        "refused",
        f"{model.name} quantizes to unsigned integers ({_some(unsigned)}); TensorRT refuses these, or takes them for "
        "signed and cuts off the upper half.",
        "Quantize for it: quantize_static with target 'tensorrt'.",
    )


def _check_machine(options: Options, package: Package) -> Iterator[BuildCheck]:
    device = device_of(resolve(options, package))
    chosen = "" if options.targets else ", as no target is given"
    if has_gpu():
        yield BuildCheck("ok", f"{package.title} builds for {device}{chosen}.")
    elif not package.targets:
        yield BuildCheck(
            "refused",
            f"{package.title} builds for the GPU that is here, and there is none.",
            "Build on a machine with an NVIDIA GPU, or with tensorrt_rtx, which needs none.",
        )
    else:
        yield BuildCheck(
            "doubt",
            f"{package.title} builds for {device}{chosen}, but without an NVIDIA GPU the plan cannot be run or timed.",
            "Take the plan to a machine with a GPU of its target.",
        )
        if options.refittable:
            yield BuildCheck(
                "refused",
                "A refittable plan takes a GPU to build, and there is none here.",
                "Leave 'refittable' out, or build where there is a GPU.",
            )


def _check_precision(model: Model, summary: GraphSummary) -> BuildCheck:
    """What the products compute in, as the model says it."""
    counted = Counter((node.precision, _KINDS.get(node.operator, "matrix product")) for node in _products(summary))
    parts: dict[str, list[str]] = {}
    for (precision, kind), number in counted.items():
        parts.setdefault(precision, []).append(f"{number} {kind}{'s' if number > 1 else ''}")
    told = "; ".join(f"{_name(precision)} in {' and '.join(kinds)}" for precision, kinds in parts.items())
    stored = [_name(dtype) for dtype in summary.weight_bytes if dtype in ("int4", "float4_e2m1fn")]
    weights = f"; weights stored in {' and '.join(stored)}" if stored else ""
    if not told:
        return BuildCheck("ok", f"{model.name} has no convolutions and no matrix products.")
    return BuildCheck("ok", f"{model.name} computes in {told}{weights}.")


def _check_targets(summary: GraphSummary, targets: Sequence[str]) -> Iterator[BuildCheck]:
    types = {spec.dtype for node in summary.nodes for spec in node.outputs} | set(summary.weight_bytes)
    for dtype, lacking in _LACKING.items():
        if dtype in types and (found := [target for target in targets if target in lacking]):
            yield BuildCheck(
                "refused",
                f"{' and '.join(found)} has no {_name(dtype)}, which the model uses.",
                "Choose other targets, or a model in another precision.",
            )
    transposed = [node for node in summary.nodes if node.operator == "ConvTranspose"]
    if halves := [node.name for node in transposed if node.precision == "bfloat16"]:
        yield BuildCheck(
            "refused",
            f"TensorRT-RTX has no transposed convolutions in BF16 ({_some(halves)}).",
            "Use float16 for the model.",
        )
    if floats := [node.name for node in transposed if node.precision in ("int8", "float8_e4m3fn")]:
        yield BuildCheck(
            "doubt",
            f"Transposed convolutions are computed in float although Q/DQ nodes are around them ({_some(floats)}).",
            "Leave them out of the quantization: rounding their inputs gains nothing.",
        )
    if _TURING in targets:
        yield from _check_turing(summary)


def _check_turing(summary: GraphSummary) -> Iterator[BuildCheck]:
    single = [node for node in summary.nodes if node.outputs and node.outputs[0].dtype == "float32"]
    products = [node.name for node in single if node.operator in _MATRICES]
    deep = [node.name for node in single if node.operator == "Conv" and len(node.outputs[0].shape) == 5]
    for what, names in (("matrix products", products), ("3D convolutions", deep)):
        if names:
            yield BuildCheck(
                "refused",
                f"SM75 has no {what} in float32, not even quantized ones ({_some(names)}).",
                "Cast the model to float16 first, or choose another target.",
            )
    integers = [node.name for node in summary.nodes if node.operator == "Conv" and node.precision == "int8"]
    if integers:
        yield BuildCheck(
            "doubt",
            f"SM75 computes convolutions between Q/DQ nodes in float ({_some(integers)}): they gain nothing there.",
            "Build the float16 model for it.",
        )


def _check_operators(summary: GraphSummary, package: Package) -> Iterator[BuildCheck]:
    """Operators that the parser does not know; it finds more when it reads the whole model."""
    if not package.targets and not has_gpu():
        return  # it takes a GPU even to ask
    trt = package.module
    log = make_log(trt, lambda severity, text: None)
    parser = trt.OnnxParser(trt.Builder(log).create_network(package.network_flags()), log)
    if unknown := [name for name in summary.operators if not parser.supports_operator(name.rpartition(":")[2])]:
        yield BuildCheck(
            "refused",
            f"{package.title} has no operator {_some(unknown)}.",
            "Export the model with other operators, or use another backend.",
        )
    packed = [node.name for node in summary.nodes if node.operator == "com.microsoft:MatMulNBits"]
    if packed and any(spec.dtype == "float32" for node in _named(summary, packed) for spec in node.outputs):
        yield BuildCheck(
            "refused",
            f"TensorRT multiplies packed weights (MatMulNBits) with float16 only, and here it is float32 "
            f"({_some(packed)}).",
            "Quantize weights with the form 'qdq', or cast the model to float16.",
        )


def _check_quantization(model: Model, summary: GraphSummary) -> Iterator[BuildCheck]:
    """Q/DQ nodes that the parser refuses, or takes for others."""
    if fault := silent_fault(model):
        yield fault
    types = _types(model, summary)
    restored = [node for node in summary.nodes if node.operator == "DequantizeLinear" and node.inputs]
    if biases := [node.name for node in restored if types.get(node.inputs[0]) == "int32"]:
        yield BuildCheck(
            "refused",
            f"Biases are quantized to INT32 ({_some(biases)}), which TensorRT does not take.",
            "Keep biases in float: quantize_static with target 'tensorrt'.",
        )
    if unsigned := [node.name for node in restored if types.get(node.inputs[0]) in ("uint8", "uint16", "int16")]:
        if not fault:
            yield BuildCheck(
                "refused",
                f"Values are dequantized from a type that TensorRT does not take ({_some(unsigned)}).",
                "Quantize for it: quantize_static with target 'tensorrt'.",
            )
    elif shifted := _shifted(model):
        yield BuildCheck(
            "refused",
            f"Zero points are not zero ({_some(shifted)}): TensorRT takes symmetric ranges only.",
            "Quantize for it: quantize_static with target 'tensorrt'.",
        )
    if "float64" in types.values():
        yield BuildCheck(
            "doubt", "TensorRT computes what is float64 in float32.", "Compare the outputs with those of the original."
        )


def _types(model: Model, summary: GraphSummary) -> dict[str, str]:
    """Element type of each input, weight and result, by name."""
    from workbench.graph.shapes import type_name

    made = {spec.name: spec.dtype for node in summary.nodes for spec in node.outputs}
    weights = {tensor.name: type_name(tensor.data_type) for tensor in read_skeleton(model.path).graph.initializer}
    return {**made, **weights, **{spec.name: spec.dtype for spec in model.inputs}}


def _shifted(model: Model) -> list[str]:
    """Quantizing nodes whose zero point is a constant other than zero."""
    import onnx

    graph = read_skeleton(model.path).graph
    points = {tensor.name: tensor for tensor in graph.initializer if tensor.data_location != onnx.TensorProto.EXTERNAL}
    return [
        node.name
        for node in graph.node
        if node.op_type in ("QuantizeLinear", "DequantizeLinear")
        and len(node.input) > 2
        and (point := points.get(node.input[2])) is not None
        and onnx.numpy_helper.to_array(point).astype("float32").any()
    ]


def _named(summary: GraphSummary, names: Sequence[str]) -> list[NodeSummary]:
    return [node for node in summary.nodes if node.name in names]


def _products(summary: GraphSummary) -> list[NodeSummary]:
    return [node for node in summary.nodes if node.operator in PRODUCTS]


def _name(dtype: str) -> str:
    return _NAMES.get(dtype, dtype or "an unknown type")


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return f"{', '.join(map(repr, names[:_LISTED]))}{more}"
