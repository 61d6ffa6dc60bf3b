"""ONNX's rules, as far as running a model needs them: what ONNX Runtime forgives is forgiven here as well."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.errors import ModelError
from workbench.model_file import all_tensors, bytes_of, shown

if TYPE_CHECKING:
    import onnx

_DEEPEST = 100  # functions calling functions; libraries follow them by recursion and crash at some depth
_MOST_NODES = 10**6  # after every function is put in place of its calls
_KEPT_BYTES = 1024  # constants up to this size keep their values for the checker
_UNKNOWN = "unknown to onnx"  # stands for the domain of operators that only runtimes know
_EQUATION = re.compile(rb"[A-Za-z,.>\s-]*")
_FORGIVEN = ("com.microsoft", _UNKNOWN)  # domains that need no import
# ONNX Runtime knows these in ONNX's own domain, some in opsets that lack them; its optimizer and old exporters
# write them.
_OF_RUNTIMES = {
    *("LayerNormalization", "SimplifiedLayerNormalization", "MeanVarianceNormalization", "ThresholdedRelu"),
    *("Affine", "Crop", "DynamicSlice", "GRUUnit", "GivenTensorFill", "ImageScaler", "ParametricSoftplus", "Scale"),
    *("ScaledTanh", "DisentangledAttention_TRT", "EfficientNMS_TRT", "MultilevelCropAndResize_TRT"),
    "PyramidROIAlign_TRT",
}


def check_rules(path: Path, proto: onnx.ModelProto) -> None:
    """Refuses a model that no runtime could run; `proto` loses its weights and is not fit for use afterwards.

    Raises:
        ModelError: It is newer than this program, breaks ONNX's rules, or would take unlimited time or memory.
    """
    import onnx

    _check_versions(path, proto)
    _check_functions(path, proto)
    _check_equations(path, proto)
    _make_checkable(proto)
    try:
        onnx.checker.check_model(proto)
    except (onnx.checker.ValidationError, RuntimeError, ValueError) as error:
        reason = shown_reason(str(error))
        raise ModelError(
            f"{path} breaks the rules of ONNX: {reason}.", "Export the model again, with another opset if need be."
        ) from None


def shown_reason(text: str) -> str:
    """The words of a library's error, on one line and not endless."""
    return "".join(letter for letter in " ".join(text.split())[:400] if letter.isprintable()).rstrip(".")


def _check_versions(path: Path, proto: onnx.ModelProto) -> None:
    import onnx

    for what, version, newest in (
        ("IR version", proto.ir_version, onnx.IR_VERSION),
        ("opset", default_opset(proto), onnx.defs.onnx_opset_version()),
    ):
        if version > newest:
            raise ModelError(
                f"{path} has ONNX {what} {version}; onnx {onnx.__version__} knows them up to {newest}.",
                f"Export the model with {what} {newest} or older, or update onnx and onnxruntime.",
            )
    if not proto.ir_version or not proto.opset_import:
        missing = "an operator set" if proto.ir_version else "its IR version"
        raise ModelError(f"{path} does not name {missing}.", "Export the model again: the file is damaged.")


def default_opset(proto: onnx.ModelProto) -> int:
    """Version of ONNX's own operators; 0 if the file does not say it."""
    return next((entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")), 0)


def _check_functions(path: Path, proto: onnx.ModelProto) -> None:
    """A few functions that call each other can stand for endless many nodes."""
    bodies = {(f.domain, f.name): f.node for f in proto.functions}

    @cache
    def size_of(key: tuple[str, str], depth: int) -> float:
        return math.inf if depth > _DEEPEST else size(bodies[key], depth)

    def size(nodes: Iterable[onnx.NodeProto], depth: int) -> float:
        total = 0.0
        for node in with_inner(nodes):
            key = (node.domain, node.op_type)
            total += size_of(key, depth + 1) if key in bodies else 1
            if total > _MOST_NODES:
                return math.inf
        return total

    if size(proto.graph.node, 0) > _MOST_NODES:
        raise ModelError(
            f"{path} has functions that call each other in a circle, more than {_DEEPEST} deep, or so often that "
            f"they stand for more than {_MOST_NODES:,} nodes.",
            "Export the model again without functions (inlined).",
        )


def _check_equations(path: Path, proto: onnx.ModelProto) -> None:
    """ONNX's shape inference never ends on an equation with other letters (onnx 1.23)."""
    for node in with_inner(node for nodes in (proto.graph.node, *(f.node for f in proto.functions)) for node in nodes):
        for attribute in node.attribute if node.op_type == "Einsum" else ():
            if not _EQUATION.fullmatch(attribute.s):
                raise ModelError(
                    f"{path} has an Einsum with the equation '{shown(attribute.s.decode(errors='replace'))}'.",
                    "Export the model again: only letters, commas, dots and -> can stand there.",
                )


def with_inner(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """Nodes, each followed by those of its subgraphs."""
    for node in nodes:
        yield node
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                yield from with_inner(graph.node)


# --- what runtimes forgive -----------------------------------------------------------------------------------------


def _make_checkable(proto: onnx.ModelProto) -> None:
    """Mends what ONNX's checker refuses though ONNX Runtime runs it, and drops weights, which it need not copy."""
    proto.ir_version = max(proto.ir_version, 4)  # earlier ones list initializers as inputs, which exporters forget
    proto.graph.name = proto.graph.name or "graph"
    for entry in proto.opset_import:
        entry.domain = "" if entry.domain == "ai.onnx" else entry.domain
    for value in (*proto.graph.input, *proto.graph.output):
        _complete_type(value)
    for tensor in all_tensors(proto):
        _drop_values(tensor)
    _mend_nodes(proto)


def _complete_type(value: onnx.ValueInfoProto) -> None:
    """Runtimes infer what an output is; the checker wants it said, but does not compare."""
    import onnx

    if value.type.WhichOneof("value") is None:
        value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    if value.type.HasField("tensor_type"):
        value.type.tensor_type.shape.SetInParent()


def _drop_values(tensor: onnx.TensorProto) -> None:
    if tensor.data_location != tensor.EXTERNAL and not (tensor.HasField("raw_data") and bytes_of(tensor) > _KEPT_BYTES):
        return
    for part in ("raw_data", "data_location", "external_data"):
        tensor.ClearField(part)
    del tensor.dims[:]
    tensor.dims.append(0)


def _mend_nodes(proto: onnx.ModelProto) -> None:
    """Operators of domains that are not imported, or that only runtimes know, are theirs to judge."""
    scopes = [(proto.graph.node, proto.opset_import)]
    scopes += [(function.node, function.opset_import) for function in proto.functions]
    for nodes, imports in scopes:
        opset = next((entry.version for entry in imports if entry.domain in ("", "ai.onnx")), 0)
        imported = {entry.domain for entry in imports}
        for node in with_inner(nodes):
            if node.domain == "ai.onnx":
                node.domain = ""
            if node.op_type in _OF_RUNTIMES and not node.domain and not _knows(node.op_type, opset):
                node.domain = _UNKNOWN
            if node.domain.startswith(_FORGIVEN) and node.domain not in imported:
                imported.add(node.domain)
                imports.add(domain=node.domain, version=1)


def _knows(operator: str, opset: int) -> bool:
    import onnx

    try:
        onnx.defs.get_schema(operator, opset, "")
    except onnx.defs.SchemaError:
        return False
    return True
